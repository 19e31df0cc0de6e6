//! Generation: prefill, then token by token through a key-value cache.

mod cache;
mod run;
mod sampler;

pub use run::{Flow, Request, generate};
pub use sampler::{Sampler, Sampling};
