//! Speeds: whole training steps of named model shapes with random weights, through the code that trains.

#[cfg(test)]
mod covered;
pub mod kernels;
pub mod profile;
mod random;
pub mod report;
pub mod shapes;
mod stats;
pub mod step;

pub use stats::Spread;
