//! GGUF files.
mod value;

pub use value::{Metadata, Value};
