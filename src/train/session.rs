//! A run from start to end: the loop over the agenda's steps.

use super::config::{Checkpointing, DataFormat, MaskMode, Method, TooLong, TrainConfig};
use super::metrics::{MetricsLog, StepMetrics};
use super::phase::{Agenda, StepPlan};
use super::step::{StepResult, Stepper};
use super::{full, output};
use crate::adapters::targets::select;
use crate::adapters::{AdapterSet, MaskCollector, Training, module_shapes};
use crate::data::{BatchOptions, DataOptions, Dataset, Position, RowKind, Tokenizer, Truncate};
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::io::adapter::AdapterFolder;
use crate::io::checkpoint::Checkpoint;
use crate::io::mask::{read_masks, write_masks};
use crate::nn::Decoder;
use crate::nn::loader::{LoadOptions, load};
use crate::optim::{AdamW, Block, Rates};
use std::time::Instant;

/// What a run tells whoever watches.
pub trait Observer {
    /// A line about what happens.
    fn note(&mut self, line: &str);
    /// The number of steps, before the first.
    fn begin(&mut self, steps: u64);
    fn step(&mut self, metrics: &StepMetrics);
    /// Asked before each step.
    fn interrupted(&self) -> bool;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub steps: u64,
    /// Of the last step.
    pub loss: f64,
    /// The most bytes that the run held on the device.
    pub peak_bytes: u64,
    /// The masks were all that was wanted.
    pub mask_only: bool,
}

/// Steps in a row without a finite gradient, after which a run ends.
const MOST_SKIPPED: u32 = 10;

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
}

/// What the optimiser steps.
enum Trainable {
    Adapters(Box<AdapterSet>),
    Weights(Vec<Block>),
}

impl Trainable {
    fn blocks(&mut self) -> &mut Vec<Block> {
        match self {
            Trainable::Adapters(set) => set.blocks(),
            Trainable::Weights(blocks) => blocks,
        }
    }
}

