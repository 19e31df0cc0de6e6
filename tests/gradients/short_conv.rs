//! A gated short convolution over the tokens of segments.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::{AttentionInputs, short_conv};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

pub fn check(segments: &[usize], channels: usize, taps: usize) {
    let rng = &mut Rng::named(8, "short_conv");
    let tokens: usize = segments.iter().sum();
    let mut bounds = Vec::new();
    for n in segments {
        let start = bounds.len();
        bounds.extend(vec![(start, start + n); *n]);
    }
    let (rows, w) = (random(rng, tokens * 3 * channels), random(rng, channels * taps));
    let dy = random(rng, tokens * channels);
    let starts = bounds.clone();
    let forward = move |at: &Inputs| -> Vec<f64> {
        let row = |t: usize, part: usize, c: usize| at[0][t * 3 * channels + part * channels + c];
        let one = |t: usize, c: usize| -> f64 {
            let seen = (0..taps).filter(|j| t >= starts[t].0 + j);
            let term = |j: usize| at[1][c * taps + taps - 1 - j] * row(t - j, 0, c) * row(t - j, 2, c);
            row(t, 1, c) * seen.map(term).sum::<f64>()
        };
        (0..tokens * channels).map(|i| one(i / channels, i % channels)).collect()
    };
    let inputs = vec![wide(&rows), wide(&w)];
    let (y, reference) = (forward(&inputs), differences(&inputs, &dy, forward));
    let index = |of: &dyn Fn(usize) -> usize| {
        let all: Vec<u32> = (0..tokens).map(|t| of(t) as u32).collect();
        Tensor::from_slice(device(), &[tokens], &all, "test").unwrap()
    };
    let inputs = AttentionInputs {
        kv_start: index(&|t| bounds[t].0),
        kv_end: index(&|t| t + 1),
        q_start: index(&|t| t),
        q_end: index(&|t| bounds[t].1),
        span: tokens,
    };
    for (tracked, trains) in [(true, true), (true, false), (false, true), (false, false)] {
        let what = format!("{segments:?} {channels} x {taps}, {tracked} {trains}");
        let filters = param(&[channels, 1, taps], &w, trains);
        let mut tape = Tape::new(None);
        let rows = input(&mut tape, &[tokens, 3 * channels], &rows, tracked);
        let out = short_conv(&mut tape, &rows, &filters, &inputs).unwrap();
        assert_near(&format!("Y {what}"), &read(&out.value), &y, taps, 16.0);
        assert_eq!(out.is_tracked(), tracked || trains, "{what}");
        if !out.is_tracked() {
            continue;
        }
        tape.seed(&out, up(&[tokens, channels], &dy)).unwrap();
        tape.backward().unwrap();
        if tracked {
            assert_near(&format!("d rows {what}"), &arrived(&mut tape, &rows), &reference[0], taps, 16.0);
        }
        if let Some(dw) = &filters.grad {
            assert_near(&format!("dw {what}"), &added(dw), &reference[1], tokens, 16.0);
        }
    }
}
