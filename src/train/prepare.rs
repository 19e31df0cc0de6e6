//! What a run reads, opens, decides and plans before its first step.

use super::config::{PrecisionOption, TrainConfig};
use super::evaluation::Evaluation;
use super::observer::Observer;
use super::phase::Agenda;
use super::plan::{self, fit};
use super::recover::Again;
use super::start::Start;
use super::state::{Platform, Saved};
use super::{notes, platform, ranks, resume, tune, warm};
use crate::adapters::targets::LinearShape;
use crate::cases::startup;
use crate::data::{DataOptions, Dataset, Tokenizer, now, sources};
use crate::device::tiles::TileTable;
use crate::device::{Device, DeviceOptions, KernelSpec, Precision};
use crate::error::{Error, Result};
use crate::io::cache_folder;
use crate::io::checkpoint::Checkpoint;
use crate::io::hub::{self, RepoKind};
use crate::kernels::precision;
use crate::nn::Decoder;
use crate::nn::loader::{LoadOptions, load};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a run starts from, and its steps.
pub(super) struct Decided {
    pub start: Start,
    /// Digests of what the run reads.
    pub sources: BTreeMap<String, String>,
    pub agenda: Agenda,
}

/// The configuration with every name on the Hub as the commit that it stands for: what a run goes on with is what it began with.
pub(super) fn pinned(config: TrainConfig) -> Result<TrainConfig> {
    let model = hub::pinned(&config.model, RepoKind::Model)?;
    let data = sources::pinned(&config.data)?;
    let eval_data = config.eval_data.as_deref().map(sources::pinned).transpose()?;
    Ok(TrainConfig { model, data, eval_data, ..config })
}

/// The configuration of `run` with the checkpointing that it comes to, and its plan, which fits.
pub(super) fn settled(
    device: &Device,
    run: plan::Run<'_>,
    resumed: bool,
    observer: &mut dyn Observer,
) -> Result<(TrainConfig, plan::RunPlan)> {
    let config = TrainConfig { checkpointing: fit::settled(&run)?, ..run.config.clone() };
    if config.checkpointing != run.config.checkpointing {
        observer.note(&format!("checkpointing: {}", config.checkpointing));
    }
    let run = plan::Run { config: &config, ..run };
    let plan = plan_with_tiles(device, &run, resumed, observer)?;
    fit::check(&run, &plan.memory)?;
    Ok((config, plan))
}

/// The model on the device, whose kernels are compiled meanwhile, and then proved.
pub(super) fn load_model(
    device: &Device,
    checkpoint: &Checkpoint,
    options: LoadOptions,
    kernels: &[KernelSpec],
    observer: &mut dyn Observer,
) -> Result<Decoder> {
    // what the self-test held is not the run's
    device.trim()?;
    device.restart_peaks();
    observer.preparing("reading the weights and compiling kernels");
    let loading = || load(device, checkpoint, options);
    let (model, compiled) = warm::compile_while(device, kernels, loading, &mut |n| observer.compiled(n))?;
    observer.note(&compiled.line());
    observer.preparing("checking the kernels");
    // these kernels, and no others, are what the run launches
    startup::prove(device, kernels)?.line().iter().for_each(|line| observer.note(line));
    Ok(model)
}

