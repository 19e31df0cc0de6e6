//! Optimisers and learning rates.
pub mod schedule;
