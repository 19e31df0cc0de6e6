//! A run from start to end: the loop over the agenda's steps.

use super::config::{MaskMode, PrecisionOption, TrainConfig};
use super::metrics::{MetricsLog, StepMetrics};
use super::phase::{Agenda, StepPlan};
use super::plan::{self, MemoryPlan};
use super::report::{Recorded, Reports, Skipped};
use super::start::Start;
use super::state::{self, Header, Parts, Saved, SavedTiles};
use super::step::{Stepper, Turn};
use super::trainable::{Trainable, load_options, rates};
use super::warm::Compiled;
use super::{diagnose, full, notes, output, resume, tune, warm};
use crate::adapters::targets::LinearShape;
use crate::adapters::{MaskCollector, module_shapes};
use crate::cases::startup;
use crate::csr::CsrPattern;
use crate::data::{Ahead, Dataset, Position, Tokenizer};
use crate::device::tiles::TileTable;
use crate::device::{Device, DeviceOptions, Precision};
use crate::error::{Error, Result};
use crate::io::adapter::AdapterFolder;
use crate::io::cache_folder;
use crate::io::checkpoint::Checkpoint;
use crate::io::mask::write_masks;
use crate::kernels::precision;
use crate::nn::Decoder;
use crate::nn::loader::{load, load_shapes};
use crate::optim::LossScale;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a run tells whoever watches.
pub trait Observer {
    /// A line about what happens.
    fn note(&mut self, line: &str);
    /// The number of steps, and how many of them lie behind the run already, before the first.
    fn begin(&mut self, steps: u64, done: u64);
    fn step(&mut self, metrics: &StepMetrics);
    /// Kernels are being compiled, before the first step.
    fn compiled(&mut self, _: Compiled) {}
    /// Asked before each step.
    fn interrupted(&self) -> bool;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub steps: u64,
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
    agenda: Agenda,
    stepper: Stepper,
    trainable: Trainable,
    init: Option<AdapterFolder>,
    /// All linears of the model.
    shapes: Vec<LinearShape>,
    plan: MemoryPlan,
    /// Digests of what the run reads.
    sources: BTreeMap<String, String>,
    saved: Option<Saved>,
    tiles: SavedTiles,
}

/// What moves on with the steps, beside what is on the device.
struct Progress {
    batches: Ahead,
    collector: Option<MaskCollector>,
    /// What is attached to the model: low-rank trains, sparse trains, gradients are collected.
    attached: Option<(bool, bool, bool)>,
}

impl Session {
    /// Reads everything that the configuration names and prepares the run. Nothing is written.
    ///
    /// # Errors
    /// Those of what is read, of the device, and of a run folder that is in use.
    pub fn prepare(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        output::check_free(&config.out)?;
        Session::open(config, None, observer)
    }

    /// Prepares to go on with the run in the folder of `config` from its last state.
    ///
    /// # Errors
    /// As [`Session::prepare`]; [`Error::File`] if the run is finished, has no state, or its files have changed;
    /// [`Error::Invalid`] if its configuration has.
    pub fn resume(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        let (config, saved) = resume::find(config)?;
        Session::open(config, Some(saved), observer)
    }

