//! What a run tells whoever watches.

use super::metrics::{EvalMetrics, StepMetrics};
use super::warm::Compiled;
use crate::device::Device;

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
