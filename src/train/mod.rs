//! Training runs: configuration, phases, steps, and what they leave behind.

mod collect;
pub mod config;
mod diagnose;
pub mod estimate;
pub mod evaluation;
pub mod evaluator;
mod events;
pub mod folder;
mod full;
pub mod logs;
pub mod metrics;
mod notes;
mod observer;
pub mod output;
pub mod phase;
pub mod plan;
mod platform;
mod prepare;
mod ranks;
mod recover;
mod report;
mod resume;
pub mod session;
pub mod start;
mod state;
pub mod step;
mod steps;
pub mod summary;
mod trainable;
mod trained;
pub mod tune;
pub mod warm;

pub use full::{named_weights, trainable_weights};
pub use observer::{Lines, Observer};
pub use session::{Outcome, Session};
pub use trained::Trained;
