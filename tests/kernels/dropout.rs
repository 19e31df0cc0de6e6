//! Dropout: masks bit for bit as a twin on the CPU says, and how random they look.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::dropout::{Dropout, dropout};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

fn mix(mut h: u32) -> u32 {
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// Whether an element stays.
fn keeps(d: &Dropout, key: u32, column: u32) -> bool {
    let seed = |start: u32| {
        let a = mix((mix(d.seed ^ start) ^ d.stream).wrapping_add(0x9e37_79b9));
        mix((a ^ d.step).wrapping_add(0x85eb_ca6b))
    };
    let row = mix(key ^ seed(0x243f_6a88));
    let bits = mix(mix(column ^ row).wrapping_add(mix(row ^ seed(0xb7e1_5162))));
    f64::from(bits) >= (f64::from(d.p) * 2f64.powi(32)).floor()
}

const PLAIN: Dropout = Dropout { p: 0.3, seed: 42, stream: 7, step: 3 };

#[test]
fn masks_match_their_twin() {
    let dev = device();
    let mut rng = Rng::named(1, "dropout");
    for (rows, cols) in [(1, 1), (7, 5), (31, 64), (33, 129), (3, 1028)] {
        for p in [0.0, 0.05, 0.5, 0.999] {
            let what = format!("{rows}x{cols} p {p}");
            let d = Dropout { p, seed: rng.next_u64() as u32, stream: 5, step: 11 };
            let (x, y0) = (random(&mut rng, rows * cols), random(&mut rng, rows * cols));
            let keys: Vec<u32> = (0..rows).map(|_| rng.next_u64() as u32).collect();
            let tx = Tensor::from_slice(dev, &[rows, cols], &x, "test").unwrap();
            let tk = Tensor::from_slice(dev, &[rows], &keys, "test").unwrap();
            let scale = (1.0 / (1.0 - f64::from(p))) as f32;
            let kept = |i: usize| if keeps(&d, keys[i / cols], (i % cols) as u32) { x[i] * scale } else { 0.0 };

            let y = Guarded::new(dev, &[rows, cols]);
            dropout(&tx, &tk, d, To::Into(&y.tensor)).unwrap();
            let got = y.read(&what);
            assert!((0..x.len()).all(|i| got[i] == kept(i)), "{what}");

            let y = Guarded::holding(dev, &[rows, cols], &y0);
            dropout(&tx, &tk, d, To::AddTo(&y.tensor)).unwrap();
            // a device may fuse the product with the sum
            let want: Vec<_> = (0..x.len())
                .map(|i| {
                    let mut e = Exact::of(f64::from(y0[i]));
                    e.add(f64::from(kept(i)));
                    e
                })
                .collect();
            assert_close(&format!("{what} +="), &y.read(&what), &want);
        }
    }
}

/// Masks as ±1 around their mean, so that products tell correlation.
fn signs(d: &Dropout, rows: std::ops::Range<u32>, cols: u32) -> Vec<f64> {
    let p = f64::from(d.p);
    let norm = (p * (1.0 - p)).sqrt();
    rows.flat_map(|t| (0..cols).map(move |c| (t, c)))
        .map(|(t, c)| (f64::from(u8::from(keeps(d, t, c))) - (1.0 - p)) / norm)
        .collect()
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
