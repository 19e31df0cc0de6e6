//! The memory that a run would take, without a run: with or without its rows, with or without a device.

use super::config::{PrecisionOption, TrainConfig};
use super::evaluation::Evaluation;
use super::phase::Agenda;
use super::plan::{MemoryPlan, Run, fit, plan};
use super::start::Start;
use super::trainable::{load_options, open_model};
use crate::adapters::module_shapes;
use crate::data::{Dataset, Tokenizer, now};
use crate::device::dry::DryBackend;
use crate::device::{Caps, Device, DeviceOptions, Precision};
use crate::error::{Error, Result};
use crate::kernels::precision;
use crate::nn::loader::load_shapes;
use std::sync::Arc;

/// Sequences of an epoch where the rows are not known: the length of a run makes no difference to its memory.
const SEQUENCES: usize = 10_000;

/// What a run would take.
#[derive(Clone, Debug)]
pub struct Estimate {
    pub memory: MemoryPlan,
    /// The device that it is for.
    pub device: String,
    /// The bytes that there are, as far as that is known.
    pub limit: Option<u64>,
    /// Where the run does not fit: the options with which it would, if any would do.
    pub change: Option<String>,
    /// With what follows from the rows and the device.
    pub config: TrainConfig,
    /// What else a reader should know.
    pub notes: Vec<String>,
}

impl Estimate {
    /// Whether the run fits, as far as it is known how much there is.
    pub fn fits(&self) -> Option<bool> {
        self.limit.map(|limit| self.memory.total <= limit)
    }
}

/// Estimates the run of `config`. `has_rows`: it names a file of rows; else every sequence is as long as it may be, and
/// all of its tokens are learnt.
///
/// # Errors
/// Those of what is read, and of a device that is asked for and not there.
pub fn estimate(config: TrainConfig, has_rows: bool) -> Result<Estimate> {
    let checkpoint = open_model(&config)?;
    let mut notes = Vec::new();
    let (device, precision) = device(&config, &mut notes)?;
    let tokenizer = if has_rows || config.evaluates() { Tokenizer::of_model(&checkpoint)?.map(Arc::new) } else { None };
    let dataset = match has_rows {
        true => {
            let vocab = checkpoint.config.vocab_size;
            Some(Dataset::open(&config.data, &config.data_options(), tokenizer.as_deref(), vocab)?)
        }
        false => None,
    };
    let (dataset, evaluation) = Evaluation::open(&config, &checkpoint, tokenizer, dataset, now())?;
    let mut config = config.for_data(dataset.as_ref().map_or(SEQUENCES, |d| d.report().sequences))?;
    let most = checkpoint.config.max_position_embeddings;
    let shapes = module_shapes(&load_shapes(&device.counting(), &checkpoint, load_options(&config, most))?);
    let (Start { masks, .. }, _) = Start::read(&mut config, &shapes)?;
    let an_epoch = match &dataset {
        Some(dataset) => dataset.batches(&config.batch_options())?.steps_per_epoch(),
        None => SEQUENCES.div_ceil(config.batch_size.saturating_mul(config.micro_batches())).max(1),
    };
    let agenda = Agenda::new(&config, masks.is_some(), config.total_steps(an_epoch as u64))?;
    let run = Run {
        config: &config,
        checkpoint: &checkpoint,
        dataset: dataset.as_ref(),
        evaluation: evaluation.as_ref(),
        agenda: &agenda,
        masks: masks.as_ref(),
        caps: device.caps(),
        precision,
        tiles: device.tiles(),
    };
    let settled = TrainConfig { checkpointing: fit::settled(&run)?, ..config.clone() };
    let run = Run { config: &settled, ..run };
    let memory = plan(&run)?.memory;
    let limit = fit::limit(&settled, device.caps());
    let change = match limit.filter(|limit| memory.total > *limit) {
        Some(limit) => fit::smallest_change(&run, &memory, limit)?,
        None => None,
    };
    Ok(Estimate { memory, device: device.caps().name.clone(), limit, change, config: settled, notes })
}

/// The device of the run, or one that only counts where there is none and none is asked for.
fn device(config: &TrainConfig, notes: &mut Vec<String>) -> Result<(Device, Precision)> {
    match Device::open(&DeviceOptions::from_env(config.device.clone())) {
        Ok(device) => {
            let precision = match config.precision {
                PrecisionOption::F32 => Precision::F32,
                PrecisionOption::F16 => precision::enable(&device)?,
            };
            device.load_tiles();
            Ok((device, precision))
        }
        Err(Error::NoDevice { .. }) if config.device.is_none() => {
            notes.push("there is no device here: planned for a GPU of its own, with common limits".into());
            let precision = match config.precision {
                PrecisionOption::F32 => Precision::F32,
                PrecisionOption::F16 => Precision::F16,
            };
            let device = Device::new(Box::new(DryBackend::new(Caps::of_a_gpu())));
            device.set_precision(precision);
            Ok((device, precision))
        }
        Err(e) => Err(e),
    }
}
