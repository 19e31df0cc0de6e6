//! Models as folders and files: what is written is whole or not there, and no more than one tensor is in memory.
//!
//! GGUF files are written by [`stream_gguf`], folders by [`write_folder`]; both take what a tensor is from a list, and its bytes
//! when they are its turn.

mod companions;
mod folder;

pub use super::gguf::{GgufEntry, gguf_bytes, stream_gguf};
pub use super::safetensors::{OutEntry, stream_safetensors};
pub use companions::copy_companions;
pub(in crate::io) use folder::new_folder;
pub use folder::{SHARD_BYTES, refuse_existing, write_folder};
