//! Metrics on their way from the device to the run's files and whoever watches.

use super::evaluation::Sample;
use super::logs::Logs;
use super::metrics::{EvalMetrics, StepMetrics};
use super::observer::Observer;
use super::phase::StepPlan;
use super::step::{StepOutcome, StepResult, Turn};
use crate::data::Batch;
use crate::error::Result;
use crate::optim::LossScale;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Steps in a row without a finite gradient, after which a run ends where a smaller loss scale cannot help any more.
pub const MOST_SKIPPED: u32 = 10;

/// A step as it was recorded, to be repeated if its numbers turn out to be wrong.
pub struct Recorded {
    pub window: Vec<Batch>,
    pub turn: Turn,
    pub plan: StepPlan,
}

/// A step without a finite loss and gradient whose cause is wanted.
pub struct Broken {
    pub step: Recorded,
    /// So many such steps came in a row, this one included.
    pub in_a_row: u32,
    /// They were too many.
    pub last: bool,
    /// A step before it was sound.
    pub after_sound: bool,
}

/// Steps that changed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Up to the last step without a break; 0 if that was taken.
    pub in_a_row: u32,
    pub in_all: u64,
}

/// Metrics trail the device by one step, so that it never waits for the host.
pub struct Reports<'a> {
    logs: &'a mut Logs,
    pending: Option<(StepResult, StepMetrics, Recorded)>,
    last_recorded: Instant,
    /// Of the last step that was reported; NaN before the first.
    pub last_loss: f64,
    /// Steps without a finite loss and gradient up to there.
    pub skipped: Skipped,
    /// What the gradients of the next step are multiplied by.
    pub scale: LossScale,
    broken: Option<Broken>,
    /// The cause of a skipped step has been looked for.
    looked: bool,
    /// A step was sound.
    sound: bool,
}

impl<'a> Reports<'a> {
    /// For a run that stands where `last_loss` and `skipped` say.
    pub fn new(logs: &'a mut Logs, last_loss: f64, skipped: Skipped, scale: LossScale) -> Self {
        Reports {
            logs,
            pending: None,
            last_recorded: Instant::now(),
            last_loss,
            skipped,
            scale,
            broken: None,
            looked: false,
            sound: last_loss.is_finite(),
        }
    }

    /// Takes a step's numbers, and reports those of the step before.
    pub fn push(
        &mut self,
        result: StepResult,
        mut metrics: StepMetrics,
        step: Recorded,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        // the host stays a few submissions ahead of the device, so the time between two steps recorded is a step's time
        let now = Instant::now();
        metrics.tokens_per_second = metrics.tokens as f64 / (now - self.last_recorded).as_secs_f64().max(1e-9);
        self.last_recorded = now;
        match self.pending.replace((result, metrics, step)) {
            Some(previous) => self.report(previous, observer),
            None => Ok(()),
        }
    }

    /// Reports everything up to here; waits for it, and for the disk to have it.
    pub fn flush(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if let Some(last) = self.pending.take() {
            self.report(last, observer)?;
        }
        self.logs.sync()
    }

    /// Reports an evaluation. Everything up to here is reported already. The time that it took is no step's.
    pub fn evaluated(&mut self, metrics: &EvalMetrics, samples: &[Sample], observer: &mut dyn Observer) -> Result<()> {
        self.logs.evaluation(metrics, samples)?;
        observer.evaluated(metrics);
        self.last_recorded = Instant::now();
        Ok(())
    }

    /// A step whose cause is to be looked for now. One that a smaller loss scale may mend is none, until such steps are
    /// too many.
    pub fn take_broken(&mut self) -> Option<Broken> {
        self.broken.take()
    }

    fn report(
        &mut self,
        (result, mut metrics, step): (StepResult, StepMetrics, Recorded),
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let factor = result.loss_scale;
        let StepOutcome { loss, grad_norm, skipped } = result.wait()?;
        (metrics.loss, metrics.grad_norm, metrics.skipped) = (loss, grad_norm, skipped);
        // a step that was repeated at less overflowed at twice that
        let repeated = (factor < step.turn.loss_scale).then_some(2.0 * factor);
        self.scale.note(metrics.step, if skipped { Some(factor) } else { repeated });
        self.last_loss = loss;
        self.logs.step(&metrics)?;
        observer.step(&metrics);
        if !skipped {
            (self.skipped.in_a_row, self.sound) = (0, true);
            return Ok(());
        }
        self.skipped.in_a_row += 1;
        self.skipped.in_all += 1;
        // a gradient may fit at a smaller scale, the loss has none
        let may_fit = loss.is_finite() && factor > 1.0;
        let in_a_row = self.skipped.in_a_row;
        let last = in_a_row >= MOST_SKIPPED && !may_fit;
        if last || !(self.scale.adapts() || self.looked) {
            self.looked = true;
            self.broken = Some(Broken { step, in_a_row, last, after_sound: self.sound });
        }
        Ok(())
    }
}
