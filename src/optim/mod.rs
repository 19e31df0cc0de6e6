//! Optimisers and learning rates.

mod adamw;
mod arena;
mod scale;
pub mod schedule;

pub use adamw::{AdamW, Rates};
pub use arena::{Block, Group, arena};
pub use scale::LossScale;
