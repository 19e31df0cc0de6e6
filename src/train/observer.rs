//! What a run tells whoever watches.

use super::metrics::{EvalMetrics, StepMetrics};
use super::warm::Compiled;
use crate::device::Device;
use crate::shown;

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

/// Writes what a run tells to standard error, a line each.
pub struct Lines;

impl Observer for Lines {
    fn note(&mut self, line: &str) {
        eprintln!("{}", shown::one_line(line));
    }

    fn begin(&mut self, steps: u64, done: u64) {
        eprintln!("steps {} to {steps}", done + 1);
    }

    fn step(&mut self, metrics: &StepMetrics) {
        eprintln!("step {}: loss {:.4}", metrics.step + 1, metrics.loss);
    }

    fn evaluated(&mut self, metrics: &EvalMetrics) {
        let loss = metrics.eval_loss.map_or(String::new(), |loss| format!(": loss {loss:.4}"));
        eprintln!("evaluated after step {}{loss}", metrics.after);
    }

    fn interrupted(&self) -> bool {
        false
    }
}
