//! What choosing the masks adds to a run of these steps: memory, and time.

use super::{Bench, Purpose, StepCase};
use crate::adapters::{MaskCollector, Scope, score_groups};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::optim::Group;
use crate::train::config::default;
use crate::train::step::{StepResult, Turn};
use std::ops::Range;
use std::time::Instant;

/// The collecting steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Collection {
    /// So many times each is run.
    pub groups: usize,
    /// Bytes that are held at once while it is, planned.
    pub peak: u64,
    /// Seconds of one such run; none where the device has no room for it beside the sparse adapters that the other
    /// measurements need.
    pub step: Option<f64>,
}

impl Bench {
    fn groups(&self) -> Vec<Range<usize>> {
        score_groups(self.adapters.targets(), default::mask_workspace().0)
    }

    /// A step whose gradients make the scores of some targets, and their masks.
    fn collect(&mut self, scored: Range<usize>) -> Result<StepResult> {
        let scope = Scope { scored, watches_others: false };
        let collector = MaskCollector::new(&self.device, self.adapters.targets(), true, &scope)?;
        let rates = self.rates.without(Group::Sparse);
        self.adapters.attach(&self.model, rates.groups(), Some(&collector))?;
        let turn = Turn { step: self.steps, rates, loss_scale: self.scale.factor(self.steps) };
        let blocks = self.adapters.blocks();
        let result = self.stepper.run(&self.model, &self.window, blocks, turn, Some((&collector).into()))?;
        collector.masks()?;
        Ok(result)
    }

    /// Seconds of a collecting step and the masks of the first group; the median of three.
    fn timed_collection(&mut self) -> Result<Option<f64>> {
        let Some(first) = self.groups().first().cloned() else { return Ok(None) };
        let mut times = Vec::new();
        for _ in 0..4 {
            self.device.wait()?;
            let start = Instant::now();
            match self.collect(first.clone()) {
                Err(Error::OutOfMemory { .. }) => return Ok(None),
                done => drop(done?),
            }
            self.device.wait()?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.remove(0); // with kernels that no other step needs
        times.sort_by(f64::total_cmp);
        Ok(times.get(1).copied())
    }
}

/// The collecting steps of a run of `case`, timed with `bench`, which is of no use for other measurements afterwards.
pub(super) fn measure(
    case: &StepCase,
    device: &Device,
    precision: Precision,
    bench: &mut Bench,
) -> Result<Option<Collection>> {
    if !bench.rates.has(Group::Sparse) {
        return Ok(None);
    }
    let dry = device.counting();
    dry.set_precision(precision);
    let mut planned = Bench::new(case, &dry, precision, Purpose::Collection)?;
    dry.restart_peaks();
    let groups = planned.groups();
    for scored in groups.clone() {
        planned.collect(scored)?;
        let training = planned.rates.without(Group::Sparse).groups();
        planned.adapters.attach(&planned.model, training, None)?;
    }
    let step = bench.timed_collection()?;
    Ok(Some(Collection { groups: groups.len(), peak: dry.ledger().peak(), step }))
}
