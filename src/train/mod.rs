//! Training runs.
pub mod config;
pub mod metrics;
pub mod phase;
