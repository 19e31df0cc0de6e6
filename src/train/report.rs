//! Metrics on their way from the device to `metrics.jsonl` and whoever watches.

use super::metrics::{MetricsLog, StepMetrics};
use super::session::Observer;
use super::step::StepResult;
use crate::error::{Error, Result};
use crate::optim::LossScale;
use std::time::Instant;

/// Steps in a row without a finite gradient, after which a run ends.
const MOST_SKIPPED: u32 = 10;

/// Metrics trail the device by one step, so that it never waits for the host.
pub struct Reports<'a> {
    log: &'a mut MetricsLog,
    pending: Option<(StepResult, StepMetrics)>,
    last_recorded: Instant,
    /// Of the last step that was reported; NaN before the first.
    pub last_loss: f64,
    /// Steps without a finite gradient up to there, in a row.
    pub skipped: u32,
    /// What the gradients of the next step are multiplied by.
    pub scale: LossScale,
}

impl<'a> Reports<'a> {
    /// For a run that stands where `last_loss` and `skipped` say.
    pub fn new(log: &'a mut MetricsLog, last_loss: f64, skipped: u32, scale: LossScale) -> Self {
        Reports { log, pending: None, last_recorded: Instant::now(), last_loss, skipped, scale }
    }

    /// Takes a step's numbers, and reports those of the step before.
    pub fn push(&mut self, result: StepResult, mut metrics: StepMetrics, observer: &mut dyn Observer) -> Result<()> {
        // the host stays a few submissions ahead of the device, so the time between two steps recorded is a step's time
        let now = Instant::now();
        metrics.tokens_per_second = metrics.tokens as f64 / (now - self.last_recorded).as_secs_f64().max(1e-9);
        self.last_recorded = now;
        match self.pending.replace((result, metrics)) {
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

    fn report(&mut self, (result, mut metrics): (StepResult, StepMetrics), observer: &mut dyn Observer) -> Result<()> {
        (metrics.loss, metrics.grad_norm) = result.wait()?;
        metrics.skipped = !(metrics.loss.is_finite() && metrics.grad_norm.is_finite());
        self.scale.update(!metrics.skipped);
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
