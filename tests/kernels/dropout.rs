//! Dropout: masks bit for bit as a twin on the CPU says, and how random they look.

use crate::common::*;
use rugosa::cases::dropout_keeps;
use rugosa::kernels::To;
use rugosa::kernels::dropout::{Dropout, dropout};
use rugosa::tensor::Tensor;

const PLAIN: Dropout = Dropout { p: 0.3, seed: 42, stream: 7, step: 3 };

/// Masks as ±1 around their mean, so that products tell correlation.
fn signs(d: &Dropout, rows: std::ops::Range<u32>, cols: u32) -> Vec<f64> {
    let p = f64::from(d.p);
    let norm = (p * (1.0 - p)).sqrt();
    rows.flat_map(|t| (0..cols).map(move |c| (t, c)))
        .map(|(t, c)| (f64::from(u8::from(dropout_keeps(d, t, c))) - (1.0 - p)) / norm)
        .collect()
}

#[test]
fn masks_match_their_twin() {
    run_rows(&["dropout"]);
}

#[test]
fn masks_look_random() {
    let (rows, cols) = (128, 512);
    let n = f64::from(rows * cols);
    let mean = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>() / n;
    // five standard deviations of a mean of n independent terms of unit variance
    let bound = 5.0 / n.sqrt();
    let base = signs(&PLAIN, 0..rows, cols);
    assert!(mean(&mut base.iter().copied()).abs() < bound, "the share that is kept");
    let with = |other: &[f64]| mean(&mut base.iter().zip(other).map(|(a, b)| a * b));
    for (name, other) in [
        ("seed", Dropout { seed: 43, ..PLAIN }),
        ("stream", Dropout { stream: 8, ..PLAIN }),
        ("step", Dropout { step: 4, ..PLAIN }),
        ("stream and step swapped", Dropout { stream: 3, step: 7, ..PLAIN }),
    ] {
        let c = with(&signs(&other, 0..rows, cols));
        assert!(c.abs() < bound, "another {name} correlates: {c}");
    }
    for shift in [1, 2, 64] {
        let c = with(&signs(&PLAIN, shift..rows + shift, cols));
        assert!(c.abs() < bound, "rows {shift} apart correlate: {c}");
        let moved: Vec<f64> = base.iter().cycle().skip(shift as usize).take(base.len()).copied().collect();
        let c = with(&moved);
        assert!(c.abs() < bound, "columns {shift} apart correlate: {c}");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let x = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let keys = Tensor::zeros(dev, &[3], "test").unwrap();
    for p in [1.0, -0.1, f32::NAN] {
        let error = dropout(&x, &keys, Dropout { p, ..PLAIN }, To::default()).unwrap_err().to_string();
        assert!(error.contains("0 ≤ p < 1"), "{error}");
    }
    let keys = Tensor::zeros(dev, &[4], "test").unwrap();
    assert!(dropout(&x, &keys, PLAIN, To::default()).unwrap_err().to_string().contains("keys"));
}
