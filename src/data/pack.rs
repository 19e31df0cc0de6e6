//! Sequences out of examples, and batches out of sequences. There is no padding anywhere.

use super::dataset::ExampleRef;
use super::rows::IGNORED;
use std::collections::BTreeSet;

/// Examples that are looked at together when they are packed: bounds the work, and how far an example may move from its
/// place in the order.
const WINDOW: usize = 2048;

/// Packs examples of the given lengths (tokens, each at most `seq_len`), taken in `order`, into sequences of at most
/// `seq_len` tokens: best fit, longest first, within windows of [`WINDOW`] examples. Sequences and the examples in
/// them come in the order of their first example; the result depends on the arguments alone.
pub(super) fn pack(order: &[u32], length: impl Fn(u32) -> usize, seq_len: usize) -> Vec<Vec<u32>> {
    let mut sequences = Vec::new();
    for window in order.chunks(WINDOW) {
        let mut longest_first: Vec<usize> = (0..window.len()).collect();
        longest_first.sort_by_key(|&i| std::cmp::Reverse(length(window[i])));
        // open sequences by the room that they have left
        let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut bins: Vec<Vec<usize>> = Vec::new();
        for i in longest_first {
            let need = length(window[i]);
            let (left, bin) = match room.range((need, 0)..).next().copied() {
                Some(best) => {
                    room.remove(&best);
                    best
                }
                None => {
                    bins.push(Vec::new());
                    (seq_len, bins.len() - 1)
                }
            };
            bins[bin].push(i);
            room.insert((left.saturating_sub(need), bin));
        }
        bins.iter_mut().for_each(|bin| bin.sort_unstable());
        bins.sort_unstable();
        sequences.extend(bins.into_iter().map(|bin| bin.into_iter().map(|i| window[i]).collect()));
    }
    sequences
}

/// One micro-batch: the tokens of all its examples one after the other. `T` is their number; an example is a segment,
/// and a token attends to tokens of its own segment only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// [T] token ids.
    pub tokens: Vec<u32>,
    /// [T] place in the segment, from 0.
    pub positions: Vec<u32>,
    /// [T] index in the batch of the first token of this token's segment.
    pub segment_start: Vec<u32>,
    /// [T] one past the index of its last token.
    pub segment_end: Vec<u32>,
    /// [T] what the model should say after this token: the next token's label; -100 in the segment's last place.
    pub targets: Vec<i32>,
    /// [T] the token's number in the whole optimiser step, for dropout: it does not change with the way in which the
    /// step's sequences are spread over micro-batches.
    pub keys: Vec<u32>,
    /// Examples.
    pub rows: usize,
}

impl Batch {
    /// A batch of these examples in this order. `first_key` is the number of tokens in the step's earlier micro-batches.
    pub fn new<'a>(examples: impl IntoIterator<Item = ExampleRef<'a>>, first_key: u32) -> Batch {
        let mut batch = Batch::default();
        for example in examples {
            let start = batch.tokens.len() as u32;
            let end = start + example.ids.len() as u32;
            batch.tokens.extend_from_slice(example.ids);
            batch.positions.extend(0..end - start);
            batch.segment_start.extend((start..end).map(|_| start));
            batch.segment_end.extend((start..end).map(|_| end));
            batch.targets.extend(example.labels.iter().skip(1));
            batch.targets.resize(end as usize, IGNORED);
            batch.keys.extend((start..end).map(|i| first_key.wrapping_add(i)));
            batch.rows += 1;
        }
        batch
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Targets that count for the loss.
    pub fn supervised(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORED).count()
    }
}
