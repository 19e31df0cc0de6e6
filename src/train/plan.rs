//! The memory that a run will take and the kernels that it will launch, before it starts: one step of each phase is
//! recorded on a device that only counts, with the code and the shapes of the run, so that the plan is as exact as the
//! batches that it is made for.

use super::config::{MaskMode, TrainConfig};
use super::phase::{Agenda, Phase};
use super::step::{Stepper, Turn};
use super::trainable::{Trainable, load_options, rates};
use crate::adapters::{MaskCollector, module_shapes};
use crate::csr::CsrPattern;
use crate::data::{Batch, BatchOptions, BatchSize, Dataset, ExampleRef};
use crate::device::dry::DryBackend;
use crate::device::tiles::{Product, TileTable};
use crate::device::{Caps, Device, KernelSpec, Ledger, Precision};
use crate::error::{Error, Result};
use crate::io::checkpoint::Checkpoint;
use crate::nn::loader::load_shapes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run is, as far as its plan is concerned.
pub struct Run<'a> {
    pub config: &'a TrainConfig,
    pub checkpoint: &'a Checkpoint,
    pub dataset: &'a Dataset,
    pub agenda: &'a Agenda,
    /// Masks that are given.
    pub masks: Option<&'a BTreeMap<String, CsrPattern>>,
    /// Of the device that it will run on.
    pub caps: &'a Caps,
    /// Of the device.
    pub precision: Precision,
    /// Those that the device has in use.
    pub tiles: Arc<TileTable>,
}

/// What a run will ask of the device.
#[derive(Clone, Debug)]
pub struct RunPlan {
    pub memory: MemoryPlan,
    /// The specialisations of all phases, each once, in the order of their first launch.
    pub kernels: Vec<KernelSpec>,
    /// The products that have a choice of tiles.
    pub products: Vec<Product>,
}

/// Bytes on the device when they are the most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// By purpose, the largest first.
    pub rows: Vec<(&'static str, u64)>,
    /// Held at once.
    pub total: u64,
    /// Taken from the device: what is held, and what is kept for reuse.
    pub reserved: u64,
}

