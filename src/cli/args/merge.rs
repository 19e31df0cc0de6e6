//! The arguments of `rugosa merge` and `rugosa quantize`.

use super::{DeviceArgs, at_least};
use crate::io::write::SHARD_BYTES;
use crate::merge::OutType;
use crate::train::config::{ByteSize, PrecisionOption, default};
use clap::Args;
use std::path::{Path, PathBuf};

/// `rugosa merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The model that the adapter was trained on: a Hugging Face folder or a GGUF file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: PathBuf,
    /// The adapter; several are added up, each times the number behind its last colon
    #[arg(long = "adapter", value_name = "DIR[:WEIGHT]", required = true, value_parser = weighted)]
    pub adapters: Vec<(PathBuf, f64)>,
    /// What to write: a GGUF file where the name ends in .gguf, else a folder of safetensors; it must not be there
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub out: PathBuf,
    /// What the weights are rounded to, once: same (as they are stored), f32, f16, bf16; in GGUF files q8_0, q6_k, q5_k_m, q4_k_m,
    /// q4_0 and llama.cpp's other types, mixed as it mixes them; in folders nf4 and nf4-double [default: same]
    #[arg(long = "type", value_name = "TYPE")]
    pub to: Option<OutType>,
    /// Bytes of a file of a folder, at most
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(SHARD_BYTES), hide_default_value = true)]
    pub shard_size: ByteSize,
    /// Measure on these rows what the rounding cost: loss before (adapter on the model) and after (merged), and the divergence
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    pub data: Option<PathBuf>,
    /// Take only the first N rows
    #[arg(long, value_name = "N", requires = "data", value_parser = at_least::<1>, help_heading = "Measuring")]
    pub limit: Option<usize>,
    /// Tokens of a row, at most
    #[arg(long, value_name = "TOKENS", default_value_t = default::seq_len(), value_parser = at_least::<2>, help_heading = "Measuring")]
    pub seq_len: usize,
    /// Rows that are computed together
    #[arg(long, value_name = "ROWS", default_value_t = 4, value_parser = at_least::<1>, help_heading = "Measuring")]
    pub batch_size: usize,
    /// What the operands of products are rounded to
    #[arg(long, value_enum, default_value_t = PrecisionOption::F32, help_heading = "Measuring")]
    pub precision: PrecisionOption,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `rugosa quantize`.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The model: a Hugging Face folder or a GGUF file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: PathBuf,
    /// q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and llama.cpp's other types for a GGUF file, mixed as it mixes them; nf4 or nf4-double for a
    /// folder, in which embedding, head and norms stay; f32, f16, bf16 for either
    #[arg(long, value_name = "TYPE")]
    pub to: OutType,
    /// What to write: a GGUF file where the name ends in .gguf, else a folder of safetensors; it must not be there
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub out: PathBuf,
    /// Bytes of a file of a folder, at most
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(SHARD_BYTES), hide_default_value = true)]
    pub shard_size: ByteSize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// An adapter's folder, and the number behind its last colon.
fn weighted(text: &str) -> Result<(PathBuf, f64), String> {
    if Path::new(text).exists() {
        return Ok((text.into(), 1.0));
    }
    match text.rsplit_once(':') {
        Some((path, weight)) if !path.is_empty() => match weight.parse::<f64>() {
            Ok(w) if w.is_finite() => Ok((path.into(), w)),
            Ok(_) => Err(format!("{weight} is no finite number")),
            Err(_) => Ok((text.into(), 1.0)),
        },
        _ => Ok((text.into(), 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stand_behind_the_last_colon() {
        let of = |text: &str| weighted(text).map(|(p, w)| (p.display().to_string(), w));
        assert_eq!(of("a/b:0.7"), Ok(("a/b".into(), 0.7)));
        assert_eq!(of("a"), Ok(("a".into(), 1.0)));
        assert_eq!(of("a:-1"), Ok(("a".into(), -1.0)));
        assert_eq!(of("C:\\run"), Ok(("C:\\run".into(), 1.0)));
        assert!(of("a:inf").is_err());
    }
}
