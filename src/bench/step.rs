//! Training steps of a named shape with random weights: forward, loss, backward, clipping and AdamW through
//! [`Stepper`] and [`AdapterSet`], as a run does them. Every token is supervised; sequences have all the same length.

mod masks;
#[cfg(test)]
mod memory_tests;

pub use masks::Collection;

use super::profile::Profile;
use super::shapes::{Shape, format_of};
use super::{Spread, random};
use crate::adapters::targets::{PerModule, Target, TargetModules, TargetRules, select};
use crate::adapters::{AdapterSet, module_shapes};
use crate::cases::startup;
use crate::cases::{MaskKind, random_mask};
use crate::csr::CsrPattern;
use crate::data::{Batch, ExampleRef};
use crate::device::tiles::Product;
use crate::device::{Caps, Counters, Device, DeviceOptions, Feature, KernelSpec, Precision};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::cache_folder;
use crate::io::checkpoint::Checkpoint;
use crate::kernels::precision;
use crate::nn::Decoder;
use crate::nn::loader::{LoadOptions, load_shapes};
use crate::optim::{AdamW, Group, LossScale, Rates, Training};
use crate::rng::Rng;
use crate::train::config::{Checkpointing, LossNormalisation};
use crate::train::step::{Part, StepOutcome, StepResult, Stepper, Turn};
use crate::train::tune::{Tuning, tune};
use crate::train::warm::{Compilation, compile_while};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Which halves of the adapter train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Adapter {
    /// A and B
    Lora,
    /// A, B and S
    Rosa,
    /// S
    #[cfg_attr(feature = "cli", value(alias = "sparse"))]
    Spa,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct StepCase {
    pub shape: &'static Shape,
    pub adapter: Adapter,
    /// Of the linears; see [`format_of`] for the rest.
    pub weights: DType,
    pub precision: Precision,
    pub rank: usize,
    /// Share of each matrix's entries in its mask.
    pub density: f64,
    pub mask: MaskKind,
    /// Sequences a step.
    pub batch_size: usize,
    /// Tokens of each.
    pub seq_len: usize,
    pub checkpointing: Checkpointing,
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct StepRuns {
    /// Steps before anything is measured, the first included.
    pub warmup: usize,
    /// Steps of each measurement.
    pub steps: usize,
    /// Time each launch, in steps of their own.
    pub profile: bool,
    /// Measure tiles first, for so long at most.
    pub tune: Option<Duration>,
}

/// What was measured. Times in seconds.
#[derive(Clone, Debug)]
pub struct StepReport {
    pub caps: Caps,
    /// As used: f16 falls back where a device cannot.
    pub precision: Precision,
    /// Adapter parameters that train.
    pub parameters: usize,
    /// Tokens a step.
    pub tokens: usize,
    /// A step with a wait at its end.
    pub step: Spread,
    /// A step among steps that are recorded while others run, as in a run.
    pub streamed: f64,
    /// Parts of a step with a wait behind each.
    pub forward: Spread,
    pub backward: Spread,
    pub update: Spread,
    /// The CPU's part of a step whose predecessors are done, and of it what is above the API.
    pub record: Spread,
    pub record_dry: Spread,
    /// Of one step, the mean over those that were measured.
    pub counted: Counted,
    /// Bytes that were held at once, and taken from the device, at the most.
    pub peak: u64,
    pub reserved: u64,
    /// Of the steps that choose the masks in a run of these ones.
    pub collection: Option<Collection>,
    /// What came of the measurements of tiles, where that was wanted.
    pub tuning: Option<Tuning>,
    /// Measured tiles in use.
    pub tiles: usize,
    /// Opening the device and checking its kernels.
    pub open: f64,
    /// Finding out which kernels a step needs; then model, adapters and masks.
    pub build: f64,
    /// Of the kernels, beside `build`.
    pub compilation: Compilation,
    pub first_step: f64,
    /// Kernels that only the first step asked for.
    pub late_kernels: u64,
    /// Of the first and of the last step.
    pub losses: (f64, f64),
    pub profile: Option<Profile>,
}

/// Events in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    pub launches: f64,
    pub submissions: f64,
    pub pipelines: f64,
    pub bind_groups: f64,
    pub allocations: f64,
    pub readbacks: f64,
}

impl StepReport {
    /// From opening the device to the end of the first step.
    pub fn to_first_step(&self) -> f64 {
        self.open + self.build + self.compilation.waited + self.first_step
    }

    /// Bytes that a run of such steps holds at the most, the steps that choose its masks included.
    pub fn run_peak(&self) -> u64 {
        self.peak.max(self.collection.map_or(0, |c| c.peak))
    }

    /// With a wait at the end of each step, by the median.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.step.median.max(1e-12)
    }
}

