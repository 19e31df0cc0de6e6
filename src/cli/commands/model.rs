//! What `eval` and `generate` start from: a model on a device, with an adapter on it.

use crate::adapters::{AdapterSet, Training, module_shapes};
use crate::cli::args::ModelArgs;
use crate::data::Tokenizer;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::io::adapter::AdapterFolder;
use crate::io::checkpoint::Checkpoint;
use crate::nn::Decoder;
use crate::nn::loader::{LoadOptions, load};

/// A model that is ready to run.
pub struct Ready {
    pub device: Device,
    pub model: Decoder,
    pub tokenizer: Option<Tokenizer>,
}

impl Ready {
    /// Opens the model for sequences of up to `positions` tokens, or as many as it takes.
    pub fn open(args: &ModelArgs, positions: usize) -> Result<Ready> {
        let checkpoint = Checkpoint::open(&args.model)?;
        let tokenizer = Tokenizer::of_model(&checkpoint)?;
        let device = Device::open(&DeviceOptions::from_env(args.device.device.clone()))?;
        device.load_tiles();
        let positions = positions.min(checkpoint.config.max_position_embeddings);
        let model = load(&device, &checkpoint, LoadOptions { trainable: false, stacked: true, positions })?;
        if let Some(folder) = &args.adapter {
            let shapes = module_shapes(&model);
            let shape_of = |name: &str| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features));
            let set = AdapterSet::from_folder(&device, &model, &AdapterFolder::read(folder, shape_of)?)?;
            set.attach(&model, Training { low_rank: false, sparse: false }, None)?;
        }
        Ok(Ready { device, model, tokenizer })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::File`] if the model has none.
    pub fn tokenizer(&self, args: &ModelArgs) -> Result<&Tokenizer> {
        let missing = || Error::file(&args.model, "tokenizer.json", "is missing; text needs the model's tokenizer");
        self.tokenizer.as_ref().ok_or_else(missing)
    }

    /// Tokens that end an answer.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let mut stop = self.model.config.eos_token_ids.clone();
        if let Some(t) = &self.tokenizer {
            stop.extend(t.end_of_turn());
        }
        stop.sort_unstable();
        stop.dedup();
        stop
    }
}
