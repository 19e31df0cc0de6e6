//! Files: bytes in and out, no device.
//!
//! Everything that comes from a file is checked against the file's size before anything is allocated or indexed by it.
pub mod adapter;
pub mod atomic;
mod cache;
pub mod checkpoint;
pub mod companions;
pub mod config;
pub mod digest;
pub mod disk;
pub mod finite;
mod fp8;
pub mod gguf;
pub mod hub;
pub mod kind;
mod map;
pub mod mask;
pub mod nf4;
pub mod safetensors;
pub mod write;

pub use cache::cache_folder;

// tensors are mapped and cast in place, and every format here is little-endian
#[cfg(target_endian = "big")]
compile_error!("rugosa reads little-endian files in place and has no big-endian port");