    fn open(config: TrainConfig, saved: Option<Saved>, observer: &mut dyn Observer) -> Result<Session> {
        check_folder_of(config.save_mask.as_deref())?;
        let checkpoint = Checkpoint::open(&config.model)?;
        checkpoint.notes.iter().for_each(|note| observer.note(note));
        let tokenizer = Tokenizer::of_model(&checkpoint)?;
        let vocab_size = checkpoint.config.vocab_size;
        let dataset = Dataset::open(&config.data, &config.data_options(), tokenizer.as_ref(), vocab_size)?;
        observer.note(&data_line(&dataset));
        dataset.notes().iter().for_each(|note| observer.note(note));
        let asked = config.clone();
        let mut config = config.for_data(dataset.report().sequences)?;
        let sequences = dataset.report().sequences;
        if config.batch_size > sequences {
            let asked = config.batch_size;
            observer.note(&format!(
                "--batch-size {asked} is more than the {sequences} sequences of an epoch; a step has those"
            ));
        }
        let device = Device::open(&DeviceOptions::from_env(config.device.clone()))?;
        let precision = match config.precision {
            PrecisionOption::F32 => Precision::F32,
            PrecisionOption::F16 => precision::enable(&device)?,
        };
        let units = if precision == Precision::F16 { ", f16 products on matrix units" } else { "" };
        let tuned = if device.load_tiles() > 0 { ", tiles tuned" } else { "" };
        observer.note(&format!("device: {} ({}{units}{tuned})", device.caps().name, device.caps().api));
        if config.precision == PrecisionOption::F16 && precision == Precision::F32 {
            observer.note("this device has no matrix units that can be used; products run in f32");
        }

        let options = load_options(&config);
        let shapes = module_shapes(&load_shapes(&device.counting(), &checkpoint, options.clone())?);
        let shape_of = |name: &str| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features));
        let (Start { adapter: init, masks: given }, lines) = Start::read(&mut config, &shapes)?;
        // one that is resumed has said so
        lines.iter().filter(|_| saved.is_none()).for_each(|line| observer.note(line));
        let sources = resume::sources(&config, &dataset)?;
        if let Some(saved) = &saved {
            resume::check_sources(&config, &sources, saved)?;
        }
        let steps = config.total_steps(dataset.batches(&config.batch_options())?.steps_per_epoch() as u64);
        let agenda = Agenda::new(&config, given.is_some(), steps)?;
        notes::before(&asked, &config, &agenda, steps).iter().for_each(|line| observer.note(line));
        if let Some(saved) = &saved {
            let (tiles, line) = resume::tiles(&saved.header, device.caps(), TileTable::clone(&device.tiles()));
            device.set_tiles(tiles);
            line.iter().for_each(|line| observer.note(line));
        }
        let run = plan::Run {
            config: &config,
            checkpoint: &checkpoint,
            dataset: &dataset,
            agenda: &agenda,
            masks: given.as_ref(),
            caps: device.caps(),
            precision,
            tiles: device.tiles(),
        };
        let mut plan = plan::plan(&run)?;
        // a run to resume keeps its tiles
        if let (Some(seconds), None) = (config.tune, &saved) {
            observer.note(&format!("tiles: measured for at most {seconds} s"));
            let limit = Duration::from_secs_f64(seconds);
            let tuning = tune::tune(&device, &plan.products, limit, cache_folder().as_deref())?;
            observer.note(&tuning.line());
            plan = plan::plan(&plan::Run { tiles: device.tiles(), ..run })?;
        }
        let tiles = SavedTiles { device: device.caps().identity(), table: device.tiles().of(&plan.products) };
        plan.memory.table().iter().for_each(|line| observer.note(line));

        // what the self-test held is not the run's
        device.trim()?;
        device.restart_peaks();
        let loading = || load(&device, &checkpoint, options);
        let (mut model, compiled) =
            warm::compile_while(&device, &plan.kernels, loading, &mut |n| observer.compiled(n))?;
        observer.note(&compiled.line());
        // these kernels, and no others, are what the run launches
        startup::prove(&device, &plan.kernels)?.line().iter().for_each(|line| observer.note(line));
        let plan = plan.memory;
        let masks = match &saved {
            Some(saved) => saved.masks(shape_of)?,
            None => given,
        };
        let mut trainable = Trainable::new(&device, &config, &mut model, &shapes, masks.as_ref())?;
        if let (Trainable::Adapters(set), None) = (&mut trainable, &saved) {
            set.initialise(config.seed, init.as_ref())?;
        }
        let stepper = Stepper::of(&device, &config)?;
        Ok(Session {
            config,
            device,
            model,
            dataset,
            agenda,
            stepper,
            trainable,
            init,
            shapes,
            plan,
            sources,
            saved,
            tiles,
        })
    }

    /// What the run computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs all steps that are left and writes the run folder. Where the observer interrupts, the state is saved first.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; those of the device and of files.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let folder = self.config.out.clone();
        let done = self.saved.as_ref().map_or(0, |s| s.header.step);
        let metrics = folder.join(output::METRICS_FILE);
        let mut log = match &self.saved {
            Some(_) => MetricsLog::resume(&metrics, done)?,
            None => {
                output::create(&self.config)?;
                MetricsLog::create(&metrics)?
            }
        };
        observer.begin(self.agenda.steps(), done);
        let (loss, skipped) = self.steps(&mut log, observer)?;
        match &self.trainable {
            Trainable::Adapters(_) if self.config.mask_only => {}
            Trainable::Adapters(set) => output::write_adapter(&folder, &self.config, set, &self.shapes)?,
            Trainable::Weights(_) => full::write_model(&folder, &self.config.model, &self.model)?,
        }
        state::remove_all(&folder)?;
        if self.agenda.restarts() {
            notes::after(&metrics)?.iter().for_each(|line| observer.note(line));
        }
        let seen = MemoryPlan::of(&self.device.ledger());
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
                self.agenda.steps(),
                metrics.display()
            ));
        }
        Ok(Outcome {
            steps: self.agenda.steps(),
            loss,
            skipped,
            peak_bytes: seen.total,
            plan: self.plan,
            seen,
            mask_only: self.config.mask_only,
            asks_in_chat: self.dataset.report().asks_in_chat(),
        })
    }

    /// Loss of the last step, and steps that were skipped.
    fn steps(&mut self, log: &mut MetricsLog, observer: &mut dyn Observer) -> Result<(f64, u64)> {
        let Session { config, device, model, dataset, agenda, stepper, trainable, init, sources, saved, tiles, .. } =
            self;
        let batches = dataset.batches(&config.batch_options())?;
        std::thread::scope(|scope| {
            let now = Progress { batches: Ahead::start(scope, batches)?, collector: None, attached: None };
            let mut now = restore(now, saved.as_ref(), config, device, trainable)?;
            let (first, loss, skipped) = match saved {
                Some(s) => (s.header.step, s.header.loss.unwrap_or(f64::NAN), s.header.skipped),
                None => (0, f64::NAN, Skipped::default()),
            };
            let scale = match (saved, device.precision()) {
                (Some(s), _) => s.header.loss_scale,
                (None, Precision::F32) => LossScale::off(),
                (None, Precision::F16) => LossScale::dynamic(),
            };
            let mut reports = Reports::new(log, loss, skipped, scale);
            let config_text = config.to_toml()?;
            let save = |step: u64, now: &Progress, trainable: &mut Trainable, reports: &Reports<'_>| -> Result<()> {
                let header = Header {
                    version: 0,
                    step,
                    position: now.batches.position(),
                    skipped: reports.skipped,
                    loss: Some(reports.last_loss).filter(|l| l.is_finite()),
                    loss_scale: reports.scale,
                    config: config_text.clone(),
                    sources: sources.clone(),
                    blocks: Vec::new(),
                    scores: None,
                    has_masks: false,
                    tiles: Some(tiles.clone()),
                };
                let masks = trainable.masks();
                let parts = Parts { blocks: trainable.blocks(), collector: now.collector.as_ref(), masks };
                state::save(&config.out, header, &parts)
            };
            for step in first..agenda.steps() {
                if observer.interrupted() {
                    reports.flush(observer)?;
                    examine(&mut now, &mut reports, stepper, model, trainable, observer)?;
                    save(step, &now, trainable, &reports)?;
                    observer.note(&format!(
                        "state saved before step {}; go on with: rugosa train --resume --out {}",
                        step + 1,
                        config.out.display()
                    ));
                    return Err(Error::Interrupted);
                }
                let Some(plan) = agenda.plan(step) else { break };
                if plan.restart_before {
                    now.batches.seek(Position::default())?;
                    if let Trainable::Adapters(set) = trainable {
                        set.initialise(config.seed, init.as_ref())?;
                        now.attached = None; // weights hold the values of before
                    }
                }
                attach(&mut now, &plan, config, device, model, trainable)?;
                let epoch = now.batches.position().epoch;
                let window = now.batches.next_window()?;
                let rates = rates(config, &plan);
                let collector = now.collector.as_ref().filter(|_| plan.collect);
                let turn = Turn { step, rates, loss_scale: reports.scale.factor(step) };
                let result = stepper.run(model, &window, trainable.blocks(), turn, collector)?;
                let metrics = StepMetrics {
                    step,
                    phase: plan.phase,
                    schedule_step: plan.schedule_step,
                    loss: f64::NAN,
                    lr: rates.weights.or(rates.sparse).or(rates.low_rank).unwrap_or(0.0),
                    lora_lr: rates.low_rank,
                    grad_norm: f64::NAN,
                    supervised_tokens: window.iter().map(|b| b.supervised() as u64).sum(),
                    tokens: window.iter().map(|b| b.len() as u64).sum(),
                    tokens_per_second: 0.0,
                    epoch: epoch as f64,
                    skipped: false,
                };
                let recorded = Recorded { window, turn, plan };
                if plan.build_masks_after {
                    build_masks(&mut now, &plan, config, model, trainable, observer)
                        .map_err(|e| diagnose::explained(e, &recorded, stepper, model, trainable))?;
                }
                reports.push(result, metrics, recorded, observer)?;
                examine(&mut now, &mut reports, stepper, model, trainable, observer)?;
                if config.save_steps > 0 && (step + 1).is_multiple_of(config.save_steps) {
                    reports.flush(observer)?;
                    examine(&mut now, &mut reports, stepper, model, trainable, observer)?;
                    save(step + 1, &now, trainable, &reports)?;
                }
            }
            reports.flush(observer)?;
            examine(&mut now, &mut reports, stepper, model, trainable, observer)?;
            Ok((reports.last_loss, reports.skipped.in_all))
        })
    }
}

