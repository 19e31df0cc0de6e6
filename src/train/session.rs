//! A run from start to end: what it reads, decides and prepares before its steps, and what it writes behind them.

use super::config::{PrecisionOption, TrainConfig};
use super::evaluation::Evaluation;
use super::folder::{self, RunLock};
use super::logs::{Logs, Wanted};
use super::metrics::{EvalMetrics, StepMetrics};
use super::phase::Agenda;
use super::plan::{self, MemoryPlan, fit};
use super::recover::{self, Again, Losses};
use super::start::Start;
use super::state::{self, Platform, Saved, SavedTiles};
use super::step::Stepper;
use super::steps::{Ended, Fixed, Steps};
use super::summary::Summary;
use super::trainable::{Trainable, load_options, open_model};
use super::warm::Compiled;
use super::{full, notes, output, platform, resume, tune, warm};
use crate::adapters::module_shapes;
use crate::adapters::targets::LinearShape;
use crate::cases::startup;
use crate::data::{Ahead, DataOptions, Dataset, Tokenizer, now, sources};
use crate::device::tiles::TileTable;
use crate::device::{Device, DeviceOptions, Precision};
use crate::error::{Error, Result};
use crate::io::adapter::AdapterFolder;
use crate::io::cache_folder;
use crate::io::checkpoint::Checkpoint;
use crate::io::hub::{self, RepoKind};
use crate::kernels::precision;
use crate::nn::Decoder;
use crate::nn::loader::{load, load_shapes};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a run tells whoever watches.
pub trait Observer {
    /// A line about what happens.
    fn note(&mut self, line: &str);
    /// The number of steps, and how many of them lie behind the run already, before the first.
    fn begin(&mut self, steps: u64, done: u64);
    fn step(&mut self, metrics: &StepMetrics);
    /// How far an evaluation is: rows, answers and prompts together.
    fn evaluating(&mut self, _done: usize, _of: usize) {}
    fn evaluated(&mut self, _: &EvalMetrics) {}
    /// The run computes on `device` from now on; more than once where a device is lost.
    fn opened(&mut self, _: &Device) {}
    /// What of the preparation begins now, in a few words; the last of it ends with [`Observer::begin`].
    fn preparing(&mut self, _: &str) {}
    /// Kernels are being compiled, before the first step.
    fn compiled(&mut self, _: Compiled) {}
    /// Asked before each step, and during evaluations.
    fn interrupted(&self) -> bool;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// All that were done, over all phases.
    pub steps: u64,
    /// Evaluations did not get better any more, so that later steps were left out.
    pub stopped_early: bool,
    /// The steps before the best evaluation of the training phase and its loss, where there was one.
    pub best: Option<(u64, f64)>,
    /// Of the last step.
    pub loss: f64,
    /// Of the steps those that changed nothing, because their loss or gradient was not finite.
    pub skipped: u64,
    /// The most bytes that the run held on the device.
    pub peak_bytes: u64,
    /// What was planned, and what the device's ledger has seen.
    pub plan: MemoryPlan,
    pub seen: MemoryPlan,
    /// The masks were all that was wanted.
    pub mask_only: bool,
    /// The rows ask through the chat template.
    pub asks_in_chat: bool,
}

/// Everything that a run holds.
pub struct Session {
    config: TrainConfig,
    device: Device,
    model: Decoder,
    dataset: Dataset,
    evaluation: Option<Evaluation>,
    agenda: Agenda,
    stepper: Stepper,
    trainable: Trainable,
    init: Option<AdapterFolder>,
    /// `init` is the state of a run that has not finished: the folder of this one keeps it.
    init_passes: bool,
    /// All linears of the model.
    shapes: Vec<LinearShape>,
    plan: MemoryPlan,
    /// Digests of what the run reads.
    sources: BTreeMap<String, String>,
    /// What chat templates saw as the time, in seconds since 1970.
    clock: i64,
    saved: Option<Saved>,
    tiles: SavedTiles,
    /// Of the run folder, once it is there.
    lock: Option<RunLock>,
    /// Whether the run folder is this run's already.
    has_folder: bool,
}

