//! Adapters, attached to a model from outside by module path.

mod density;
mod mask;
mod set;
pub mod targets;

pub use density::densities;
pub use mask::{Lost, MaskCollector, Scope, score_groups};
pub use set::{AdapterSet, module_shapes};