/// Measures `case` on a device opened for it alone, so that counters and memory are its own.
///
/// # Errors
/// Those of the device; sizes that do not fit together.
pub fn run(case: &StepCase, runs: StepRuns, device: Option<String>) -> Result<StepReport> {
    let start = Instant::now();
    let device = Device::open(&DeviceOptions::from_env(device))?;
    let precision = match case.precision {
        Precision::F32 => Precision::F32,
        Precision::F16 => precision::enable(&device)?,
    };
    device.load_tiles();
    let open = start.elapsed().as_secs_f64();
    let tuning = match runs.tune {
        Some(limit) => {
            let products = rehearse(case, &device, precision)?.products;
            Some(tune(&device, &products, limit, cache_folder().as_deref())?)
        }
        None => None,
    };
    let start = Instant::now();
    let Rehearsal { kernels, products, record: record_dry } = rehearse(case, &device, precision)?;
    let building = || {
        let bench = Bench::new(case, &device, precision, Purpose::Measurement)?;
        device.wait()?;
        Ok(bench)
    };
    let (mut bench, compilation) = compile_while(&device, &kernels, building, &mut |_| {})?;
    let build = start.elapsed().as_secs_f64() - compilation.waited;
    startup::prove(&device, &kernels)?;

    let start = Instant::now();
    let ready = device.counters().pipelines;
    let first = bench.step(|_| Ok(()))?;
    let first_loss = bench.finish(first)?;
    let first_step = start.elapsed().as_secs_f64();
    let late_kernels = device.counters().pipelines - ready;
    for _ in 1..runs.warmup {
        let result = bench.step(|_| Ok(()))?;
        bench.finish(result)?;
    }
    let before = device.counters();
    let step = bench.waited(runs.steps)?;
    let counted = Counted::between(before, device.counters(), runs.steps);
    let record = bench.recorded(runs.steps)?;
    let streamed = bench.streamed(runs.steps)?;
    let [forward, backward, update] = bench.parts(runs.steps)?;
    let profile = match runs.profile {
        true => Some(bench.profile(runs.steps.min(5))?),
        false => None,
    };
    let ledger = device.ledger();
    let last_loss = bench.loss;
    let collection = masks::measure(case, &device, precision, &mut bench)?;
    Ok(StepReport {
        caps: device.caps().clone(),
        precision,
        parameters: bench.parameters,
        tokens: bench.window[0].len(),
        step,
        streamed,
        forward,
        backward,
        update,
        record,
        record_dry,
        counted,
        peak: ledger.peak(),
        reserved: ledger.peak_reserved(),
        collection,
        tuning,
        tiles: device.tiles().of(&products).len(),
        open,
        build,
        compilation,
        first_step,
        late_kernels,
        losses: (first_loss, last_loss),
        profile,
    })
}

/// What a step asks for, and the time to record it.
pub(super) struct Rehearsal {
    pub kernels: Vec<KernelSpec>,
    /// Those with a choice of tiles.
    products: Vec<Product>,
    record: Spread,
}

/// A step of `case` on a device that only counts.
pub(super) fn rehearse(case: &StepCase, device: &Device, precision: Precision) -> Result<Rehearsal> {
    let dry = device.counting();
    dry.set_precision(precision);
    dry.note_launches(true);
    dry.note_products(true);
    let mut bench = Bench::new(case, &dry, precision, Purpose::Rehearsal)?;
    bench.step(|_| Ok(()))?;
    let kernels = dry.launched_kernels();
    let products = dry.note_products(false);
    Ok(Rehearsal { kernels, products, record: bench.recorded(3)? })
}

