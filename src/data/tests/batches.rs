use super::support::file;
use crate::data::{
    Ahead, Batch, BatchOptions, BatchSize, Batches, DataOptions, Dataset, IGNORED, Position, Truncate, answers,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A set of rows of these lengths. Row `i` is `i+1` everywhere, the first half of it not learnt.
fn set(lengths: &[usize], options: &DataOptions) -> Dataset {
    let rows: String = lengths.iter().enumerate().map(|(i, &n)| row(i, n)).collect();
    let (_dir, path) = file(rows);
    Dataset::open(&path, options, None, 1000).unwrap()
}

fn row(i: usize, n: usize) -> String {
    let labels: Vec<i32> = (0..n).map(|p| if p < n / 2 { IGNORED } else { i as i32 + 1 }).collect();
    format!("{{\"input_ids\": {:?}, \"labels\": {labels:?}}}\n", vec![i + 1; n])
}

fn options(seq_len: usize, packing: bool, shuffle: bool, seed: u64) -> DataOptions {
    DataOptions { seq_len, packing, shuffle, seed, ..Default::default() }
}

fn epoch(batches: &mut Batches<'_>) -> Vec<Vec<Batch>> {
    let now = batches.position().epoch;
    let mut windows = Vec::new();
    while batches.position().epoch == now {
        windows.push(batches.next_window().unwrap());
    }
    windows
}

/// Row numbers in the order in which they come.
fn rows(windows: &[Vec<Batch>]) -> Vec<u32> {
    let tokens = windows.iter().flatten().flat_map(|b| b.tokens.iter().zip(&b.positions));
    tokens.filter(|(_, p)| **p == 0).map(|(t, _)| t - 1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn an_epoch_holds_every_example_once(
        lengths in prop::collection::vec(2usize..20, 1..60), seq_len in 19usize..40, packing: bool, shuffle: bool,
        seed: u64, batch_size in 1usize..5, gradient_accumulation_steps in 1usize..4,
    ) {
        let set = set(&lengths, &options(seq_len, packing, shuffle, seed));
        let mut batches = set.batches(&BatchOptions { batch_size, gradient_accumulation_steps }).unwrap();
        let steps = batches.steps_per_epoch();
        let windows = epoch(&mut batches);
        prop_assert_eq!(windows.len(), steps);
        let mut seen = rows(&windows);
        if !shuffle && !packing {
            prop_assert!(seen.is_sorted());
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
        for (w, window) in windows.iter().enumerate() {
            prop_assert!(window.len() == gradient_accumulation_steps || w + 1 == steps);
            let mut keys = 0..;
            for batch in window {
                prop_assert!(!batch.is_empty() && batch.len() <= batch_size * seq_len);
                check_segments(batch, &lengths);
                prop_assert!(batch.keys.iter().all(|&k| Some(k) == keys.next()));
            }
        }
        let learnt: usize = windows.iter().flatten().map(Batch::supervised).sum();
        prop_assert_eq!(learnt, set.report().supervised);
        prop_assert_eq!(windows.iter().flatten().map(Batch::len).sum::<usize>(), set.report().tokens);
    }

    #[test]
    fn packed_sequences_are_full_but_never_over(lengths in prop::collection::vec(2usize..33, 1..200), seed: u64) {
        let set = set(&lengths, &options(32, true, true, seed));
        let plan = set.plan(0);
        let sizes: Vec<usize> = plan.iter().map(|s| s.iter().map(|&i| lengths[i as usize]).sum()).collect();
        prop_assert!(sizes.iter().all(|&s| 0 < s && s <= 32));
        // best fit: no two sequences would have fitted into one
        let mut sorted = sizes.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.len() < 2 || sorted[0] + sorted[1] > 32);
        prop_assert_eq!(plan.len(), set.report().sequences);
    }

    #[test]
    fn a_resumed_run_sees_the_same_batches(
        lengths in prop::collection::vec(2usize..20, 1..40), packing: bool, shuffle: bool, seed: u64, stop in 0usize..40,
    ) {
        let o = options(32, packing, shuffle, seed);
        let b = BatchOptions { batch_size: 2, gradient_accumulation_steps: 2 };
        let first = set(&lengths, &o);
        let mut whole = first.batches(&b).unwrap();
        for _ in 0..stop {
            whole.next_window().unwrap();
        }
        let saved = serde_json::to_string(&whole.position()).unwrap();
        let again = set(&lengths, &o);
        let mut resumed = again.batches(&b).unwrap();
        resumed.seek(serde_json::from_str(&saved).unwrap()).unwrap();
        for _ in 0..10 {
            prop_assert_eq!(whole.next_window().unwrap(), resumed.next_window().unwrap());
            prop_assert_eq!(whole.position(), resumed.position());
        }
    }

    #[test]
    fn batches_made_ahead_are_the_same_and_so_is_their_place(
        lengths in prop::collection::vec(2usize..20, 1..40), packing: bool, seed: u64, there in 0u64..60, steps in 0usize..20,
    ) {
        let set = set(&lengths, &options(32, packing, true, seed));
        let mut plain = set.batches(&BatchOptions { batch_size: 2, gradient_accumulation_steps: 2 }).unwrap();
        let other = set.batches(&BatchOptions { batch_size: 2, gradient_accumulation_steps: 2 }).unwrap();
        std::thread::scope(|scope| -> Result<(), TestCaseError> {
            let mut ahead = Ahead::start(scope, other).unwrap();
            for part in 0..3 {
                for _ in 0..steps {
                    prop_assert_eq!(plain.next_window().unwrap(), ahead.next_window().unwrap());
                    prop_assert_eq!(plain.position(), ahead.position());
                }
                // a place that exists or not, with a window on its way or none
                let to = Position { epoch: part, index: there };
                let said = [plain.seek(to), ahead.seek(to)].map(|r| r.map_err(|e| e.to_string()));
                prop_assert_eq!(&said[0], &said[1]);
                prop_assert_eq!(plain.position(), ahead.position());
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_step_is_the_same_however_it_is_split(lengths in prop::collection::vec(2usize..20, 1..40), seed: u64) {
        let set = set(&lengths, &options(32, true, true, seed));
        let wide = epoch(&mut set.batches(&BatchOptions { batch_size: 6, gradient_accumulation_steps: 1 }).unwrap());
        let deep = epoch(&mut set.batches(&BatchOptions { batch_size: 1, gradient_accumulation_steps: 6 }).unwrap());
        let flat = |w: &[Batch]| -> Vec<(u32, u32, u32, i32)> {
            let one = |b: &Batch| (0..b.len()).map(|i| (b.tokens[i], b.positions[i], b.keys[i], b.targets[i])).collect::<Vec<_>>();
            w.iter().flat_map(one).collect()
        };
        prop_assert_eq!(wide.len(), deep.len());
        for (w, d) in wide.iter().zip(&deep) {
            prop_assert_eq!(flat(w), flat(d));
        }
    }
}

/// Segments are whole examples; targets are the labels, one place earlier.
fn check_segments(batch: &Batch, lengths: &[usize]) {
    let (mut at, mut segments) = (0, 0);
    while at < batch.len() {
        let example = batch.tokens[at] as usize - 1;
        let n = lengths[example];
        let all = at..at + n;
        assert!(batch.tokens[all.clone()].iter().all(|&t| t as usize == example + 1));
        assert_eq!(batch.positions[all.clone()], (0..n as u32).collect::<Vec<_>>());
        assert!(batch.segment_start[all.clone()].iter().all(|&s| s as usize == at));
        assert!(batch.segment_end[all.clone()].iter().all(|&e| e as usize == at + n));
        for (p, &target) in batch.targets[all].iter().enumerate() {
            let learnt = p + 1 < n && p + 1 >= n / 2;
            assert_eq!(target, if learnt { example as i32 + 1 } else { IGNORED }, "place {p} of {n}");
        }
        (at, segments) = (at + n, segments + 1);
    }
    assert_eq!(segments, batch.rows);
}

#[test]
fn epochs_differ_and_seeds_differ() {
    let lengths = [5; 40];
    let orders: BTreeSet<Vec<u32>> = [(1, 0), (1, 1), (2, 0)]
        .into_iter()
        .map(|(seed, e)| set(&lengths, &options(16, false, true, seed)).plan(e).concat())
        .collect();
    assert_eq!(orders.len(), 3);
    let plain = set(&lengths, &options(16, false, false, 1));
    assert_eq!((plain.plan(0), plain.plan(0).len()), (plain.plan(7), 40));
}

#[test]
fn steps_are_counted_over_epochs() {
    let lengths: Vec<usize> = (0..50).map(|i| 2 + i * 7 % 29).collect();
    for packing in [true, false] {
        let set = set(&lengths, &options(32, packing, true, 3));
        let b = BatchOptions { batch_size: 2, gradient_accumulation_steps: 3 };
        let mut batches = set.batches(&b).unwrap();
        let want = batches.total_steps(3);
        let mut steps = 0;
        while batches.position().epoch < 3 {
            batches.next_window().unwrap();
            steps += 1;
        }
        assert_eq!(steps, want);
        assert_eq!(batches.position(), Position { epoch: 3, index: 0 });
    }
}

#[test]
fn sizes_are_those_of_the_batches_that_come() {
    let lengths: Vec<usize> = (0..50).map(|i| 2 + i * 7 % 29).collect();
    for (packing, shuffle) in [(true, true), (false, true), (false, false)] {
        let set = set(&lengths, &options(32, packing, shuffle, 3));
        let mut batches = set.batches(&BatchOptions { batch_size: 2, gradient_accumulation_steps: 3 }).unwrap();
        let mut sizes = Vec::new();
        assert!(batches.sizes(25, usize::MAX, |_, size| sizes.push(size)));
        let mut made = Vec::new();
        for _ in 0..25 {
            let step = batches.position();
            let size =
                |(index, b): (usize, &Batch)| BatchSize { tokens: b.len(), supervised: b.supervised(), step, index };
            made.extend(batches.next_window().unwrap().iter().enumerate().map(size));
        }
        assert_eq!(sizes, made);
        let mut some = 0;
        assert!(!batches.sizes(25, 7, |_, _| some += 1), "some are left");
        assert_eq!(some, 6, "whole steps, up to the first that is too many");
    }
}

#[test]
fn a_place_that_does_not_exist_is_refused() {
    let set = set(&[4, 4], &options(4, true, true, 0));
    let mut batches = set.batches(&BatchOptions::default()).unwrap();
    let e = batches.seek(Position { epoch: 0, index: 2 }).unwrap_err().to_string();
    assert!(e.contains("resume with the same data"), "{e}");
    for options in [(0, 1), (1, 0)] {
        let options = BatchOptions { batch_size: options.0, gradient_accumulation_steps: options.1 };
        assert!(set.batches(&options).err().unwrap().to_string().contains("must be at least 1"));
    }
}

#[test]
fn rows_that_are_too_long_are_cut_or_dropped_and_counted() {
    // half of a row is learnt: of 30 tokens the last 15, none of which is among the first 12
    let lengths = [4, 12, 16, 30];
    let cut = set(&lengths, &options(12, true, false, 0)).report().clone();
    assert_eq!((cut.rows, cut.truncated, cut.dropped, cut.tokens, cut.supervised), (4, 1, 1, 28, 2 + 6 + 4));
    assert_eq!((cut.sequences, cut.packing_efficiency), (3, 28.0 / 36.0));
    let drop = DataOptions { truncate: Truncate::Drop, ..options(12, true, false, 0) };
    let dropped = set(&lengths, &drop);
    let r = dropped.report();
    assert_eq!((r.rows, r.truncated, r.dropped, r.tokens, dropped.len()), (4, 0, 2, 16, 2));
    assert_eq!(dropped.example(1).line, 2);
    assert_eq!(dropped.examples().map(|e| e.ids.len()).collect::<Vec<_>>(), [4, 12]);
}

#[test]
fn the_last_tokens_of_an_answer_can_be_kept() {
    // a prompt of 5 tokens and an answer of 5; prompts that leave one place and none; a row that fits
    let row = |prompt: usize, tokens: usize| {
        let ids: Vec<usize> = (1..=tokens).collect();
        let labels: Vec<i32> = (1..=tokens).map(|id| if id > prompt { id as i32 } else { IGNORED }).collect();
        format!("{{\"input_ids\": {ids:?}, \"labels\": {labels:?}}}\n")
    };
    let (_dir, path) = file([row(5, 10), row(7, 10), row(8, 10), row(6, 8)].concat());
    let keep_end = DataOptions { truncate: Truncate::KeepEnd, ..options(8, true, false, 0) };
    let set = Dataset::open(&path, &keep_end, None, 1000).unwrap();
    let r = set.report();
    assert_eq!((r.rows, r.truncated, r.dropped, r.supervised), (4, 2, 1, 3 + 1 + 2));
    let ids: Vec<Vec<u32>> = set.examples().map(|e| e.ids.to_vec()).collect();
    assert_eq!(ids, [vec![1, 2, 3, 4, 5, 8, 9, 10], vec![1, 2, 3, 4, 5, 6, 7, 10], (1..=8).collect()]);
    assert_eq!(set.example(0).labels, [IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, 8, 9, 10]);
    assert_eq!(set.example(1).labels, [IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, 10]);
}

/// Two neighbouring answers, a prompt, and a third: whatever the cut leaves, whole, broken and lost ones are three.
#[test]
fn answers_that_a_cut_leaves_nothing_of_are_counted() {
    let rows = "{\"input_ids\": [1, 5, 6, 2, 7, 8, 2, 1, 9, 9, 2], \
                \"labels\": [-100, 5, 6, 2, 7, 8, 2, -100, 9, 9, 2]}\n\
                {\"input_ids\": [1, 3], \"labels\": [-100, 3]}\n";
    let (_dir, path) = file(rows);
    let count = |seq_len: usize, truncate: Truncate| {
        let o = DataOptions { truncate, ..options(seq_len, false, false, 0) };
        let set = Dataset::open_with_stop(&path, &o, None, 1000, &[2]).unwrap();
        assert_eq!((set.len(), set.answers_lost(1)), (2, 0));
        let found = answers(set.example(0), set.answer_cut_at(0), &[2]);
        assert_eq!(found.len() + set.answers_lost(0), 3, "{truncate:?} at {seq_len}: {found:?}");
        found.iter().flatten().count()
    };
    let whole: Vec<usize> = (2..=11).map(|n| count(n, Truncate::Truncate)).collect();
    assert_eq!(whole, [0, 0, 1, 1, 1, 2, 2, 2, 2, 3]);
    // what stands behind the gap is not what the row asks
    let whole: Vec<usize> = (2..=11).map(|n| count(n, Truncate::KeepEnd)).collect();
    assert_eq!(whole, [0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
}
