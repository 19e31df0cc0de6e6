//! Scores, and the radix select against a sort.

use crate::common::*;
use proptest::prelude::*;
use rugosa::cases::topk_scores as scores;
use rugosa::error::Error;
use rugosa::kernels::To;
use rugosa::kernels::topk::{bitmask_to_flat, score_accumulate, topk_mask};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

/// The k largest by magnitude; of equals the lower index.
fn by_sorting(bits: &[u32], k: usize) -> Vec<u64> {
    let mut order: Vec<usize> = (0..bits.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(bits[*i] & 0x7fff_ffff), *i));
    let mut taken: Vec<u64> = order[..k].iter().map(|i| *i as u64).collect();
    taken.sort_unstable();
    taken
}

#[track_caller]
fn check(bits: &[u32], k: usize) {
    let dev = device();
    let score = Tensor::from_slice(dev, &[bits.len()], bits, "test").unwrap();
    let mask = Guarded::new(dev, &[bits.len().div_ceil(32)]);
    let top = topk_mask(&score, k, To::Into(&mask.tensor)).unwrap();
    let words: Vec<u32> = mask.read("mask").iter().map(|w| w.to_bits()).collect();
    assert_eq!(top.read("test").unwrap(), words);
    assert!(bitmask_to_flat(&words) == by_sorting(bits, k), "{k} of {}", bits.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mask_is_what_a_sort_says(seed: u64, kind in 0usize..6, n in 1usize..20_000, share in 0.0f64..1.0) {
        let bits = scores(&mut Rng::new(seed, 0), kind, n);
        check(&bits, (share * n as f64) as usize);
    }
}

#[test]
fn scores_and_masks() {
    run_rows(&["score", "topk"]);
}

#[test]
fn scores_that_are_not_finite_are_told() {
    let dev = device();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![1.0; 9000];
        values[8999] = bad;
        let score = Tensor::from_slice(dev, &[9000], &values, "test").unwrap();
        let error = topk_mask(&score, 10, To::default()).unwrap().read("layer 3").unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }) && error.to_string().starts_with("layer 3: "), "{error}");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let score = Tensor::zeros(dev, &[4], "test").unwrap();
    assert!(topk_mask(&score, 5, To::default()).unwrap_err().to_string().contains("5 of 4"));
    assert!(topk_mask(&score, 2, To::Into(&score)).is_err());
    let grad = Tensor::zeros(dev, &[5], "test").unwrap();
    let sum = Tensor::zeros(dev, &[2], "test").unwrap();
    assert!(score_accumulate(&score, &grad, &sum, 0, false, 1.0).is_err());
    assert!(score_accumulate(&score, &score, &sum, 0, false, 1.0).is_err());
}
