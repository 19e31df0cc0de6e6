//! What `eval` and `generate` start from: a model on a device, with an adapter on it.

use crate::adapters::{AdapterSet, Training, module_shapes};
use crate::cases::startup;
use crate::cli::args::ModelArgs;
use crate::data::Tokenizer;
use crate::device::{Device, DeviceOptions, Precision};
use crate::error::{Error, Result};
use crate::evaluate::stop_tokens;
use crate::io::adapter::AdapterFolder;
use crate::io::checkpoint::Checkpoint;
use crate::io::config::ModelConfig;
use crate::kernels::precision;
use crate::nn::Decoder;
use crate::nn::loader::{LoadOptions, load, load_shapes};
use crate::train::config::PrecisionOption;
use crate::train::output;
use crate::train::warm::compile_while;
use std::path::Path;

/// Tokens that a rehearsal generates: the first comes out of the prompt's pass, later ones one by one.
pub const REHEARSED: usize = 2;

/// A model's files, read as far as their headers.
pub struct Source<'a> {
    args: &'a ModelArgs,
    checkpoint: Checkpoint,
    pub tokenizer: Option<Tokenizer>,
}

/// A model that is ready to run.
pub struct Ready {
    pub device: Device,
    pub model: Decoder,
    pub tokenizer: Option<Tokenizer>,
}

impl<'a> Source<'a> {
    pub fn open(args: &'a ModelArgs) -> Result<Self> {
        let checkpoint = Checkpoint::open(&args.model)?;
        checkpoint.notes.iter().for_each(|note| super::tell(note));
        Ok(Source { args, tokenizer: Tokenizer::of_model(&checkpoint)?, checkpoint })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::File`] if the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        required(self.tokenizer.as_ref(), self.args)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.checkpoint.config
    }

    /// Tokens that end an answer.
    ///
    /// # Errors
    /// As [`Ready::stop_tokens`].
    pub fn stop_tokens(&self) -> Result<Vec<u32>> {
        stop_tokens(self.config(), self.tokenizer.as_ref())
    }

    /// The model on a device, for sequences of up to `positions` tokens, or as many as it takes. `rehearse` does what is to be
    /// done, on a device that only counts: the kernels that it launches are compiled while the weights are read, and then proved.
    pub fn ready(self, positions: usize, rehearse: impl FnOnce(&Ready) -> Result<()>) -> Result<Ready> {
        let Source { args, checkpoint, tokenizer } = self;
        let device = Device::open(&DeviceOptions::from_env(args.device.device.clone()))?;
        device.load_tiles();
        if args.precision == PrecisionOption::F16 && precision::enable(&device)? == Precision::F32 {
            super::tell("this device has no matrix units that can be used; products run in f32");
        }
        let positions = positions.min(checkpoint.config.max_position_embeddings);
        let options = LoadOptions { trainable: false, stacked: true, positions };

        let counting = device.counting();
        let model = load_shapes(&counting, &checkpoint, options.clone())?;
        let adapter = args.adapter.as_ref().map(|folder| read_adapter(folder, &model)).transpose()?;
        adapter.as_ref().map_or(Ok(()), |adapter| attach(&counting, &model, adapter))?;
        counting.note_launches(true);
        // what goes wrong in a rehearsal goes wrong again where it counts
        let _ = rehearse(&Ready { device: counting.clone(), model, tokenizer: None });
        let kernels = counting.launched_kernels();

        let loading = || {
            let model = load(&device, &checkpoint, options)?;
            adapter.as_ref().map_or(Ok(()), |adapter| attach(&device, &model, adapter))?;
            Ok(model)
        };
        let (model, _) = compile_while(&device, &kernels, loading, &mut |_| {})?;
        startup::prove(&device, &kernels)?;
        Ok(Ready { device, model, tokenizer })
    }
}

fn required<'t>(tokenizer: Option<&'t Tokenizer>, args: &ModelArgs) -> Result<&'t Tokenizer> {
    tokenizer.ok_or_else(|| Error::file(&args.model, "tokenizer.json", "is missing; text needs the model's tokenizer"))
}

/// Reads an adapter for `model`, and says which where it is that of a run that goes on.
pub fn read_adapter(folder: &Path, model: &Decoder) -> Result<AdapterFolder> {
    let shapes = module_shapes(model);
    let shape_of = |name: &str| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features));
    let place = output::adapter_in(folder)?;
    place.note.iter().for_each(|note| super::tell(note));
    AdapterFolder::read(&place.folder, shape_of)
}

/// Puts an adapter on `model`, for use as it is.
pub fn attach(device: &Device, model: &Decoder, adapter: &AdapterFolder) -> Result<()> {
    let set = AdapterSet::from_folder(device, model, adapter)?;
    set.attach(model, Training { low_rank: false, sparse: false }, None)
}

impl Ready {
    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::File`] if the model has none.
    pub fn tokenizer(&self, args: &ModelArgs) -> Result<&Tokenizer> {
        required(self.tokenizer.as_ref(), args)
    }

    /// Tokens that end an answer.
    ///
    /// # Errors
    /// [`Error::File`] where there are some and the model can give none of them: no answer would ever end.
    pub fn stop_tokens(&self) -> Result<Vec<u32>> {
        stop_tokens(&self.model.config, self.tokenizer.as_ref())
    }
}
