//! The memory that a run will take and the kernels that it will launch, before it starts: one step of each phase is
//! recorded on a device that only counts, with the code and the shapes of the run, so that the plan is as exact as the
//! batches that it is made for.

pub mod fit;
mod samples;

use super::collect;
use super::config::TrainConfig;
use super::evaluation::Evaluation;
use super::phase::{Agenda, PHASES, Phase};
use super::step::{Collect, Stepper, Turn};
use super::trainable::{Trainable, load_options, rates};
use crate::adapters::{MaskCollector, module_shapes};
use crate::csr::CsrPattern;
use crate::data::{Batch, Dataset};
use crate::device::dry::DryBackend;
use crate::device::tiles::{Product, TileTable};
use crate::device::{Caps, Device, KernelSpec, Ledger, Precision};
use crate::error::{Error, Result};
use crate::io::checkpoint::Checkpoint;
use crate::nn::loader::load_shapes;
use samples::{Samples, samples};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run is, as far as its plan is concerned.
#[derive(Clone)]
pub struct Run<'a> {
    pub config: &'a TrainConfig,
    pub checkpoint: &'a Checkpoint,
    /// None: any rows that the configuration allows.
    pub dataset: Option<&'a Dataset>,
    /// Between the steps.
    pub evaluation: Option<&'a Evaluation>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// By purpose, the largest first.
    pub rows: Vec<(&'static str, u64)>,
    /// Held at once.
    pub total: u64,
    /// Taken from the device: what is held, and what is kept for reuse.
    pub reserved: u64,
    /// The most that is held in each phase of the run, as far as they are told apart.
    pub phases: Vec<(Phase, u64)>,
}

impl MemoryPlan {
    /// What a ledger has seen.
    pub fn of(ledger: &Ledger) -> MemoryPlan {
        let mut rows: Vec<_> = ledger.rows().map(|(what, row)| (what, row.at_peak)).filter(|r| r.1 > 0).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.1));
        MemoryPlan { rows, total: ledger.peak(), reserved: ledger.peak_reserved(), phases: Vec::new() }
    }

    /// Lines of a table.
    pub fn table(&self) -> Vec<String> {
        let row = |(what, bytes): &(&'static str, u64)| format!("  {what:<16} {:>10}", size(*bytes));
        let mut lines = vec!["memory on the device, planned:".to_owned()];
        lines.extend(self.rows.iter().map(row));
        lines.push(row(&("total", self.total)));
        if self.phases.len() > 1 {
            let phases: Vec<String> = self.phases.iter().map(|(p, bytes)| format!("{p} {}", size(*bytes))).collect();
            lines.push(format!("  at most in each phase: {}", phases.join(", ")));
        }
        lines
    }

    /// Takes in what `ledger` has seen of `phase`.
    fn add(&mut self, phase: Phase, ledger: &Ledger) {
        let seen = MemoryPlan::of(ledger);
        self.reserved = self.reserved.max(seen.reserved);
        self.phases.push((phase, seen.total));
        if seen.total > self.total {
            (self.rows, self.total) = (seen.rows, seen.total);
        }
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
    let samples = samples(run, &run.config.batch_options())?;
    match record(run, &samples) {
        Err(Error::TooLarge { device, what, requested, limit, hint }) => {
            let change = fit::smallest_change(run, &MemoryPlan::default(), u64::MAX)?;
            let hint = change.map_or(hint, |change| format!("{change} would fit"));
            Err(Error::TooLarge { device, what, requested, limit, hint })
        }
        other => other,
    }
}

/// Records a step of each phase with each of its micro-batches.
fn record(run: &Run<'_>, samples: &[Samples; 3]) -> Result<RunPlan> {
    let config = run.config;
    let device = Device::new(Box::new(DryBackend::new(run.caps.clone())));
    device.set_precision(run.precision);
    device.set_tiles(run.tiles.clone());
    device.note_launches(true);
    device.note_products(true);
    let options = load_options(config, run.checkpoint.config.max_position_embeddings);
    let mut model = load_shapes(&device, run.checkpoint, options)?;
    let shapes = module_shapes(&model);
    let mut trainable = Trainable::new(&device, config, &mut model, &shapes, run.masks)?;
    let stepper = Stepper::of(&device, config)?;
    let accumulates = config.micro_batches() > 1;
    let mut memory = MemoryPlan::of(&device.ledger());
    for (phase, Samples { worst, others }) in PHASES.into_iter().zip(samples) {
        let step = run.agenda.phase_start(phase);
        let Some(plan) = run.agenda.plan(step).filter(|plan| plan.phase == phase) else { continue };
        device.restart_peaks();
        let turn = Turn { step: 0, rates: rates(config, &plan), loss_scale: 1.0 };
        let steps = |trainable: &mut Trainable, collector: Option<&MaskCollector>, batches: &[&Batch]| {
            trainable.attach(&model, &plan, collector)?;
            let mut step = |batch: &Batch| -> Result<()> {
                let window = vec![batch.clone(); if accumulates { 2 } else { 1 }];
                stepper.run(&model, &window, trainable.blocks(), turn, collector.map(Collect::from)).map(drop)
            };
            batches.iter().try_for_each(|batch| step(batch))?;
            if let Some(evaluation) = run.evaluation {
                evaluation.rehearse(config, &device, &model)?;
                worst.iter().try_for_each(step)?;
            }
            collector.map_or(Ok(()), |c| c.masks().map(drop))?;
            trainable.attach(&model, &plan, None)
        };
        // those with the most memory once more: some of it, images, stays from one step to the next
        let all: Vec<&Batch> = worst.iter().chain(others).chain(worst).collect();
        let groups = match (&trainable, plan.collect) {
            (Trainable::Adapters(set), true) => collect::groups(config, set),
            _ => Vec::new(),
        };
        if groups.is_empty() {
            steps(&mut trainable, None, &all)?;
        }
        for index in 0..groups.len() {
            let Trainable::Adapters(set) = &trainable else { break };
            let collector = collect::collector(config, &device, set, &groups, index)?;
            // the first group has launched whatever there is
            let batches = if index == 0 { &all[..] } else { &all[..worst.len()] };
            steps(&mut trainable, Some(&collector), batches)?;
        }
        memory.add(phase, &device.ledger());
        if let (Trainable::Adapters(set), true) = (&mut trainable, plan.collect) {
            set.reserve_masks()?;
        }
    }
    let kernels = device.launched_kernels();
    let products = device.note_products(false);
    Ok(RunPlan { memory, kernels, products })
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
        let plan = MemoryPlan {
            rows: vec![("weights", 2 << 20), ("batch", 1024)],
            total: 2049 << 10,
            reserved: 0,
            phases: Vec::new(),
        };
        let lines = plan.table();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], "  weights             2.0 MiB");
        assert_eq!(lines[3], "  total               2.0 MiB");
        assert!(lines.iter().skip(1).all(|l| l.len() == lines[1].len()));
    }
}
