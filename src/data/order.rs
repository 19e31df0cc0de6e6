//! Which sequences come when.

use super::dataset::{Dataset, ExampleRef};
use super::pack::Batch;
use super::rows::IGNORED;
use crate::error::{Error, Result};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// How sequences are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchOptions {
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimiser step.
    pub gradient_accumulation_steps: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions { batch_size: 1, gradient_accumulation_steps: 1 }
    }
}

impl BatchOptions {
    fn window(&self) -> usize {
        self.batch_size.saturating_mul(self.gradient_accumulation_steps)
    }
}

/// A place in the stream of sequences: the next one to come. An epoch that is through is the start of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Epochs that are through.
    pub epoch: u64,
    /// Sequences of this epoch that are through.
    pub index: u64,
}

/// A micro-batch by its size, and where it comes: micro-batch `index` of the step at `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    pub tokens: usize,
    /// Tokens that the loss counts.
    pub supervised: usize,
    pub step: Position,
    pub index: usize,
}

/// An endless stream of batches, epoch after epoch; whoever trains decides when it is enough.
pub struct Batches<'a> {
    dataset: &'a Dataset,
    options: BatchOptions,
    position: Position,
    /// The examples of each sequence of the epoch of `position`.
    plan: Vec<Vec<u32>>,
}

impl<'a> Batches<'a> {
    pub(super) fn new(dataset: &'a Dataset, options: BatchOptions) -> Result<Batches<'a>> {
        for (name, value) in
            [("batch_size", options.batch_size), ("gradient_accumulation_steps", options.gradient_accumulation_steps)]
        {
            if value == 0 {
                return Err(Error::invalid(name, "must be at least 1"));
            }
        }
        Ok(Batches { dataset, options, position: Position::default(), plan: dataset.plan(0) })
    }

    /// The micro-batches of the next optimiser step: `gradient_accumulation_steps` of `batch_size` sequences each,
    /// fewer at the end of an epoch, which no step crosses.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the step holds more tokens than 32 bits can number.
    pub fn next_window(&mut self) -> Result<Vec<Batch>> {
        let start = self.position.index as usize;
        let end = start.saturating_add(self.options.window()).min(self.plan.len());
        let window = &self.plan[start..end];
        let examples = |sequences: &[Vec<u32>]| -> Vec<_> {
            sequences.iter().flatten().map(|&i| self.dataset.example(i as usize)).collect()
        };
        let tokens: usize = examples(window).iter().map(|e| e.ids.len()).sum();
        if u32::try_from(tokens).is_err() {
            let reason = format!("an optimiser step of {tokens} tokens is too large; make it smaller");
            return Err(Error::invalid("batch_size × gradient_accumulation_steps", reason));
        }
        let mut first_key = 0;
        let mut batches = Vec::with_capacity(window.len().div_ceil(self.options.batch_size));
        for sequences in window.chunks(self.options.batch_size) {
            let batch = Batch::new(examples(sequences), first_key);
            first_key += batch.len() as u32;
            batches.push(batch);
        }
        self.position.index = end as u64;
        if end == self.plan.len() {
            self.position = Position { epoch: self.position.epoch + 1, index: 0 };
            self.plan = self.dataset.plan(self.position.epoch);
        }
        Ok(batches)
    }

    /// The sizes of the micro-batches of the first `steps` optimiser steps, which are not made for it; not of more than
    /// `most` sequences. Each comes with the number of its step. Whether those are all.
    pub fn sizes(&self, steps: u64, most: usize, mut each: impl FnMut(u64, BatchSize)) -> bool {
        let of = |e: ExampleRef<'_>| (e.ids.len(), e.labels.iter().skip(1).filter(|l| **l != IGNORED).count());
        let examples: Vec<(usize, usize)> = self.dataset.examples().map(of).collect();
        let (mut step, mut sequences) = (0, 0);
        let mut epoch = 0;
        loop {
            let plan = self.dataset.plan(epoch);
            for (i, window) in plan.chunks(self.options.window()).enumerate() {
                if step == steps || sequences >= most {
                    return step == steps;
                }
                let at = Position { epoch, index: (i * self.options.window()) as u64 };
                for (index, batch) in window.chunks(self.options.batch_size).enumerate() {
                    let rows = batch.iter().flatten().map(|&e| examples[e as usize]);
                    let (tokens, supervised) = rows.fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
                    each(step, BatchSize { tokens, supervised, step: at, index });
                }
                (step, sequences) = (step + 1, sequences + window.len());
            }
            epoch += 1;
        }
    }

    /// Where the next window starts; [`Batches::seek`] goes back there, also in another process.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes on from `position`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the set has no such place: then it is not the set that the position was taken in.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let plan = self.dataset.plan(position.epoch);
        if position.index >= plan.len() as u64 {
            let reason = format!(
                "sequence {} of epoch {} does not exist, an epoch has {}; resume with the same data and options",
                position.index,
                position.epoch,
                plan.len()
            );
            return Err(Error::invalid("position in the data", reason));
        }
        (self.plan, self.position) = (plan, position);
        Ok(())
    }

    /// Optimiser steps in epoch `epoch`. With packing and shuffling epochs may differ by a few.
    pub fn steps_in_epoch(&self, epoch: u64) -> usize {
        self.dataset.plan(epoch).len().div_ceil(self.options.window())
    }

    /// Optimiser steps in the first epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_in_epoch(0)
    }

    /// Optimiser steps in the first `epochs` epochs.
    pub fn total_steps(&self, epochs: usize) -> usize {
        match self.dataset.epochs_are_alike() {
            true => epochs * self.steps_in_epoch(0),
            false => (0..epochs as u64).map(|e| self.steps_in_epoch(e)).sum(),
        }
    }
}

/// The order of `n` examples in an epoch.
pub(super) fn example_order(n: usize, seed: u64, epoch: u64, shuffle: bool) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    if shuffle {
        Rng::new(seed, Rng::named(epoch, "examples").next_u64()).shuffle(&mut order);
    }
    order
}

/// Shuffles the sequences of an epoch, which packing leaves ordered within its windows.
pub(super) fn shuffle_sequences(sequences: &mut [Vec<u32>], seed: u64, epoch: u64) {
    Rng::new(seed, Rng::named(epoch, "sequences").next_u64()).shuffle(sequences);
}
