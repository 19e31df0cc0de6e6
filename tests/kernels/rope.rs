//! Rotary embedding against f64 angles, back and forth, at small and at very large positions.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::rope::{RopeTable, Turn, inverse_frequencies, rope, rope_in_place, scale_linear, scale_llama3};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

fn reference(x: &[f32], positions: &[u32], inv_freq: &[f64], heads: usize, factor: f64, sign: f64) -> Vec<Exact> {
    let half = inv_freq.len();
    let mut y = vec![Exact::default(); x.len()];
    for (t, &position) in positions.iter().enumerate() {
        for first in (0..heads).map(|h| (t * heads + h) * 2 * half) {
            for j in 0..half {
                let (a, b) = (f64::from(x[first + j]), f64::from(x[first + half + j]));
                let angle = f64::from(position) * inv_freq[j];
                let (c, s) = (angle.cos() * factor, angle.sin() * factor * sign);
                y[first + j].add(a * c);
                y[first + j].add(-b * s);
                y[first + half + j].add(b * c);
                y[first + half + j].add(a * s);
            }
        }
    }
    y
}

#[test]
fn turns_and_turns_back() {
    let dev = device();
    let mut rng = Rng::named(1, "rope");
    for (tokens, heads, head_dim, last) in
        [(1, 1, 2, 0), (7, 3, 8, 40), (33, 2, 10, 600), (65, 5, 64, 2047), (5, 1, 16, 131_071)]
    {
        let what = format!("{tokens} tokens, {heads} heads of {head_dim}");
        let inv_freq = inverse_frequencies(head_dim, 10_000.0);
        let positions: Vec<u32> =
            (0..tokens).map(|t| if t == 0 { last } else { rng.below(u64::from(last) + 1) as u32 }).collect();
        let factor = if heads == 3 { 1.25 } else { 1.0 };
        let table = RopeTable::new(dev, &inv_freq, last as usize + 1, factor).unwrap();
        assert_eq!((table.positions(), table.head_dim()), (last as usize + 1, head_dim));
        let x = random(&mut rng, tokens * heads * head_dim);
        let shape = [tokens, heads * head_dim];
        let tx = Tensor::from_slice(dev, &shape, &x, "test").unwrap();
        let at = Tensor::from_slice(dev, &[tokens], &positions, "test").unwrap();
        for (turn, sign) in [(Turn::Forward, 1.0), (Turn::Back, -1.0)] {
            let want = reference(&x, &positions, &inv_freq, heads, factor, sign);
            let y = Guarded::new(dev, &shape);
            rope(&tx, &table, &at, turn, To::Into(&y.tensor)).unwrap();
            assert_close(&what, &y.read(&what), &want);
            let y = Guarded::holding(dev, &shape, &x);
            rope_in_place(&y.tensor, &table, &at, turn).unwrap();
            assert_close(&format!("{what} in place"), &y.read(&what), &want);
        }
    }
}

#[test]
fn scalings() {
    // by Hugging Face's formulas: wavelength λ against the bounds 8192 / 1 and 8192 / 4, factor 8
    let plain = inverse_frequencies(128, 500_000.0);
    assert_eq!(plain.len(), 64);
    let mut scaled = plain.clone();
    scale_llama3(&mut scaled, 8.0, 1.0, 4.0, 8192.0);
    let mut kinds = [0; 3];
    for (f, s) in plain.iter().zip(&scaled) {
        let wave = std::f64::consts::TAU / f;
        let (kind, want) = if wave < 2048.0 {
            (0, *f)
        } else if wave > 8192.0 {
            (1, f / 8.0)
        } else {
            let smooth = (8192.0 / wave - 1.0) / (4.0 - 1.0);
            (2, (1.0 - smooth) * f / 8.0 + smooth * f)
        };
        kinds[kind] += 1;
        assert!((s / want - 1.0).abs() < 1e-12, "{s} {want}");
    }
    assert!(kinds.iter().all(|k| *k > 0), "{kinds:?}");
    let mut linear = vec![1.0, 0.5];
    scale_linear(&mut linear, 4.0);
    assert_eq!(linear, [0.25, 0.125]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    assert!(RopeTable::new(dev, &[], 4, 1.0).is_err());
    assert!(RopeTable::new(dev, &[1.0], 0, 1.0).is_err());
    let table = RopeTable::new(dev, &[1.0, 0.1], 4, 1.0).unwrap();
    let x = Tensor::zeros(dev, &[3, 6], "test").unwrap();
    let at = Tensor::zeros(dev, &[3], "test").unwrap();
    let error = rope_in_place(&x, &table, &at, Turn::Forward).unwrap_err().to_string();
    assert!(error.contains("[3, 6]") && error.contains("heads of 4"), "{error}");
    let x = Tensor::zeros(dev, &[2, 8], "test").unwrap();
    assert!(rope_in_place(&x, &table, &at, Turn::Forward).unwrap_err().to_string().contains("positions"));
}