impl Session {
    /// Reads everything that the configuration names and prepares the run. Nothing is written.
    pub fn prepare(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        let checkpoint = Checkpoint::open(&config.model)?;
        let tokenizer = tokenizer_of(&checkpoint)?;
        let dataset =
            Dataset::open(&config.data, &data_options(&config), tokenizer.as_ref(), checkpoint.config.vocab_size)?;
        observer.note(&data_line(&dataset));
        let device = Device::open(&DeviceOptions::from_env(config.device.clone()))?;
        observer.note(&format!("device: {} ({})", device.caps().name, device.caps().api));
        let all = config.method == Method::Full;
        let mut model = load(&device, &checkpoint, LoadOptions { trainable: all, positions: config.seq_len })?;
        let shapes = module_shapes(&model);
        let shape_of = |name: &str| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features));
        let init = config.init_adapter.as_ref().map(|f| AdapterFolder::read(f, shape_of)).transpose()?;

        let mut trainable = if all {
            Trainable::Weights(full::trainable_weights(&mut model)?)
        } else {
            let set = AdapterSet::new(&device, select(&shapes, &config.target_rules())?, config.dropout)?;
            Trainable::Adapters(Box::new(set))
        };
        let mut masks_given = false;
        if let Trainable::Adapters(set) = &mut trainable {
            let given = match (&config.mask, &init) {
                (Some(path), _) => Some(read_masks(path, shape_of)?),
                (None, Some(init)) => Some(init.masks()).filter(|m| !m.is_empty()),
                (None, None) => None,
            };
            if let Some(masks) = given.filter(|_| config.method != Method::Lora) {
                set.set_masks(&masks)?;
                masks_given = true;
            }
            set.initialise(config.seed, init.as_ref())?;
        }
        let batches = dataset.batches(&batch_options(&config))?;
        let steps = match (config.steps, config.epochs) {
            (Some(steps), _) => steps,
            (None, _) => config.total_steps(batches.steps_per_epoch() as u64),
        };
        let agenda = Agenda::new(&config, masks_given, steps)?;
        let stepper = Stepper::new(
            &device,
            AdamW {
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: config.weight_decay,
                max_grad_norm: config.max_grad_norm,
            },
            config.loss_normalisation,
            config.checkpointing == Checkpointing::Layer,
            config.seed,
            config.dropout > 0.0,
        )?;
        drop(batches);
        Ok(Session { config, device, model, dataset, agenda, stepper, trainable, init })
    }

    /// Runs all steps and writes the run folder.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let folder = self.config.out.clone();
        output::create(&folder)?;
        output::write_config(&folder, &self.config)?;
        let mut log = MetricsLog::create(&folder.join("metrics.jsonl"))?;
        observer.begin(self.agenda.steps());
        let loss = self.steps(&mut log, observer)?;
        match &self.trainable {
            Trainable::Adapters(_) if self.config.mask_only => {}
            Trainable::Adapters(set) => output::write_adapter(&folder, &self.config, set)?,
            Trainable::Weights(_) => full::write_model(&folder, &self.config.model, &self.model)?,
        }
        Ok(Outcome {
            steps: self.agenda.steps(),
            loss,
            peak_bytes: self.device.ledger().peak(),
            mask_only: self.config.mask_only,
        })
    }

    fn steps(&mut self, log: &mut MetricsLog, observer: &mut dyn Observer) -> Result<f64> {
        let Session { config, device, model, dataset, agenda, stepper, trainable, init } = self;
        let mut batches = dataset.batches(&batch_options(config))?;
        let mut attached: Option<(bool, bool, bool)> = None;
        let mut collector: Option<MaskCollector> = None;
        let mut reports = Reports::new(log);
        for step in 0..agenda.steps() {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            let Some(plan) = agenda.plan(step) else { break };
            if plan.restart_before {
                batches.seek(Position::default())?;
                if let Trainable::Adapters(set) = trainable {
                    set.initialise(config.seed, init.as_ref())?;
                }
            }
            if let Trainable::Adapters(set) = trainable {
                if plan.collect && collector.is_none() {
                    collector =
                        Some(MaskCollector::new(device, set.targets(), config.mask_mode == MaskMode::MeanSquared)?);
                }
                let now = (plan.train_lora, plan.train_sparse, plan.collect);
                if attached != Some(now) {
                    let training = Training { low_rank: plan.train_lora, sparse: plan.train_sparse };
                    set.attach(model, training, collector.as_ref().filter(|_| plan.collect));
                    attached = Some(now);
                }
            }
            let epoch = batches.position().epoch;
            let window = batches.next_window()?;
            let rates = rates(config, &plan);
            let collecting = collector.as_ref().filter(|_| plan.collect);
            let result = stepper.run(model, &window, step, trainable.blocks(), rates, collecting)?;
            if plan.build_masks_after {
                if let (Trainable::Adapters(set), Some(done)) = (&mut *trainable, collector.take()) {
                    let masks = done.masks()?;
                    if let Some(path) = &config.save_mask {
                        write_masks(path, &masks)?;
                    }
                    let entries: usize = masks.values().map(|m| m.nnz()).sum();
                    observer.note(&format!("masks: {entries} entries in {} matrices", masks.len()));
                    set.set_masks(&masks)?;
                    attached = None;
                }
            }
            let metrics = StepMetrics {
                step,
                phase: plan.phase,
                schedule_step: plan.schedule_step,
                loss: f64::NAN,
                lr: rates.weights.or(rates.sparse).unwrap_or(0.0),
                lora_lr: rates.low_rank.unwrap_or(0.0),
                grad_norm: f64::NAN,
                supervised_tokens: window.iter().map(|b| b.supervised() as u64).sum(),
                tokens: window.iter().map(|b| b.len() as u64).sum(),
                tokens_per_second: 0.0,
                epoch: epoch as f64,
                skipped: false,
            };
            reports.push(result, metrics, observer)?;
        }
        reports.finish(observer)
    }
}

/// Metrics trail the device by one step, so that it never waits for the host.
struct Reports<'a> {
    log: &'a mut MetricsLog,
    pending: Option<(StepResult, StepMetrics)>,
    last_recorded: Instant,
    last_loss: f64,
    skipped: u32,
}

impl<'a> Reports<'a> {
    fn new(log: &'a mut MetricsLog) -> Self {
        Reports { log, pending: None, last_recorded: Instant::now(), last_loss: f64::NAN, skipped: 0 }
    }