/// What a run starts from, and its steps.
struct Decided {
    start: Start,
    /// Digests of what the run reads.
    sources: BTreeMap<String, String>,
    agenda: Agenda,
}

impl Session {
    /// Reads everything that the configuration names and prepares the run. Nothing is written but the lock of a folder that has
    /// a run in it.
    ///
    /// # Errors
    /// Those of what is read, of the device, and of a run folder that is in use.
    pub fn prepare(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        let lock = RunLock::take_existing(&config.out)?;
        folder::again(folder::check_free(&config)?).iter().for_each(|line| observer.note(line));
        Session::open(config, None, None, lock, observer)
    }

    /// Prepares to go on with the run in the folder of `config` from its last state, or from the start if it stopped before the
    /// first one.
    ///
    /// # Errors
    /// As [`Session::prepare`]; [`Error::File`] if the run is finished, there is none, or its files have changed;
    /// [`Error::Invalid`] if its configuration has.
    pub fn resume(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        let lock = RunLock::take_existing(&config.out)?;
        let (config, saved) = resume::find(config)?;
        match &saved {
            Some(saved) => saved.damaged.iter().for_each(|line| observer.note(line)),
            None => observer.note("the run stopped before its first state was saved: it begins again"),
        }
        Session::open(config, saved, None, lock, observer)
    }

    /// `again`: the run was under way when its device was lost.
    pub(super) fn open(
        config: TrainConfig,
        saved: Option<Saved>,
        again: Option<Again>,
        lock: Option<RunLock>,
        observer: &mut dyn Observer,
    ) -> Result<Session> {
        check_folder_of(config.save_mask.as_deref())?;
        // what a run goes on with is what it began with, whatever becomes of a name on the Hub
        let model = hub::pinned(&config.model, RepoKind::Model)?;
        let data = sources::pinned(&config.data)?;
        let eval_data = config.eval_data.as_deref().map(sources::pinned).transpose()?;
        let config = TrainConfig { model, data, eval_data, ..config };
        observer.preparing("opening the model");
        let checkpoint = open_model(&config)?;
        checkpoint.notes.iter().for_each(|note| observer.note(note));
        let began = saved.as_ref().map(|saved| saved.header.clock).or(again.as_ref().and_then(|a| a.clock));
        let clock = began.unwrap_or_else(now);
        observer.preparing("reading the rows");
        let (dataset, evaluation) = open_data(&config, &checkpoint, began, observer)?;
        observer.preparing("opening the device");
        let asked = config;
        let mut config = asked.clone().for_data(dataset.report().sequences)?;
        let device = open_device(&config, saved.as_ref(), again.as_ref(), observer)?;
        let options = load_options(&config, checkpoint.config.max_position_embeddings);
        let shapes = module_shapes(&load_shapes(&device.counting(), &checkpoint, options.clone())?);
        let Decided { start, sources, agenda } =
            decide(&asked, &mut config, (&dataset, evaluation.as_ref()), &shapes, saved.as_ref(), observer)?;
        evaluation.iter().for_each(|evaluation| observer.note(&evaluation.line(&config)));
        keep_platform(&device, saved.as_ref(), again.as_ref(), observer)?;
        observer.preparing("planning the memory");
        let run = plan::Run {
            config: &config,
            checkpoint: &checkpoint,
            dataset: Some(&dataset),
            evaluation: evaluation.as_ref(),
            agenda: &agenda,
            masks: start.masks.as_ref(),
            caps: device.caps(),
            precision: device.precision(),
            tiles: device.tiles(),
        };
        let settled = TrainConfig { checkpointing: fit::settled(&run)?, ..config.clone() };
        if settled.checkpointing != config.checkpointing {
            observer.note(&format!("checkpointing: {}", settled.checkpointing));
        }
        let run = plan::Run { config: &settled, ..run };
        let has_folder = saved.is_some() || again.is_some();
        let plan = plan_with_tiles(&device, &run, has_folder, observer)?;
        fit::check(&run, &plan.memory)?;
        let tiles = SavedTiles { device: device.caps().identity(), table: device.tiles().of(&plan.products) };
        let config = settled;

        // what the self-test held is not the run's
        device.trim()?;
        device.restart_peaks();
        observer.preparing("reading the weights and compiling kernels");
        let loading = || load(&device, &checkpoint, options);
        let (mut model, compiled) =
            warm::compile_while(&device, &plan.kernels, loading, &mut |n| observer.compiled(n))?;
        observer.note(&compiled.line());
        observer.preparing("checking the kernels");
        // these kernels, and no others, are what the run launches
        startup::prove(&device, &plan.kernels)?.line().iter().for_each(|line| observer.note(line));
        observer.preparing("making the adapters");
        let masks = match &saved {
            Some(saved) => saved.masks(shape_in(&shapes))?,
            None => start.masks,
        };
        let mut trainable = Trainable::new(&device, &config, &mut model, &shapes, masks.as_ref())?;
        if let (Trainable::Adapters(set), None) = (&mut trainable, &saved) {
            set.initialise(config.seed, start.adapter.as_ref())?;
        }
        let stepper = Stepper::of(&device, &config)?;
        let (init, init_passes, plan) = (start.adapter, start.passing, plan.memory);
        Ok(Session {
            config,
            device,
            model,
            dataset,
            evaluation,
            agenda,
            stepper,
            trainable,
            init,
            init_passes,
            shapes,
            plan,
            sources,
            clock,
            saved,
            tiles,
            lock,
            has_folder,
        })
    }

