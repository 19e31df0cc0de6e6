//! Models written anew: adapters added to the weights, and weights in other formats, as a folder or a GGUF file.
//!
//! [`Source`] is a model with the adapters that go into it, [`write`] writes it, one tensor in memory at a time. [`compare()`] says
//! what the rounding cost.

mod combine;
pub mod compare;
mod folder;
mod gguf;
mod modelfile;
mod source;
#[cfg(test)]
mod tests;
mod types;

pub use combine::combine;
pub use compare::{Comparison, compare};
pub use modelfile::write_modelfile;
pub use source::{Source, Weighted};
pub use types::OutType;

use crate::dtype::DType;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Matrices of each format.
    pub matrices: BTreeMap<DType, usize>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// What a user should know, a line each.
    pub notes: Vec<String>,
}

impl Written {
    /// In a line.
    pub fn summary(&self) -> String {
        let formats: Vec<String> = self.matrices.iter().map(|(dtype, n)| format!("{n} {dtype}")).collect();
        format!("{:.1} MB, matrices: {}", self.bytes as f64 / 1e6, formats.join(", "))
    }
}

/// Writes `source` to `out`, which must not be there: a GGUF file where its name ends in .gguf, else a folder, whose files have at
/// most `shard_bytes` bytes. Without a type what is stored stays as it is, where `out` can hold it. `go_on` is asked before each tensor.
///
/// # Errors
/// [`Error::Interrupted`] where it says no, and nothing is left behind; [`Error::File`] where `out` is there or the disk has no room, [`Error::Invalid`] where a tensor cannot be of the type; those of
/// reading and writing.
pub fn write(
    source: &Source,
    out: &Path,
    to: Option<OutType>,
    shard_bytes: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Written> {
    crate::io::write::refuse_existing(out)?;
    source.refuse_repeated()?;
    if is_gguf(out) {
        gguf::write(source, out, to.unwrap_or(OutType::Same), go_on)
    } else {
        folder::write(source, out, to, shard_bytes, go_on)
    }
}

/// Whether a path is that of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Nothing, unless the user asked to stop.
fn asked(go_on: &dyn Fn() -> bool) -> Result<()> {
    if go_on() { Ok(()) } else { Err(Error::Interrupted) }
}

/// The error of a tensor that cannot be of a format.
fn no_blocks(name: &str, cols: usize, dtype: DType) -> Error {
    let reason = format!(
        "{name} has rows of {cols}, no whole number of {dtype} blocks of {}; choose a type that holds them: q8_0 (blocks of 32), \
         bf16 or f16",
        dtype.block_elements()
    );
    Error::option("type", reason)
}
