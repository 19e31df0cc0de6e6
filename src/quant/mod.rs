//! Storage formats of weights: how f32 numbers are packed into them and come back, on the CPU. The tests' truth for the
//! shaders, and what exports use.
mod blocks;
pub mod halves;
pub mod int8;
pub mod nf4;
#[cfg(test)]
mod round_trips;

pub use blocks::{dequantise, quantise};