    /// What the run computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs all steps that are left and writes the run folder. Where the observer interrupts, the state is saved first. A
    /// device that is lost is opened again, and the run goes on from its last state.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::DeviceLost`] where the device is lost again and again; those of the device and of
    /// files.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let mut losses = Losses::default();
        loop {
            match self.run_once(observer) {
                Err(Error::DeviceLost { reason, .. }) => {
                    let (config, caps) = (self.config.clone(), self.device.caps().clone());
                    let again = Again {
                        identity: Some(caps.identity()),
                        tiles: Some(self.tiles.clone()),
                        clock: Some(self.clock),
                        quarterings: 0,
                    };
                    let lock = self.lock.take();
                    drop(self); // with all that lay on the device
                    self = recover::reopen(&config, again, &caps.name, reason, &mut losses, observer)?;
                    self.lock = lock;
                }
                ended => return ended,
            }
        }
    }

    fn run_once(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let folder = self.config.out.clone();
        let done = self.saved.as_ref().map_or(0, |s| s.header.step);
        let metrics = folder.join(output::METRICS_FILE);
        let wanted = Wanted { samples: self.config.sample_prompts.is_some(), events: self.config.tensorboard };
        let mut logs = match &self.saved {
            Some(saved) => {
                folder::sweep(&folder)?;
                Logs::resume(&folder, wanted, done, saved.header.standing.after)?
            }
            None => {
                if !self.has_folder {
                    self.create_folder()?;
                }
                Logs::create(&folder, wanted)?
            }
        };
        let summary = Summary::of(&self.device, &self.agenda, &self.plan);
        summary.write(&folder)?;
        observer.begin(self.agenda.steps(), done);
        let Ended { steps, loss, skipped, best, stopped_early } = self.steps(&mut logs, observer)?;
        let seen = MemoryPlan::of(&self.device.ledger());
        summary.ended(&seen, steps, stopped_early, best).write(&folder)?;
        match &self.trainable {
            Trainable::Adapters(_) if self.config.mask_only => {}
            Trainable::Adapters(set) => output::adapter_of(&self.config, set, &self.shapes)?.write(&folder)?,
            Trainable::Weights(_) => full::write_model(&folder, &self.config.model, &self.model)?,
        }
        state::remove_all(&folder)?;
        if self.agenda.restarts() {
            notes::after(&metrics)?.iter().for_each(|line| observer.note(line));
        }
        observer.note(&format!(
            "memory on the device: at most {} at once, {} were planned; {} taken with what is kept for reuse",
            plan::size(seen.total),
            plan::size(self.plan.total),
            plan::size(seen.reserved)
        ));
        if skipped > 0 {
            observer.note(&format!(
                "{skipped} of {} steps were skipped, since their loss or gradient was not finite: they changed nothing, and the \
                 next rows came next; see \"skipped\" in {}",
                steps,
                metrics.display()
            ));
        }
        Ok(Outcome {
            steps,
            stopped_early,
            best: best.map(|best| (best.after, best.loss)),
            loss,
            skipped,
            peak_bytes: seen.total,
            plan: self.plan.clone(),
            seen,
            mask_only: self.config.mask_only,
            asks_in_chat: self.dataset.report().asks_in_chat(),
        })
    }

    fn create_folder(&mut self) -> Result<()> {
        let kept = self.config.out.join(output::INIT_ADAPTER);
        let init = self.init.as_ref().filter(|_| self.init_passes);
        if init.is_some() {
            self.config.init_adapter = Some(kept.clone());
        }
        self.lock = Some(folder::create(&self.config, init, self.lock.take())?);
        if init.is_some() {
            self.sources.insert(resume::ADAPTER_KEY.into(), resume::digest_of_adapter(&kept)?);
        }
        self.has_folder = true;
        Ok(())
    }

    fn steps(&mut self, logs: &mut Logs, observer: &mut dyn Observer) -> Result<Ended> {
        let batches = self.dataset.batches(&self.config.batch_options())?;
        let run = Fixed {
            config: &self.config,
            device: &self.device,
            model: &self.model,
            agenda: &self.agenda,
            stepper: &self.stepper,
            init: self.init.as_ref(),
            shapes: &self.shapes,
            sources: &self.sources,
            clock: self.clock,
            tiles: &self.tiles,
            saved: self.saved.as_ref(),
            evaluation: self.evaluation.as_ref(),
        };
        let trainable = &mut self.trainable;
        std::thread::scope(|scope| Steps::new(run, trainable, Ahead::start(scope, batches)?, logs)?.take_all(observer))
    }
}

