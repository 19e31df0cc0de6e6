//! Files: bytes in and out, no device.
pub mod atomic;
pub mod gguf;
