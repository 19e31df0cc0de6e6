//! `rugosa` fine-tunes language models with RoSA (a low-rank and a sparse adapter over frozen, possibly quantised weights) on any
//! GPU that wgpu reaches: Vulkan, Metal, DX12, or a software renderer.
//!
//! - [`train::Session`] is a whole run, as `rugosa train` does it: a [`train::config::TrainConfig`] in, an adapter folder out,
//!   and the [`train::Trained`] model, which generates and is evaluated as it lies on the device.
//! - [`train::step::Stepper`] is one optimiser step, for a loop of one's own; [`adapters::AdapterSet`] holds what trains and is
//!   attached to a [`nn::Decoder`].
//! - [`generate::generate`] continues prompts; [`io`] reads and writes files; [`kernels`] are the products below all that.
//!
//! ```no_run
//! use rugosa::prelude::*;
//!
//! # fn main() -> Result<()> {
//! let device = Device::open(&DeviceOptions::from_env(None))?;
//! let checkpoint = Checkpoint::open("model".as_ref())?;
//! let model = load(&device, &checkpoint, LoadOptions { trainable: false, stacked: true, positions: 512 })?;
//! let rules = TargetRules { rank: 8, alpha: 16.0, ..TargetRules::default() };
//! let mut adapters = AdapterSet::new(&device, select(&module_shapes(&model), &rules)?, 0.0)?;
//! adapters.initialise(0, None)?;
//! adapters.attach(&model, Training::only([Group::LowRank]), None)?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/finetune.rs` is a run, `examples/custom_loop.rs` a loop of one's own, `examples/own_adapter.rs` one with masks of one's own.
//! Without the feature `cli`, which the program needs, there is no command line below. See `ARCHITECTURE.md` for the house.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod csr;
pub mod dtype;
pub mod env;
pub mod error;
pub mod evaluate;
pub mod near;
pub mod rng;
pub mod shown;

pub mod adapters;
pub mod autograd;
pub mod bench;
pub mod cases;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod device;
pub mod dist;
pub mod generate;
pub mod io;
pub mod kernels;
pub mod merge;
pub mod nn;
pub mod optim;
pub mod prelude;
pub mod quant;
pub mod report;
pub mod tensor;
pub mod train;