    fn push(&mut self, result: StepResult, mut metrics: StepMetrics, observer: &mut dyn Observer) -> Result<()> {
        // the host stays a few submissions ahead of the device, so the time between two steps recorded is a step's time
        let now = Instant::now();
        metrics.tokens_per_second = metrics.tokens as f64 / (now - self.last_recorded).as_secs_f64().max(1e-9);
        self.last_recorded = now;
        if let Some(previous) = self.pending.replace((result, metrics)) {
            self.report(previous, observer)?;
        }
        Ok(())
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<f64> {
        if let Some(last) = self.pending.take() {
            self.report(last, observer)?;
        }
        Ok(self.last_loss)
    }

    fn report(&mut self, (result, mut metrics): (StepResult, StepMetrics), observer: &mut dyn Observer) -> Result<()> {
        (metrics.loss, metrics.grad_norm) = result.wait()?;
        metrics.skipped = !(metrics.loss.is_finite() && metrics.grad_norm.is_finite());
        self.last_loss = metrics.loss;
        self.log.append(&metrics)?;
        observer.step(&metrics);
        self.skipped = if metrics.skipped { self.skipped + 1 } else { 0 };
        if self.skipped == MOST_SKIPPED {
            return Err(Error::NonFinite {
                what: format!("step {}", metrics.step),
                reason: format!(
                    "no finite loss and gradient in {MOST_SKIPPED} steps in a row; lower --lr and --lora-lr"
                ),
            });
        }
        Ok(())
    }
}

fn rates(config: &TrainConfig, plan: &StepPlan) -> Rates {
    let warmup = config.warmup(plan.total_steps);
    let factor = config.lr_schedule.factor(plan.schedule_step, warmup, plan.total_steps);
    Rates {
        low_rank: plan.train_lora.then_some(config.lora_lr * factor),
        sparse: plan.train_sparse.then_some(config.lr * factor),
        weights: plan.train_full.then_some(config.lr * factor),
    }
}

fn batch_options(config: &TrainConfig) -> BatchOptions {
    BatchOptions { batch_size: config.batch_size, gradient_accumulation_steps: config.gradient_accumulation_steps }
}

fn data_options(config: &TrainConfig) -> DataOptions {
    DataOptions {
        kind: row_kind(config.data_format),
        prompt_field: config.prompt_field.clone(),
        response_field: config.response_field.clone(),
        seq_len: config.seq_len,
        packing: config.packing,
        truncate: truncation(config.too_long),
        seed: config.seed,
        shuffle: config.shuffle,
    }
}

/// The rows' kind as the data layer knows it; `None` looks at each row.
pub fn row_kind(format: DataFormat) -> Option<RowKind> {
    match format {
        DataFormat::Auto => None,
        DataFormat::Messages => Some(RowKind::Messages),
        DataFormat::PromptResponse => Some(RowKind::PromptResponse),
        DataFormat::Alpaca => Some(RowKind::Alpaca),
        DataFormat::Text => Some(RowKind::Text),
        DataFormat::Tokens => Some(RowKind::InputIds),
    }
}

/// What happens to long rows, as the data layer knows it.
pub fn truncation(too_long: TooLong) -> Truncate {
    match too_long {
        TooLong::Truncate => Truncate::Truncate,
        TooLong::Drop => Truncate::Drop,
    }
}

/// The model's tokenizer, checked against its vocabulary; `None` if it has none, which is enough for rows of token ids.
pub fn tokenizer_of(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
    let tokenizer = match (checkpoint.folder(), checkpoint.gguf_metadata()) {
        (Some(folder), _) if !folder.join("tokenizer.json").exists() => None,
        (Some(folder), _) => Some(Tokenizer::from_folder(folder)?),
        (None, Some(metadata)) => Some(Tokenizer::from_gguf(checkpoint.path(), metadata)?),
        (None, None) => None,
    };
    if let Some(t) = &tokenizer {
        t.check_model(checkpoint.config.vocab_size)?;
    }
    Ok(tokenizer)
}

fn data_line(dataset: &Dataset) -> String {
    let r = dataset.report();
    let mut line = format!(
        "data: {} rows, {} tokens, {} of them supervised, in {} sequences",
        r.rows, r.tokens, r.supervised, r.sequences
    );
    if r.truncated + r.dropped > 0 {
        line +=
            &format!("; {} rows truncated and {} dropped at --seq-len {}", r.truncated, r.dropped, dataset.seq_len());
    }
    line
}
