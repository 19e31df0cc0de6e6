//! Metrics on their way from the device to `metrics.jsonl` and whoever watches.

use super::metrics::{MetricsLog, StepMetrics};
use super::phase::StepPlan;
use super::session::Observer;
use super::step::{StepResult, Turn};
use crate::data::Batch;
use crate::error::Result;
use crate::optim::LossScale;
use std::time::Instant;

/// Steps in a row without a finite gradient, after which a run ends.
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
    /// Such a step has come [`MOST_SKIPPED`] times in a row.
    pub last: bool,
    /// A step before it was sound.
    pub after_sound: bool,
}

/// Metrics trail the device by one step, so that it never waits for the host.
pub struct Reports<'a> {
    log: &'a mut MetricsLog,
    pending: Option<(StepResult, StepMetrics, Recorded)>,
    last_recorded: Instant,
    /// Of the last step that was reported; NaN before the first.
    pub last_loss: f64,
    /// Steps without a finite gradient up to there, in a row.
    pub skipped: u32,
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
    pub fn new(log: &'a mut MetricsLog, last_loss: f64, skipped: u32, scale: LossScale) -> Self {
        Reports {
            log,
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
        self.log.sync()
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
        (metrics.loss, metrics.grad_norm) = result.wait()?;
        metrics.skipped = !(metrics.loss.is_finite() && metrics.grad_norm.is_finite());
        self.scale.note(metrics.step, !metrics.skipped);
        self.last_loss = metrics.loss;
        self.log.append(&metrics)?;
        observer.step(&metrics);
        if !metrics.skipped {
            (self.skipped, self.sound) = (0, true);
            return Ok(());
        }
        self.skipped += 1;
        let last = self.skipped >= MOST_SKIPPED;
        if last || !(self.scale.adapts() || self.looked) {
            self.looked = true;
            self.broken = Some(Broken { step, last, after_sound: self.sound });
        }
        Ok(())
    }
}