impl Counted {
    fn between(before: Counters, after: Counters, steps: usize) -> Counted {
        let each = |after: u64, before: u64| (after - before) as f64 / steps.max(1) as f64;
        Counted {
            launches: each(after.launches, before.launches),
            submissions: each(after.submissions, before.submissions),
            pipelines: each(after.pipelines, before.pipelines),
            bind_groups: each(after.bind_groups, before.bind_groups),
            allocations: each(after.allocations, before.allocations),
            readbacks: each(after.readbacks, before.readbacks),
        }
    }
}

/// What a bench is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Measurement,
    /// On a device that only counts: values and masks make no difference.
    Rehearsal,
    /// On such a device, before there are masks.
    Collection,
}

/// A model with adapters, and the batch of every step.
struct Bench {
    device: Device,
    model: Decoder,
    adapters: AdapterSet,
    stepper: Stepper,
    window: [Batch; 1],
    rates: Rates,
    scale: LossScale,
    parameters: usize,
    /// Recorded, and of these waited for.
    steps: u64,
    finished: u64,
    loss: f64,
}

impl Bench {
    fn new(case: &StepCase, device: &Device, precision: Precision, purpose: Purpose) -> Result<Bench> {
        let config = case.shape.config();
        let vocab = config.vocab_size;
        let checkpoint = Checkpoint::of_shapes(config, case.shape.name, |name| format_of(case.weights, name))?;
        let options = LoadOptions { trainable: false, stacked: true, positions: case.seq_len };
        let model = load_shapes(device, &checkpoint, options)?;
        if purpose == Purpose::Measurement {
            random::fill(&model)?;
        }
        // blocks of random values are not needed any more, nor counted
        device.wait()?;
        device.trim()?;

        let (low_rank, sparse) = (case.adapter != Adapter::Spa, case.adapter != Adapter::Lora);
        let targets = select(&module_shapes(&model), &rules(case, low_rank, sparse))?;
        let mut adapters = AdapterSet::new(device, targets, 0.0)?;
        match (sparse, purpose) {
            (false, _) | (true, Purpose::Collection) => {}
            (true, Purpose::Rehearsal) => adapters.reserve_masks()?,
            (true, Purpose::Measurement) => adapters.set_masks(&masks(adapters.targets(), case.mask)?)?,
        }
        if purpose == Purpose::Measurement {
            adapters.initialise(42, None)?;
        }
        let trains = [low_rank.then_some(Group::LowRank), sparse.then_some(Group::Sparse)];
        let training = Training::only(trains.into_iter().flatten());
        adapters.attach(&model, training, None)?;
        let of = |t: &Target| t.rank * (t.module.in_features + t.module.out_features) + t.nnz;
        let parameters = adapters.targets().iter().map(of).sum();

        let optimiser =
            AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0, bf16_adapters: false };
        let stepper = Stepper::new(device, optimiser, LossNormalisation::Tokens, case.checkpointing.0, 42, false)?;
        Ok(Bench {
            device: device.clone(),
            model,
            adapters,
            stepper,
            window: [batch(case, vocab)],
            rates: training.map(|group, ()| if group == Group::LowRank { 7e-4 } else { 2e-4 }),
            scale: if precision == Precision::F16 { LossScale::dynamic() } else { LossScale::off() },
            parameters,
            steps: 0,
            finished: 0,
            loss: f64::NAN,
        })
    }

    /// Records a step.
    fn step(&mut self, recorded: impl FnMut(Part) -> Result<()>) -> Result<StepResult> {
        let turn = Turn { step: self.steps, rates: self.rates, loss_scale: self.scale.factor(self.steps) };
        self.steps += 1;
        self.stepper.run_in_parts(&self.model, &self.window, self.adapters.blocks(), turn, None, recorded)
    }

    /// Waits for a step; its loss.
    fn finish(&mut self, result: StepResult) -> Result<f64> {
        let factor = result.loss_scale;
        let StepOutcome { loss, skipped, .. } = result.wait()?;
        self.scale.note(self.finished, skipped.then_some(factor));
        self.finished += 1;
        self.loss = loss;
        if loss.is_finite() {
            return Ok(loss);
        }
        Err(Error::NonFinite { what: format!("step {}", self.steps), reason: "the loss is not a number".into() })
    }

    /// Steps with a wait at the end of each.
    fn waited(&mut self, steps: usize) -> Result<Spread> {
        let mut times = Vec::with_capacity(steps);
        for _ in 0..steps {
            let start = Instant::now();
            let result = self.step(|_| Ok(()))?;
            self.device.wait()?;
            times.push(start.elapsed().as_secs_f64());
            self.finish(result)?;
        }
        Ok(Spread::of(times))
    }

    /// The time until a step is recorded and handed over, with nothing before it under way.
    fn recorded(&mut self, steps: usize) -> Result<Spread> {
        let mut times = Vec::with_capacity(steps);
        for _ in 0..steps {
            self.device.wait()?;
            let start = Instant::now();
            let result = self.step(|_| Ok(()))?;
            times.push(start.elapsed().as_secs_f64());
            drop(result);
        }
        self.device.wait()?;
        Ok(Spread::of(times))
    }

    /// Steps one behind the other, each one's numbers read while the next one runs.
    fn streamed(&mut self, steps: usize) -> Result<f64> {
        self.device.wait()?;
        let start = Instant::now();
        let mut pending: Option<StepResult> = None;
        for _ in 0..steps {
            let result = self.step(|_| Ok(()))?;
            if let Some(previous) = pending.replace(result) {
                self.finish(previous)?;
            }
        }
        if let Some(last) = pending {
            self.finish(last)?;
        }
        self.device.wait()?;
        Ok(start.elapsed().as_secs_f64() / steps.max(1) as f64)
    }

    /// Steps with a wait behind each part.
    fn parts(&mut self, steps: usize) -> Result<[Spread; 3]> {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        let device = self.device.clone();
        for _ in 0..steps {
            device.wait()?;
            let mut last = Instant::now();
            let result = self.step(|part| {
                device.wait()?;
                let now = Instant::now();
                times[part as usize].push((now - last).as_secs_f64());
                last = now;
                Ok(())
            })?;
            self.finish(result)?;
        }
        Ok(times.map(Spread::of))
    }

    /// Steps with each launch timed by the device.
    fn profile(&mut self, steps: usize) -> Result<Profile> {
        let caps = self.device.caps();
        if !caps.has(Feature::Timestamps) {
            return Err(Error::option("profile", format!("{} has no timestamps; leave it out", caps.name)));
        }
        self.device.profile(true)?;
        for _ in 0..steps {
            let result = self.step(|_| Ok(()))?;
            self.finish(result)?;
        }
        Ok(Profile::of(&self.device.profile(false)?, steps))
    }
}

