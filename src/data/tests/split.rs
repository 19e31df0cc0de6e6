use super::support::file;
use crate::data::{BatchOptions, DataOptions, Dataset, split};
use std::collections::BTreeSet;

fn set(rows: &[u32]) -> Dataset {
    let row = |n: &u32| format!("{{\"input_ids\": {:?}}}\n", vec![*n; 3 + *n as usize % 5]);
    let (_dir, path) = file(rows.iter().map(row).collect::<String>());
    Dataset::open(&path, &DataOptions { seq_len: 24, ..DataOptions::default() }, None, 1000).unwrap()
}

fn held(set: &Dataset) -> BTreeSet<u32> {
    set.examples().map(|e| e.ids[0]).collect()
}

#[test]
fn the_same_rows_are_held_out_in_any_order_and_none_is_learnt() {
    let rows: Vec<u32> = (1..101).collect();
    let all = set(&rows);
    let (kept, out) = split(&all, 0.1, 7).unwrap();
    assert_eq!((kept.len(), out.len()), (90, 10));
    assert!(held(&kept).is_disjoint(&held(&out)));
    let reversed: Vec<u32> = rows.iter().rev().copied().collect();
    assert_eq!(held(&split(&set(&reversed), 0.1, 7).unwrap().1), held(&out));
    assert_ne!(held(&split(&all, 0.1, 8).unwrap().1), held(&out), "another seed, other rows");
    // sequences are packed of what is left alone
    let mut batches = kept.batches(&BatchOptions::default()).unwrap();
    let mut seen = BTreeSet::new();
    while batches.position().epoch == 0 {
        batches.next_window().unwrap().iter().for_each(|b| seen.extend(&b.tokens));
    }
    assert_eq!(seen, held(&kept));
    let (a, b) = (kept.report(), out.report());
    assert_eq!(a.tokens + b.tokens, all.report().tokens);
    assert_eq!(a.supervised + b.supervised, all.report().supervised);
    assert!(a.sequences < all.report().sequences);
}

#[test]
fn rows_that_are_alike_stay_together() {
    let rows: Vec<u32> = (0..60).map(|i| 1 + i % 6).collect();
    for seed in 0..5 {
        let (kept, out) = split(&set(&rows), 0.05, seed).unwrap();
        assert!(held(&kept).is_disjoint(&held(&out)), "{seed}");
        assert_eq!((kept.len(), out.len()), (50, 10), "{seed}: all ten of a kind");
    }
    let error = split(&set(&[3; 20]), 0.5, 0).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("⟨eval_split⟩: 0.5 of 20 rows") && error.contains("⟨eval_data⟩ FILE"), "{error}");
    let error = split(&set(&[3]), 0.5, 0).map(drop).unwrap_err().to_string();
    assert!(error.contains("leaves none to train on"), "{error}");
}
