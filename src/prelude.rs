//! What a program that fine-tunes needs: `use rugosa::prelude::*`.

pub use crate::adapters::targets::{TargetModules, TargetRules, select};
pub use crate::adapters::{AdapterSet, MaskCollector, module_shapes};
pub use crate::csr::CsrPattern;
pub use crate::data::{Batch, BatchOptions, DataOptions, Dataset, Tokenizer};
pub use crate::device::{Device, DeviceOptions, Precision};
pub use crate::error::{Error, Result};
pub use crate::generate::{Request, Sampling, generate};
pub use crate::io::adapter::{AdapterConfig, AdapterFolder, AdapterKind};
pub use crate::io::checkpoint::Checkpoint;
pub use crate::nn::Decoder;
pub use crate::nn::loader::{LoadOptions, load};
pub use crate::optim::schedule::LrSchedule;
pub use crate::optim::{AdamW, Group, Rates, Training};
pub use crate::rng::Rng;
pub use crate::train::config::{LossNormalisation, Method, PartialConfig, TrainConfig};
pub use crate::train::step::{StepOutcome, Stepper, Turn};
pub use crate::train::{Lines, Observer, Outcome, Session, Trained};