/// The rows of a run, as they were when it `began`, and what it is evaluated on.
fn open_data(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    began: Option<i64>,
    observer: &mut dyn Observer,
) -> Result<(Dataset, Option<Evaluation>)> {
    let tokenizer = Tokenizer::of_model(checkpoint)?;
    let vocab_size = checkpoint.config.vocab_size;
    let options = DataOptions { now: began, ..config.data_options() };
    let dataset = Dataset::open(&config.data, &options, tokenizer.as_ref(), vocab_size)?;
    let now = began.unwrap_or_else(now);
    let (dataset, evaluation) = Evaluation::open(config, checkpoint, tokenizer, Some(dataset), now)?;
    let dataset = dataset.ok_or_else(|| Error::file(&config.data, "rows", "there are none to train on"))?;
    observer.note(&data_line(&dataset));
    dataset.notes().iter().for_each(|note| observer.note(note));
    let (asked, sequences) = (config.batch_size, dataset.report().sequences);
    if asked > sequences {
        observer.note(&format!(
            "⟨batch_size⟩ {asked} is more than the {sequences} sequences of an epoch; a step has those"
        ));
    }
    Ok((dataset, evaluation))
}

/// The device, with the precision of the run: one that is resumed keeps its own. The same as before where it is opened `again`.
fn open_device(
    config: &TrainConfig,
    saved: Option<&Saved>,
    again: Option<&Again>,
    observer: &mut dyn Observer,
) -> Result<Device> {
    let options = DeviceOptions::from_env(config.device.clone());
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
fn decide(
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
fn keep_platform(
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
fn shape_in(shapes: &[LinearShape]) -> impl Fn(&str) -> Option<(usize, usize)> + '_ {
    |name| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features))
}

/// A file that is written at the end needs a folder from the start.
fn check_folder_of(file: Option<&std::path::Path>) -> Result<()> {
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
