//! Training runs: configuration, phases, steps, and what they leave behind.

pub mod config;
mod full;
pub mod metrics;
pub mod output;
pub mod phase;
pub mod session;
mod step;

pub use session::{Observer, Outcome, Session};
