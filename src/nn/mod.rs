//! Models: one decoder driven by its configuration, with adapters attached from outside by module name.

pub mod attention;
mod batch;
pub mod decoder;
pub mod elements;
pub mod linear;
pub mod loader;
pub mod mlp;
pub mod models;
mod rope;
pub mod short_conv;

pub use attention::{Attention, Cached, Pass, Qkv, Sight};
pub use batch::{DeviceBatch, upload_all};
pub use decoder::{Decoder, Input, Layer, Mixer};
pub use linear::{Linear, Module};
pub use mlp::{GateUp, Mlp};
pub use rope::Rope;
pub use short_conv::ShortConv;
