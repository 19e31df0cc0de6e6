//! What a run leaves to the program that ran it.

use super::config::TrainConfig;
use super::output;
use super::session::Outcome;
use crate::adapters::AdapterSet;
use crate::adapters::targets::LinearShape;
use crate::data::Tokenizer;
use crate::device::Device;
use crate::error::Result;
use crate::io::adapter::AdapterFolder;
use crate::nn::Decoder;
use std::fmt;
use std::sync::Arc;

/// How a run ended, and the model that it trained, still on the device: it generates and is evaluated as it is.
pub struct Trained {
    pub outcome: Outcome,
    pub device: Device,
    /// With its adapters attached; nothing of it takes gradients until something else is attached. It has as many positions as
    /// the run needed: ⟨seq_len⟩, and those of the answers that it gave.
    pub model: Decoder,
    /// What was trained; none where that is the model itself.
    pub adapters: Option<AdapterSet>,
    /// The model's, where it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub(super) config: TrainConfig,
    /// All linears of the model.
    pub(super) shapes: Vec<LinearShape>,
}

impl Trained {
    /// The adapter as the run folder has it, to be written elsewhere or in another form. Waits for the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn adapter(&self) -> Result<Option<AdapterFolder>> {
        self.adapters.as_ref().map(|set| output::adapter_of(&self.config, set, &self.shapes)).transpose()
    }
}

impl fmt::Debug for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trained").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}