/// What a run learns from and is measured on, as it was when the run began.
pub(super) struct Rows {
    pub dataset: Dataset,
    pub evaluation: Option<Evaluation>,
    /// The model's, where it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

/// The rows of a run, as they were when it `began`, and what it is evaluated on.
pub(super) fn open_data(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    began: Option<i64>,
    observer: &mut dyn Observer,
) -> Result<Rows> {
    let tokenizer = Tokenizer::of_model(checkpoint)?.map(Arc::new);
    let vocab_size = checkpoint.config.vocab_size;
    let options = DataOptions { now: began, ..config.data_options() };
    let dataset = Dataset::open(&config.data, &options, tokenizer.as_deref(), vocab_size)?;
    let now = began.unwrap_or_else(now);
    let (dataset, evaluation) = Evaluation::open(config, checkpoint, tokenizer.clone(), Some(dataset), now)?;
    let dataset = dataset.ok_or_else(|| Error::file(&config.data, "rows", "there are none to train on"))?;
    observer.note(&data_line(&dataset));
    dataset.notes().iter().for_each(|note| observer.note(note));
    let (asked, sequences) = (config.batch_size, dataset.report().sequences);
    if asked > sequences {
        observer.note(&format!(
            "⟨batch_size⟩ {asked} is more than the {sequences} sequences of an epoch; a step has those"
        ));
    }
    Ok(Rows { dataset, evaluation, tokenizer })
}

/// The device, with the precision of the run: one that is resumed keeps its own. The same as before where it is opened `again`.
pub(super) fn open_device(
    config: &TrainConfig,
    saved: Option<&Saved>,
    again: Option<&Again>,
    observer: &mut dyn Observer,
) -> Result<Device> {
    let options = DeviceOptions::from_env(ranks::own_device(config.device.as_ref())?);
    let quarterings = again.map_or(0, |a| a.quarterings);
    let device = Device::open(&DeviceOptions { quarterings, ..options })?;
    if again.and_then(|a| a.identity.as_ref()).is_some_and(|before| *before != device.caps().identity()) {
        let reason =
            "it did not come back, this is another one or another driver; ⟨resume⟩ may go on here, but not bit for bit";
        return Err(Error::DeviceLost { device: device.caps().name.clone(), reason: reason.into() });
    }
    observer.opened(&device);
    let then = saved.map(|saved| &saved.header.platform);
    let wants_f16 = match then {
        Some(then) => then.precision == Precision::F16,
        None => config.precision == PrecisionOption::F16,
    };
    let precision = if wants_f16 { precision::enable(&device)? } else { Precision::F32 };
    then.map_or(Ok(()), |then| platform::check_precision(then, &device))?;
    let units = if precision == Precision::F16 { ", f16 products on matrix units" } else { "" };
    let tuned = if device.load_tiles() > 0 { ", tiles tuned" } else { "" };
    observer.note(&format!("device: {} ({}{units}{tuned})", device.caps().name, device.caps().api));
    if config.precision == PrecisionOption::F16 && precision == Precision::F32 {
        observer.note(match wants_f16 {
            true => "this device has no matrix units that can be used; products run in f32",
            false => "the run began where there were no matrix units; its products go on in f32",
        });
    }
    Ok(device)
}

/// What the adapter to start from and the data decide: masks and density, whether this is the run that was saved, and its steps.
pub(super) fn decide(
    asked: &TrainConfig,
    config: &mut TrainConfig,
    (dataset, evaluation): (&Dataset, Option<&Evaluation>),
    shapes: &[LinearShape],
    saved: Option<&Saved>,
    observer: &mut dyn Observer,
) -> Result<Decided> {
    let (start, lines) = Start::read(config, shapes)?;
    // one that is resumed has said so
    lines.iter().filter(|_| saved.is_none()).for_each(|line| observer.note(line));
    let sources = resume::sources(config, dataset, evaluation)?;
    saved.map_or(Ok(()), |saved| resume::check_sources(config, &sources, dataset, saved))?;
    let steps = config.total_steps(dataset.batches(&config.batch_options())?.steps_per_epoch() as u64);
    let agenda = Agenda::new(config, start.masks.is_some(), steps)?;
    notes::before(asked, config, &agenda, steps).iter().for_each(|line| observer.note(line));
    Ok(Decided { start, sources, agenda })
}

/// Puts the tiles of a run that is resumed onto the device, and says where its numbers will not be those of a run that was never
/// stopped.
pub(super) fn keep_platform(
    device: &Device,
    saved: Option<&Saved>,
    again: Option<&Again>,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Some(saved) = saved else {
        if let Some(tiles) = again.and_then(|a| a.tiles.as_ref()) {
            device.set_tiles(tiles.table.clone());
        }
        return Ok(());
    };
    let (tiles, line) = resume::tiles(&saved.header.tiles, device.caps(), TileTable::clone(&device.tiles()));
    device.set_tiles(tiles);
    let changed = Platform::of(device).line(&saved.header.platform);
    line.iter().chain(&changed).for_each(|line| observer.note(line));
    Ok(())
}

/// The plan of a run, with the tiles that it asks to be measured: one that is resumed keeps its own.
fn plan_with_tiles(
    device: &Device,
    run: &plan::Run<'_>,
    resumed: bool,
    observer: &mut dyn Observer,
) -> Result<plan::RunPlan> {
    let mut planned = plan::plan(run)?;
    if let Some(seconds) = run.config.tune.filter(|_| !resumed) {
        observer.note(&format!("tiles: measured for at most {seconds} s"));
        let limit = Duration::from_secs_f64(seconds);
        let tuning = tune::tune(device, &planned.products, limit, cache_folder().as_deref())?;
        observer.note(&tuning.line());
        planned = plan::plan(&plan::Run { tiles: device.tiles(), ..run.clone() })?;
    }
    planned.memory.table().iter().for_each(|line| observer.note(line));
    Ok(planned)
}

/// Rows and columns of a linear by its name.
pub(super) fn shape_in(shapes: &[LinearShape]) -> impl Fn(&str) -> Option<(usize, usize)> + '_ {
    |name| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features))
}

/// A file that is written at the end needs a folder from the start.
pub(super) fn check_folder_of(file: Option<&std::path::Path>) -> Result<()> {
    match file.and_then(|f| f.parent()).filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => std::fs::read_dir(folder).map(drop).map_err(Error::io(folder)),
        None => Ok(()),
    }
}

fn data_line(dataset: &Dataset) -> String {
    let r = dataset.report();
    format!(
        "data: {} rows, {} tokens, {} of them supervised, in {} sequences",
        r.rows, r.tokens, r.supervised, r.sequences
    )
}
