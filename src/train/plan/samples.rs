//! The micro-batches that a plan is made with: few that stand for all of a run's, in every epoch.

use super::Run;
use crate::data::{Batch, BatchOptions, BatchSize, Dataset, ExampleRef};
use crate::error::Result;
use crate::train::phase::PHASES;
use std::collections::BTreeMap;
use std::ops::Range;

/// Micro-batches of a phase.
#[derive(Clone, Default)]
pub(super) struct Samples {
    /// Those of which none has both more tokens and more supervised tokens: they take the most memory.
    pub worst: Vec<Batch>,
    /// One of each length, about, and the first of each kind: kernels are chosen by size, and by whether powers of two divide
    /// it, and some need the more scratch memory the fewer tokens there are.
    pub others: Vec<Batch>,
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

/// The micro-batches that stand for those of each [`Phase`] of `run`, dealt out as `options` say. Without data they are all as
/// large as they can be.
pub(super) fn samples(run: &Run<'_>, options: &BatchOptions) -> Result<[Samples; 3]> {
    let Some(dataset) = run.dataset else {
        return Ok(alike(largest(options.batch_size, run.config.seq_len)));
    };
    of_data(dataset, options, PHASES.map(|phase| run.agenda.windows(phase)), MOST_SEQUENCES)
}

/// The same micro-batch for each phase.
pub(super) fn alike(batch: Batch) -> [Samples; 3] {
    PHASES.map(|_| Samples { worst: vec![batch.clone()], others: Vec::new() })
}

/// Those of the data's `windows`, by phase. Of a run of more than `most` sequences the rest is bounded by a micro-batch that has
/// as many tokens as any can have.
fn of_data(dataset: &Dataset, options: &BatchOptions, windows: [Range<u64>; 3], most: usize) -> Result<[Samples; 3]> {
    let mut batches = dataset.batches(options)?;
    let mut chosen: [Chosen; 3] = Default::default();
    let end = windows.iter().map(|w| w.end).max().unwrap_or(0);
    let is_all = batches.sizes(end, most, |step, size| {
        let phases = chosen.iter_mut().zip(&windows).filter(|(_, windows)| windows.contains(&step));
        phases.for_each(|(chosen, _)| chosen.add(size));
    });
    let mut make = |size: &BatchSize| -> Result<Batch> {
        batches.seek(size.step)?;
        Ok(batches.next_window()?.swap_remove(size.index))
    };
    let mut all: [Samples; 3] = Default::default();
    for (samples, chosen) in all.iter_mut().zip(chosen) {
        samples.worst = chosen.worst.iter().map(&mut make).collect::<Result<_>>()?;
        let mut others: Vec<BatchSize> = Vec::new();
        for size in chosen.others.into_values().chain(chosen.kinds.into_values()) {
            if !others.contains(&size) && !chosen.worst.contains(&size) {
                others.push(size);
            }
        }
        samples.others = others.iter().map(&mut make).collect::<Result<_>>()?;
        if !is_all {
            samples.worst.insert(0, largest(options.batch_size, dataset.longest_sequence()));
        }
    }
    Ok(all)
}

/// `sequences` sequences of `tokens` tokens, every one of them supervised.
pub(super) fn largest(sequences: usize, tokens: usize) -> Batch {
    let (ids, labels) = (vec![0u32; tokens], vec![0i32; tokens]);
    Batch::new((0..sequences).map(|_| ExampleRef { ids: &ids, labels: &labels, line: 0 }), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataOptions;

    #[test]
    fn what_is_not_looked_at_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row = |n: usize| format!("{{\"input_ids\": {:?}}}\n", vec![3; n]);
        std::fs::write(&path, [4, 9, 30, 7, 12, 5].map(row).concat()).unwrap();
        for packing in [false, true] {
            let options = DataOptions { seq_len: 32, packing, ..DataOptions::default() };
            let data = Dataset::open(&path, &options, None, 64).unwrap();
            let two = BatchOptions { batch_size: 2, gradient_accumulation_steps: 1 };
            let most = |most: usize| -> Vec<usize> {
                let [_, _, train] = of_data(&data, &two, [0..0, 0..1, 0..12], most).unwrap();
                train.worst.iter().chain(&train.others).map(Batch::len).collect()
            };
            // all epochs were looked at: the largest is one of the run's; one window was: nothing else can be larger than this
            let (largest, bound) = if packing { (64, 64) } else { (42, 60) };
            assert!(most(1 << 20).iter().all(|tokens| *tokens <= largest));
            assert_eq!(*most(1).iter().max().unwrap(), bound);
            // each phase has its own, and one that does not come has none
            let [none, first, _] = of_data(&data, &two, [0..0, 0..1, 0..12], 1 << 20).unwrap();
            assert_eq!((none.worst.len(), first.worst.len()), (0, 1));
        }
    }
}
