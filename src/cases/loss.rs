//! Cross-entropy, its gradient, soft cap, padding; greedy choice.

use super::{Exact, Level, Op, Row, Trial, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::loss::{
    ARGMAX, CROSS_ENTROPY, CROSS_ENTROPY_GRAD, Logits, NO_TOKEN, UNSUPERVISED, argmax_rows, cross_entropy,
    cross_entropy_grad,
};

const WHY: &str = "a logarithm of a sum of exponentials, each off by 3 + 2|x| units of its own last place, and a \
                   difference of logits; a gradient is an exponential's share minus 0 or 1, times the soft cap's slope";
const LOSS: Op = Op { name: "cross_entropy", kernels: &[&CROSS_ENTROPY], why: WHY };
const GRAD: Op = Op { name: "cross_entropy_grad", kernels: &[&CROSS_ENTROPY_GRAD], why: WHY };
const ARGMAX_OP: Op = Op { name: "argmax", kernels: &[&ARGMAX], why: "the lowest index of equals: exact" };

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
const QUICK: &[usize] = &[1, 2, 5, 6];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &size) in SIZES.iter().enumerate() {
        for softcap in [None, Some(30.0)] {
            let what = format!("{size:?}{}", softcap.map_or(String::new(), |c| format!(" cap {c}")));
            rows.push(LOSS.row(quick_at(i, QUICK), &what, move |t| run(t, size, softcap, false)));
            rows.push(GRAD.row(quick_at(i, QUICK), what, move |t| run(t, size, softcap, true)));
        }
    }
    for size in [(1, 1, 1), (7, 5, 9), (33, 65, 65), (3, 1000, 1024), (2, 50_257, 50_257)] {
        let level = if size.1 < 5000 { Level::Quick } else { Level::Full };
        rows.push(ARGMAX_OP.row(level, format!("{size:?}"), move |t| argmax(t, size)));
    }
    rows.push(ARGMAX_OP.row(Level::Quick, "rows that are not finite", argmax_broken));
    rows
}

struct Data {
    rows: usize,
    vocab: usize,
    stride: usize,
    logits: Vec<f32>,
    targets: Vec<u32>,
}

fn data(t: &mut Trial<'_>, (rows, vocab, stride): (usize, usize, usize)) -> Data {
    let mut logits: Vec<f32> = t.random(rows * stride).iter().map(|z| 8.0 * z).collect();
    // a row whose naive exponentials overflow
    logits[..stride].iter_mut().for_each(|z| *z += 500.0);
    let mut target = |row: usize| match row {
        2 => UNSUPERVISED,
        3 => vocab as u32,
        _ => t.rng.below(vocab as u64) as u32,
    };
    let targets = (0..rows).map(&mut target).collect();
    Data { rows, vocab, stride, logits, targets }
}

/// Losses and gradients.
fn reference(c: &Data, softcap: Option<f32>, scale: f64) -> (Vec<Exact>, Vec<Exact>) {
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

fn run(t: &mut Trial<'_>, size: (usize, usize, usize), softcap: Option<f32>, grad: bool) -> Result<()> {
    let c = data(t, size);
    let targets = t.up(&[c.rows], &c.targets)?;
    let meaning = Logits { vocab: c.vocab, softcap };
    let scale = 0.37f32;
    let (losses, grads) = reference(&c, softcap, scale.into());
    let logits = t.holding(&[c.rows, c.stride], &c.logits)?;
    let nll = t.out(&[c.rows])?;
    if grad {
        cross_entropy_grad(&logits.tensor, &targets, meaning, scale, To::Into(&nll.tensor))?;
        t.compare("dlogits", &logits, grads)?;
    } else {
        cross_entropy(&logits.tensor, &targets, meaning, To::Into(&nll.tensor))?;
        t.compare_exactly("logits", &logits, &c.logits)?;
    }
    t.compare("nll", &nll, losses)
}

fn argmax(t: &mut Trial<'_>, (rows, vocab, stride): (usize, usize, usize)) -> Result<()> {
    // few distinct values make ties; padding is larger than all
    let mut x: Vec<f32> = t.random(rows * stride).iter().map(|v| (v * 2.0).round()).collect();
    for row in 0..rows {
        x[row * stride + vocab..(row + 1) * stride].fill(1e9);
    }
    x[..vocab].fill(-1e30);
    let first = |row: &[f32]| (0..vocab).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
    let want: Vec<u32> = (0..rows).map(|row| first(&x[row * stride..][..vocab])).collect();
    let best = t.out(&[rows])?;
    argmax_rows(&t.up(&[rows, stride], &x)?, vocab, To::Into(&best.tensor))?;
    t.compare_u32("best", &best, &want)
}

/// One number of some rows is not finite, near either end or far inside; padding may be anything.
fn argmax_broken(t: &mut Trial<'_>) -> Result<()> {
    let (vocab, stride) = (1000, 1024);
    let places = [0usize, 7, 8, 255, 256, 500, 999, 1023];
    let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let mut x = vec![0.5f32; places.len() * numbers.len() * stride];
    let mut want = Vec::new();
    for (row, (at, number)) in x.chunks_exact_mut(stride).zip(places.iter().flat_map(|p| numbers.map(|n| (*p, n)))) {
        row[3] = 1.0;
        row[at] = number;
        want.push(if at < vocab { NO_TOKEN } else { 3 });
    }
    let best = t.out(&[want.len()])?;
    argmax_rows(&t.up(&[want.len(), stride], &x)?, vocab, To::Into(&best.tensor))?;
    t.compare_u32("best", &best, &want)
}
