//! Optimisers and learning rates.

mod adamw;
mod arena;
mod groups;
mod scale;
pub mod schedule;

pub use adamw::AdamW;
pub use arena::{Block, arena};
pub use groups::{Group, PerGroup, Rates, Training};
pub use scale::LossScale;
