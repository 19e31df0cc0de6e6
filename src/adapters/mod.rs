//! Adapters, attached to a model from outside by module path.
pub mod targets;
