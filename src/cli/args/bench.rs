//! `rugosa bench`.

use super::{DeviceArgs, at_least};
use crate::bench::step::Adapter;
use crate::cases::MaskKind;
use crate::dtype::DType;
use crate::train::config::{Checkpointing, PrecisionOption, TUNE_SECONDS, tune_seconds};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Measurements of one thing, at most.
const MOST_TIMES: usize = 1_000_000;

/// `rugosa bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: Bench,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Time whole training steps of model shapes with random weights
    ///
    /// Lists (a,b) measure each combination, each on a freshly opened device.
    Step(Box<BenchStepArgs>),
    /// Time each kernel at the sizes of models, beside what the device can do at best
    Kernels(Box<BenchKernelsArgs>),
}

/// Formats of the frozen weights, as they lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightsOption {
    F32,
    F16,
    Bf16,
    /// 8 bits, as Q8_0
    Q8,
    /// 4 bits, as Q4_1; embedding and head in q8
    Q4,
    /// 4 bits, as Q4_K; embedding and head in q8
    #[value(name = "q4_k")]
    Q4K,
    /// 4 bits, as NF4 with double quantisation; embedding and head in q8
    Nf4,
}

impl WeightsOption {
    pub fn dtype(self) -> DType {
        match self {
            WeightsOption::F32 => DType::F32,
            WeightsOption::F16 => DType::F16,
            WeightsOption::Bf16 => DType::BF16,
            WeightsOption::Q8 => DType::Q8_0,
            WeightsOption::Q4 => DType::Q4_1,
            WeightsOption::Q4K => DType::Q4_K,
            WeightsOption::Nf4 => DType::NF4_DOUBLE,
        }
    }
}

/// `rugosa bench step`.
#[derive(Debug, Args)]
pub struct BenchStepArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Shapes: smollm2-135m, llama3.2-1b, llama2-7b, qwen3-0.6b, olmo2-1b, glm4-9b, tiny
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "tiny")]
    pub shape: Vec<String>,
    /// What trains
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lora,rosa")]
    pub method: Vec<Adapter>,
    /// Formats of the frozen weights
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bf16")]
    pub weights: Vec<WeightsOption>,
    /// What the operands of products are rounded to
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32")]
    pub precision: Vec<PrecisionOption>,
    /// Sequences a step
    #[arg(long, value_name = "ROWS", default_value_t = 8, value_parser = at_least::<1>)]
    pub batch_size: usize,
    /// Tokens of each
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = at_least::<2>)]
    pub seq_len: usize,
    /// Rank of A and B
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = at_least::<1>)]
    pub rank: usize,
    /// Their rank with --method lora, where it is another
    #[arg(long, value_name = "R", value_parser = at_least::<1>)]
    pub lora_rank: Option<usize>,
    /// Share of each matrix's entries in its mask
    #[arg(long, value_name = "D", default_value_t = 0.01, value_parser = density)]
    pub density: f64,
    /// Where the entries of masks lie
    #[arg(long, value_enum, default_value = "uniform")]
    pub mask: MaskKind,
    /// Keep all activations (off), only each layer's input (layer), or that of every Nth (N)
    #[arg(long, value_name = "off|layer|N,…", value_delimiter = ',', default_value = "off")]
    pub checkpointing: Vec<Checkpointing>,
    /// Steps that are measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = times)]
    pub steps: usize,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = times)]
    pub warmup: usize,
    /// Time each kernel too, where the device has timestamps
    #[arg(long)]
    pub profile: bool,
    /// Measure which tiles are the fastest for the step's products first, for SECONDS at most [default: 20]; see `rugosa train`
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = TUNE_SECONDS, value_parser = tune)]
    pub tune: Option<f64>,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `rugosa bench kernels`.
#[derive(Debug, Args)]
pub struct BenchKernelsArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Shapes whose layers are measured [default: smollm2-135m, on a GPU llama2-7b too]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub shape: Vec<String>,
    /// Tokens that go through a layer at once [default: 4096, on a software renderer 256]
    #[arg(long, value_name = "TOKENS", value_parser = at_least::<1>)]
    pub tokens: Option<usize>,
    /// Formats of the frozen weights
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bf16,q4")]
    pub weights: Vec<WeightsOption>,
    /// What the operands of products are rounded to
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,f16")]
    pub precision: Vec<PrecisionOption>,
    /// Rank of low-rank parts
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = at_least::<1>)]
    pub rank: usize,
    /// Share of each matrix's entries in its mask
    #[arg(long, value_name = "D", default_value_t = 0.01, value_parser = density)]
    pub density: f64,
    /// Only rows whose name holds one of these
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',')]
    pub filter: Vec<String>,
    /// Times that each row is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = times)]
    pub repeats: usize,
    /// Print how each row would be computed on this device, and measure nothing
    #[arg(long, conflicts_with = "json")]
    pub plan: bool,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Where JSON goes.
#[derive(Clone, Debug, Args)]
pub struct JsonArgs {
    /// Write one JSON object to FILE beside the table, or print it instead of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
}

/// How often something is measured.
fn times(text: &str) -> Result<usize, String> {
    at_least::<1>(text).and_then(|n| if n <= MOST_TIMES { Ok(n) } else { Err(format!("must be at most {MOST_TIMES}")) })
}

fn tune(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s| tune_seconds(*s));
    seconds.ok_or_else(|| "expected seconds over 0, at most 3600".into())
}

fn density(text: &str) -> Result<f64, String> {
    let d = text.parse().ok().filter(|d: &f64| *d > 0.0 && *d <= 1.0);
    d.ok_or_else(|| "expected a number over 0, at most 1".into())
}