impl MemoryPlan {
    /// What a ledger has seen.
    pub fn of(ledger: &Ledger) -> MemoryPlan {
        let mut rows: Vec<_> = ledger.rows().map(|(what, row)| (what, row.at_peak)).filter(|r| r.1 > 0).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.1));
        MemoryPlan { rows, total: ledger.peak(), reserved: ledger.peak_reserved() }
    }

    /// Lines of a table.
    pub fn table(&self) -> Vec<String> {
        let row = |(what, bytes): &(&'static str, u64)| format!("  {what:<16} {:>10}", size(*bytes));
        let mut lines = vec!["memory on the device, planned:".to_owned()];
        lines.extend(self.rows.iter().map(row));
        lines.push(row(&("total", self.total)));
        lines
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// The plan of `run`.
///
/// # Errors
/// [`Error::TooLarge`] if a buffer is over what the device takes, with the smallest change that would fit.
pub fn plan(run: &Run<'_>) -> Result<RunPlan> {
    let samples = samples(run.dataset, &run.config.batch_options(), run.agenda.steps())?;
    match record(run, &samples.worst, &samples.others) {
        Err(Error::TooLarge { device, what, requested, limit, hint }) => {
            let hint = way_out(run, &samples.worst)?.unwrap_or(hint);
            Err(Error::TooLarge { device, what, requested, limit, hint })
        }
        other => other,
    }
}

/// Micro-batches of the run.
struct Samples {
    /// Those of which none has both more tokens and more supervised tokens: they take the most memory.
    worst: Vec<Batch>,
    /// One of each length, about, and the first of each kind: kernels are chosen by size, and by whether powers of two divide
    /// it, and some need the more scratch memory the fewer tokens there are.
    others: Vec<Batch>,
}

/// Sequences of a run that are looked at, at most: some seconds' worth.
const MOST_SEQUENCES: usize = 4 << 20;
/// Lengths that are told apart up to each power of two.
const LENGTHS: usize = 8;

/// The sizes that matter of those of all micro-batches.
#[derive(Default)]
struct Chosen {
    worst: Vec<BatchSize>,
    others: BTreeMap<(usize, usize), BatchSize>,
    kinds: BTreeMap<(u32, bool), BatchSize>,
}

impl Chosen {
    fn add(&mut self, size: BatchSize) {
        let covers = |a: &BatchSize, b: &BatchSize| a.tokens >= b.tokens && a.supervised >= b.supervised;
        if !self.worst.iter().any(|w| covers(w, &size)) {
            self.worst.retain(|w| !covers(&size, w));
            self.worst.push(size);
        }
        let octave = size.tokens.max(1).ilog2() as usize;
        self.others.entry((octave, (LENGTHS * size.tokens) >> octave)).or_insert(size);
        let kind = (size.tokens.trailing_zeros().min(6), size.supervised.is_multiple_of(4));
        self.kinds.entry(kind).or_insert(size);
    }
}

/// Micro-batches of the first `steps` steps of the data.
fn samples(dataset: &Dataset, options: &BatchOptions, steps: u64) -> Result<Samples> {
    let mut batches = dataset.batches(options)?;
    let mut chosen = Chosen::default();
    batches.sizes(steps, MOST_SEQUENCES, |size| chosen.add(size));
    let mut make = |size: &BatchSize| -> Result<Batch> {
        batches.seek(size.step)?;
        Ok(batches.next_window()?.swap_remove(size.index))
    };
    let worst = chosen.worst.iter().map(&mut make).collect::<Result<Vec<_>>>()?;
    let mut others: Vec<BatchSize> = Vec::new();
    for size in chosen.others.into_values().chain(chosen.kinds.into_values()) {
        if !others.contains(&size) && !chosen.worst.contains(&size) {
            others.push(size);
        }
    }
    let others = others.iter().map(make).collect::<Result<_>>()?;
    Ok(Samples { worst, others })
}

/// The smallest change of the batch with which the run would fit, if one would do.
fn way_out(run: &Run<'_>, worst: &[Batch]) -> Result<Option<String>> {
    let (now, steps) = (run.config.batch_size, run.config.micro_batches());
    let mut size = now;
    let mut smallest = worst.to_vec();
    while size > 1 {
        size /= 2;
        let options = BatchOptions { batch_size: size, gradient_accumulation_steps: steps };
        smallest = samples(run.dataset, &options, run.agenda.steps())?.worst;
        if record(run, &smallest, &[]).is_ok() {
            let steps = steps.saturating_mul(now.div_ceil(size));
            return Ok(Some(format!("--batch-size {size} --gradient-accumulation-steps {steps} would fit")));
        }
    }
    let mut length = smallest.iter().map(Batch::len).max().unwrap_or(0);
    while length > 2 {
        length /= 2;
        if record(run, &[single(&vec![0; length])], &[]).is_ok() {
            let other = if now > 1 { " --batch-size 1" } else { "" };
            return Ok(Some(format!("--seq-len {length}{other} would fit")));
        }
    }
    Ok(None)
}

/// One sequence, every token of it supervised.
fn single(ids: &[u32]) -> Batch {
    let labels: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    Batch::new([ExampleRef { ids, labels: &labels, line: 0 }], 0)
}

/// Records a step of each phase with each of the micro-batches `worst`, whose memory is the plan's, and with `others`.
fn record(run: &Run<'_>, worst: &[Batch], others: &[Batch]) -> Result<RunPlan> {
    let config = run.config;
    let device = Device::new(Box::new(DryBackend::new(run.caps.clone())));
    device.set_precision(run.precision);
    device.set_tiles(run.tiles.clone());
    device.note_launches(true);
    device.note_products(true);
    let options = load_options(config);
    let mut model = load_shapes(&device, run.checkpoint, options)?;
    let shapes = module_shapes(&model);
    let mut trainable = Trainable::new(&device, config, &mut model, &shapes, run.masks)?;
    let stepper = Stepper::of(&device, config)?;
    let accumulates = config.micro_batches() > 1;
    let mut first = 0;
    for phase in [Phase::Warmup, Phase::Collect, Phase::Train] {
        let step = first;
        first += run.agenda.phase_steps(phase);
        let Some(plan) = run.agenda.plan(step).filter(|plan| plan.phase == phase) else { continue };
        let collector = match (&trainable, plan.collect) {
            (Trainable::Adapters(set), true) => {
                Some(MaskCollector::new(&device, set.targets(), config.mask_mode == MaskMode::MeanSquared)?)
            }
            _ => None,
        };
        trainable.attach(&model, &plan, collector.as_ref())?;
        let turn = Turn { step: 0, rates: rates(config, &plan), loss_scale: 1.0 };
        // those with the most memory once more: some of it, images, stays from one step to the next
        for batch in worst.iter().chain(others).chain(worst) {
            let window = vec![batch.clone(); if accumulates { 2 } else { 1 }];
            stepper.run(&model, &window, trainable.blocks(), turn, collector.as_ref())?;
        }
        if let Some(collector) = collector.as_ref().filter(|_| plan.collect) {
            collector.masks()?;
        }
        trainable.attach(&model, &plan, None)?;
        drop(collector);
        if let (Trainable::Adapters(set), true) = (&mut trainable, plan.collect) {
            set.reserve_masks()?;
        }
    }
    let kernels = device.launched_kernels();
    let products = device.note_products(false);
    Ok(RunPlan { memory: MemoryPlan::of(&device.ledger()), kernels, products })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(512), "0.5 KiB");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(size(1536 << 20), "1.5 GiB");
        assert_eq!(size(1 << 51), "2048.0 TiB");
    }

    #[test]
    fn a_table_has_a_row_for_each_purpose_and_the_total() {
        let plan = MemoryPlan { rows: vec![("weights", 2 << 20), ("batch", 1024)], total: 2049 << 10, reserved: 0 };
        let lines = plan.table();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], "  weights             2.0 MiB");
        assert_eq!(lines[3], "  total               2.0 MiB");
        assert!(lines.iter().skip(1).all(|l| l.len() == lines[1].len()));
    }
}
