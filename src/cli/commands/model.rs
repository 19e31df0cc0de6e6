//! What `eval`, `generate` and `chat` start from: a model on a device, with an adapter on it.

use crate::adapters::{AdapterSet, module_shapes};
use crate::autograd::ops::Attachment;
use crate::cases::startup;
use crate::cli::args::ModelArgs;
use crate::data::Tokenizer;
use crate::device::{Device, DeviceOptions, KernelSpec, Precision};
use crate::error::{Error, Result};
use crate::evaluate::stop_tokens;
use crate::io::adapter::AdapterFolder;
use crate::io::checkpoint::Checkpoint;
use crate::io::config::ModelConfig;
use crate::kernels::precision;
use crate::nn::Decoder;
use crate::nn::loader::{LoadOptions, load, load_shapes};
use crate::optim::Training;
use crate::quant::{LoadFormat, quantise_on_load};
use crate::train::config::{PartialConfig, PrecisionOption};
use crate::train::output;
use crate::train::warm::compile_while;
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

/// Tokens that a rehearsal generates: the first comes out of the prompt's pass, later ones one by one.
pub const REHEARSED: usize = 2;

/// Positions of a text that grows, at most: the rotary tables for so many are small beside the model.
pub const LONGEST_CONTEXT: usize = 32_768;

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
    /// Kernels that are compiled and were looked at.
    kernels: RefCell<HashSet<KernelSpec>>,
}

impl<'a> Source<'a> {
    pub fn open(args: &'a ModelArgs) -> Result<Self> {
        let checkpoint = open_checkpoint(args)?;
        trained_otherwise(args).iter().for_each(|note| super::tell(note));
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

        let (adapter, kernels) = rehearsed(&device, &checkpoint, &options, args.adapter.as_deref(), rehearse)?;
        let loading = || {
            let model = load(&device, &checkpoint, options)?;
            adapter.as_ref().map_or(Ok(()), |adapter| attach(&device, &model, adapter))?;
            Ok(model)
        };
        let (model, _) = compile_while(&device, &kernels, loading, &mut |_| {})?;
        startup::prove(&device, &kernels)?;
        Ok(Ready { device, model, tokenizer, kernels: RefCell::new(kernels.into_iter().collect()) })
    }
}

/// The adapter in a folder, and the kernels that `rehearse` launches with it, on a device that only counts.
fn rehearsed(
    device: &Device,
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    folder: Option<&Path>,
    rehearse: impl FnOnce(&Ready) -> Result<()>,
) -> Result<(Option<AdapterFolder>, Vec<KernelSpec>)> {
    let counting = device.counting();
    let model = load_shapes(&counting, checkpoint, options.clone())?;
    let adapter = folder.map(|folder| read_adapter(folder, &model)).transpose()?;
    adapter.as_ref().map_or(Ok(()), |adapter| attach(&counting, &model, adapter))?;
    counting.note_launches(true);
    // what goes wrong in a rehearsal goes wrong again where it counts
    let _ = rehearse(&Ready { device: counting.clone(), model, tokenizer: None, kernels: RefCell::default() });
    Ok((adapter, counting.launched_kernels()))
}

/// Puts another adapter on a model that is ready, or none: its weights stay where they are. What it launches is compiled and
/// proved as at the start. Where the adapter cannot be read, nothing changes.
pub fn swap_adapter(
    ready: &Ready,
    args: &ModelArgs,
    folder: Option<&Path>,
    rehearse: impl FnOnce(&Ready) -> Result<()>,
) -> Result<()> {
    let checkpoint = open_checkpoint(args)?;
    let options = LoadOptions { trainable: false, stacked: true, positions: ready.model.rope.positions() };
    let (adapter, mut kernels) = rehearsed(&ready.device, &checkpoint, &options, folder, rehearse)?;
    kernels.retain(|kernel| !ready.kernels.borrow().contains(kernel));
    ready.device.prepare(&kernels, &|| true)?;
    startup::prove(&ready.device, &kernels)?;
    ready.kernels.borrow_mut().extend(kernels);
    ready.model.linears().try_for_each(|linear| linear.attach(Attachment::default()))?;
    adapter.map_or(Ok(()), |adapter| attach(&ready.device, &ready.model, &adapter))
}

/// The model's files, in the format that was asked for.
fn open_checkpoint(args: &ModelArgs) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(&args.model)?;
    args.quantize.map_or(Ok(()), |to| quantise_on_load(&mut checkpoint, to))?;
    Ok(checkpoint)
}

/// A warning where the adapter was trained over weights of another format than it is used with.
fn trained_otherwise(args: &ModelArgs) -> Option<String> {
    let run = PartialConfig::from_toml(&args.adapter.as_ref()?.join(output::CONFIG_FILE)).ok()?;
    let of =
        |format: Option<LoadFormat>| format.map_or("without --quantize".to_owned(), |f| format!("with --quantize {f}"));
    (run.quantize != args.quantize).then(|| {
        let (trained, used) = (of(run.quantize), of(args.quantize));
        format!("warning: the adapter was trained {trained}, and is used {used}")
    })
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
    set.attach(model, Training::default(), None)
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
