//! Adapters, attached to a model from outside by module path.

mod mask;
mod set;
pub mod targets;

pub use mask::{Lost, MaskCollector};
pub use set::{AdapterSet, Training, module_shapes};
