//! Optimisers and learning rates.

mod adamw;
mod arena;
pub mod schedule;

pub use adamw::{AdamW, Rates};
pub use arena::{Block, Group, arena};
