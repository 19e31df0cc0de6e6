//! Models: one decoder driven by its configuration, with adapters attached from outside by module name.

pub mod attention;
pub mod decoder;
pub mod linear;
pub mod loader;
pub mod models;

pub use attention::{Attention, Cached, Pass};
pub use decoder::{Decoder, Input, Layer};
pub use linear::Linear;