/// Looks for the cause where the reports hold a step that wants it.
fn examine(
    now: &mut Progress,
    reports: &mut Reports<'_>,
    stepper: &Stepper,
    model: &Decoder,
    trainable: &mut Trainable,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Some(broken) = reports.take_broken() else { return Ok(()) };
    now.attached = None; // the step that is repeated puts its own on
    observer.note(&diagnose::diagnose(&broken, stepper, model, trainable)?);
    Ok(())
}

/// Puts everything where the state left it.
fn restore(
    mut now: Progress,
    saved: Option<&Saved>,
    config: &TrainConfig,
    device: &Device,
    trainable: &mut Trainable,
) -> Result<Progress> {
    let Some(saved) = saved else { return Ok(now) };
    now.batches.seek(saved.header.position)?;
    if let (Trainable::Adapters(_), true) = (&*trainable, saved.header.scores.is_some()) {
        now.collector = collector(device, config, trainable)?;
    }
    saved.restore(trainable.blocks(), now.collector.as_ref())?;
    Ok(now)
}

fn collector(device: &Device, config: &TrainConfig, trainable: &Trainable) -> Result<Option<MaskCollector>> {
    let Trainable::Adapters(set) = trainable else { return Ok(None) };
    MaskCollector::new(device, set.targets(), config.mask_mode == MaskMode::MeanSquared).map(Some)
}