fn rules(case: &StepCase, low_rank: bool, sparse: bool) -> TargetRules {
    TargetRules {
        modules: TargetModules::default(),
        rank: if low_rank { case.rank } else { 0 },
        rank_pattern: PerModule::default(),
        alpha: 16.0,
        alpha_pattern: PerModule::default(),
        rslora: false,
        density: if sparse { case.density } else { 0.0 },
        density_pattern: PerModule::default(),
    }
}

/// A random mask for each target.
fn masks(targets: &[Target], kind: MaskKind) -> Result<BTreeMap<String, CsrPattern>> {
    let mask = |t: &Target| {
        let mut rng = Rng::named(1, &t.module.name);
        let pattern = random_mask(kind, t.module.out_features, t.module.in_features, t.nnz, &mut rng)?;
        Ok((t.module.name.clone(), pattern))
    };
    targets.par_iter().map(mask).collect()
}

/// Random tokens, all of them to be learnt.
fn batch(case: &StepCase, vocab: usize) -> Batch {
    let mut rng = Rng::named(1, "tokens");
    let ids: Vec<u32> = (0..case.batch_size * case.seq_len).map(|_| rng.below(vocab as u64) as u32).collect();
    let labels: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let rows = ids.chunks(case.seq_len).zip(labels.chunks(case.seq_len));
    Batch::new(rows.map(|(ids, labels)| ExampleRef { ids, labels, line: 0 }), 0)
}
