//! GGUF files, versions 2 and 3.
//!
//! Layout: magic, version, tensor count, pair count, the key-value pairs, the tensor infos, padding, the tensors.
mod cursor;
mod file;
mod types;
mod value;
mod write;

pub use file::{GgufFile, GgufTensor};
pub use types::{ggml_type_name, supported_types};
pub use value::{Metadata, Value};
pub use write::{GgufEntry, gguf_bytes, stream_gguf, write_gguf};

/// The first four bytes of every GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Bytes that tensors are aligned to unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;
/// Most tensors, and most pairs of metadata.
const MAX_COUNT: usize = 1 << 17;

#[cfg(test)]
mod tests;