/// Puts onto the model what this step needs, if that is not there already.
fn attach(
    now: &mut Progress,
    plan: &StepPlan,
    config: &TrainConfig,
    device: &Device,
    model: &Decoder,
    trainable: &Trainable,
) -> Result<()> {
    if plan.collect && now.collector.is_none() {
        now.collector = collector(device, config, trainable)?;
    }
    let wanted = (plan.train_lora, plan.train_sparse, plan.collect);
    if now.attached != Some(wanted) {
        trainable.attach(model, plan, now.collector.as_ref())?;
        now.attached = Some(wanted);
    }
    Ok(())
}

/// Makes the masks of what was collected, and room for their values once the scores are gone.
fn build_masks(
    now: &mut Progress,
    plan: &StepPlan,
    config: &TrainConfig,
    model: &Decoder,
    trainable: &mut Trainable,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Some(collector) = now.collector.take() else { return Ok(()) };
    let masks = collector.masks()?;
    if let Some(lost) = collector.lost() {
        observer.note(&format!(
            "masks: up to {} micro-batches had no finite gradient for {} of {} matrices, whose masks are those of the others",
            lost.samples,
            lost.matrices,
            masks.len()
        ));
    }
    drop(collector);
    trainable.attach(model, plan, None)?;
    now.attached = None;
    if let Some(path) = config.mask_file() {
        write_masks(&path, &masks)?;
        observer.note(&format!("masks saved to {}", path.display()));
    }
    let entries: usize = masks.values().map(CsrPattern::nnz).sum();
    observer.note(&format!("masks: {entries} entries in {} matrices", masks.len()));
    match trainable {
        Trainable::Adapters(set) => set.set_masks(&masks),
        Trainable::Weights(_) => Ok(()),
    }
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
