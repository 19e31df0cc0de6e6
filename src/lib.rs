//! `rugosa` fine-tunes language models with RoSA on any GPU that wgpu reaches. See `ARCHITECTURE.md` for the house.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod csr;
pub mod dtype;
pub mod env;
pub mod error;
pub mod near;
pub mod rng;
pub mod shown;

pub mod adapters;
pub mod autograd;
pub mod bench;
pub mod cases;
pub mod cli;
pub mod data;
pub mod device;
pub mod generate;
pub mod io;
pub mod kernels;
pub mod nn;
pub mod optim;
pub mod quant;
pub mod tensor;
pub mod train;
