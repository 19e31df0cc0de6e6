//! Cross-entropy, its gradient, soft cap, padding; greedy choice.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::loss::{Logits, UNSUPERVISED, argmax_rows, cross_entropy, cross_entropy_grad};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

/// (rows, vocab, stride): both widths of loads, with and without padding, more columns than threads.
const SIZES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (7, 5, 5),
    (3, 31, 33),
    (33, 65, 65),
    (5, 128, 128),
    (4, 1000, 1024),
    (2, 4999, 4999),
    (2, 50_260, 50_260),
];

struct Case {
    rows: usize,
    vocab: usize,
    stride: usize,
    logits: Vec<f32>,
    targets: Vec<u32>,
}

fn case(rng: &mut Rng, (rows, vocab, stride): (usize, usize, usize)) -> Case {
    let mut logits: Vec<f32> = random(rng, rows * stride).iter().map(|z| 8.0 * z).collect();
    // a row whose naive exponentials overflow
    logits[..stride].iter_mut().for_each(|z| *z += 500.0);
    let target = |t: usize, rng: &mut Rng| match t {
        2 => UNSUPERVISED,
        3 => vocab as u32,
        _ => rng.below(vocab as u64) as u32,
    };
    let targets = (0..rows).map(|t| target(t, rng)).collect();
    Case { rows, vocab, stride, logits, targets }
}

/// Losses and gradients. The loss is a logarithm of a sum of exponentials, each off by 3 + 2|x| units of its own last
/// place, plus a difference of logits; a gradient is an exponential's share minus 0 or 1.
fn reference(c: &Case, softcap: Option<f32>, scale: f64) -> (Vec<Exact>, Vec<Exact>) {
    let (mut losses, mut grads) = (Vec::new(), vec![Exact::of(0.0); c.rows * c.stride]);
    for t in 0..c.rows {
        let row = &c.logits[t * c.stride..][..c.vocab];
        // tanh = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ) is off by a few units of 1's last place, times the cap
        let cap_error = softcap.map_or(0.0, |cap| 4.0 * f64::from(cap));
        let cap = |z: f32| softcap.map_or(f64::from(z), |c| f64::from(c) * (f64::from(z) / f64::from(c)).tanh());
        let z: Vec<f64> = row.iter().map(|z| cap(*z)).collect();
        let goal = c.targets[t] as usize;
        if goal >= c.vocab {
            losses.push(Exact::of(0.0));
            continue;
        }
        let m = z.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = z.iter().map(|z| (z - m).exp()).sum();
        let spread = (c.vocab as f64).sqrt();
        let magnitude = sum.ln().abs() + m.abs() + z[goal].abs() + 3.0 + spread + cap_error;
        losses.push(Exact { value: sum.ln() + m - z[goal], magnitude, terms: 4 });
        for (i, z) in z.iter().enumerate() {
            let p = (z - m).exp() / sum;
            let hit = if i == goal { 1.0 } else { 0.0 };
            let slope = softcap.map_or(1.0, |c| 1.0 - (z / f64::from(c)).powi(2));
            let argument = (z - m).abs() + z.abs() + m.abs() + spread + 3.0 + cap_error;
            // near the cap the slope is a difference of nearly equal numbers
            let slope_error = if softcap.is_some() { 4.0 } else { 0.0 };
            let magnitude = scale * (p * argument * slope + hit + (p - hit).abs() * (1.0 + slope_error));
            grads[t * c.stride + i] = Exact { value: scale * (p - hit) * slope, magnitude, terms: 4 };
        }
    }
    (losses, grads)
}

#[test]
fn losses_and_gradients() {
    let dev = device();
    let mut rng = Rng::named(1, "loss");
    for &size in SIZES {
        let c = case(&mut rng, size);
        let targets = Tensor::from_slice(dev, &[c.rows], &c.targets, "test").unwrap();
        for softcap in [None, Some(30.0)] {
            let what = format!("{size:?} {softcap:?}");
            let meaning = Logits { vocab: c.vocab, softcap };
            let scale = 0.37f32;
            let (losses, grads) = reference(&c, softcap, scale.into());

            let logits = Guarded::holding(dev, &[c.rows, c.stride], &c.logits);
            let nll = Guarded::new(dev, &[c.rows]);
            cross_entropy(&logits.tensor, &targets, meaning, To::Into(&nll.tensor)).unwrap();
            assert_close(&format!("{what} nll"), &nll.read("nll"), &losses);
            assert_eq!(logits.read("logits"), c.logits, "{what}: a forward changed its logits");

            let nll = Guarded::new(dev, &[c.rows]);
            cross_entropy_grad(&logits.tensor, &targets, meaning, scale, To::Into(&nll.tensor)).unwrap();
            assert_close(&format!("{what} nll"), &nll.read("nll"), &losses);
            assert_close(&format!("{what} dlogits"), &logits.read("dlogits"), &grads);
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals() {
    let dev = device();
    let mut rng = Rng::named(2, "argmax");
    for (rows, vocab, stride) in [(1, 1, 1), (7, 5, 9), (33, 65, 65), (3, 1000, 1024), (2, 50_257, 50_257)] {
        let mut x = random(&mut rng, rows * stride);
        // few distinct values make ties; padding is larger than all
        x.iter_mut().for_each(|v| *v = (*v * 2.0).round());
        for t in 0..rows {
            x[t * stride + vocab..(t + 1) * stride].fill(1e9);
        }
        x[..vocab].fill(-1e30);
        let want = first_largest(&x, rows, vocab, stride);
        let tx = Tensor::from_slice(dev, &[rows, stride], &x, "test").unwrap();
        let best = Guarded::new(dev, &[rows]);
        argmax_rows(&tx, vocab, To::Into(&best.tensor)).unwrap();
        let got: Vec<u32> = best.read("best").iter().map(|v| v.to_bits()).collect();
        assert_eq!(got, want, "{rows}x{vocab}");
    }
}

fn first_largest(x: &[f32], rows: usize, vocab: usize, stride: usize) -> Vec<u32> {
    let first = |row: &[f32]| (0..vocab).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
    (0..rows).map(|t| first(&x[t * stride..][..vocab])).collect()
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let logits = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let targets = Tensor::zeros(dev, &[2], "test").unwrap();
    let error = cross_entropy(&logits, &targets, Logits::plain(4), To::default()).unwrap_err().to_string();
    assert!(error.contains("targets has shape [2], expected [3]"), "{error}");
    let targets = Tensor::zeros(dev, &[3], "test").unwrap();
    for vocab in [0, 5] {
        let error = cross_entropy(&logits, &targets, Logits::plain(vocab), To::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("{vocab} tokens in logits [3, 4]")), "{error}");
        assert!(argmax_rows(&logits, vocab, To::default()).is_err());
    }
}
