//! Scores, and the radix select against a sort.

use super::{Exact, Level, Op, Row, Trial, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::reduce::{REDUCE_PARTS, REDUCE_TOTAL, sum_and_flag};
use crate::kernels::topk::{HISTOGRAM, MASK, SCORE, SELECT, TIES, TIES_BEFORE, score_accumulate, topk_mask};
use crate::rng::Rng;

const SCORE_OP: Op = Op {
    name: "score",
    kernels: &[&SCORE, &REDUCE_PARTS, &REDUCE_TOTAL],
    why: "a running mean of four gradients or squares: two roundings a gradient",
};
const TOPK: Op = Op {
    name: "topk",
    kernels: &[&HISTOGRAM, &SELECT, &TIES, &TIES_BEFORE, &MASK],
    why: "the same set as a stable sort's, ties to the lower index: exact",
};

const SIZES: &[usize] = &[1, 7, 31, 32, 33, 65, 129, 8191, 8192, 8193, 70_001];
const QUICK: &[usize] = &[6, 9];

/// Kinds of scores: all different, few values, one value, zeros of both signs, denormals, rounded small ones.
const KINDS: [&str; 6] = ["different", "few values", "one value", "zeros", "denormals", "rounded"];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for n in [1, 7, 33, 64, 129, 2052] {
        for squared in [false, true] {
            let level = if n == 33 || n == 2052 { Level::Quick } else { Level::Full };
            let what = format!("{n}{}", if squared { " squared" } else { "" });
            rows.push(SCORE_OP.row(level, &what, move |t| score(t, n, squared)));
            rows.push(SCORE_OP.row(level, format!("{what} with an overflow"), move |t| overflows(t, n, squared)));
        }
    }
    for (i, &n) in SIZES.iter().enumerate() {
        for (kind, name) in KINDS.iter().enumerate() {
            for k in [0, 1, n / 2, n - 1, n] {
                // few values in many blocks: the ties of one block decide over the next
                let spread = (i, kind) == (SIZES.len() - 1, 1);
                let level = match k == n / 2 {
                    true if spread => Level::Quick,
                    true => quick_at(i, QUICK),
                    false => Level::Full,
                };
                rows.push(TOPK.row(level, format!("{k} of {n} {name}"), move |t| topk(t, n, kind, k)));
            }
        }
    }
    rows
}

fn score(t: &mut Trial<'_>, n: usize, squared: bool) -> Result<()> {
    mean(t, n, squared, &[])
}

/// One gradient is not finite in one element: it is left out as a whole, wherever that lies.
fn overflows(t: &mut Trial<'_>, n: usize, squared: bool) -> Result<()> {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        mean(t, n, squared, &[(0, 0, bad)])?;
        mean(t, n, squared, &[(1, n - 1, bad), (2, n / 2, bad)])?;
    }
    Ok(())
}

/// The mean of the whole ones of four gradients; `bad` are numbers in them: which gradient, which element.
fn mean(t: &mut Trial<'_>, n: usize, squared: bool, bad: &[(usize, usize, f32)]) -> Result<()> {
    let score = t.holding(&[n], &vec![f32::NAN; n])?; // nothing seen: contents do not matter
    let sum = t.out(&[2])?;
    let mut want = vec![Exact::default(); n];
    let mut seen = 0u32;
    for i in 0..4 {
        let mut grad = t.random(n);
        let is_bad = |b: &&(usize, usize, f32)| b.0 == i;
        bad.iter().filter(is_bad).for_each(|&(_, at, number)| grad[at] = number);
        let on_device = t.up(&[n], &grad)?;
        sum_and_flag(&on_device, &sum.tensor)?;
        score_accumulate(&score.tensor, &on_device, &sum.tensor, seen, squared, 0.5)?;
        if bad.iter().any(|b| b.0 == i) {
            continue;
        }
        for (w, g) in want.iter_mut().zip(&grad) {
            let g = 0.5 * f64::from(*g);
            let old = f64::from(seen) / f64::from(seen + 1);
            *w = Exact { value: w.value * old, magnitude: w.magnitude * old, terms: w.terms + 2 };
            w.add(if squared { g * g } else { g } / f64::from(seen + 1));
        }
        seen += 1;
    }
    t.compare("score", &score, want)
}

/// Bits of scores of a kind: all different, few values, one value, zeros of both signs, denormals, one block full of ties.
pub fn scores(rng: &mut Rng, kind: usize, n: usize) -> Vec<u32> {
    let score = |rng: &mut Rng| match kind {
        0 => (rng.normal() as f32).to_bits(),
        1 => ((rng.below(5) as f32 - 2.0) * 0.125).to_bits(),
        2 => 0.7f32.to_bits(),
        3 => (rng.below(2) as u32) << 31,
        4 => (rng.below(2) as u32) << 31 | rng.below(40) as u32,
        _ => ((rng.normal() * 1e-20) as f32).to_bits() & 0xffff_0000,
    };
    (0..n).map(|_| score(rng)).collect()
}

fn topk(t: &mut Trial<'_>, n: usize, kind: usize, k: usize) -> Result<()> {
    let bits = scores(&mut t.rng, kind, n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(bits[*i] & 0x7fff_ffff), *i));
    let mut want = vec![0u32; n.div_ceil(32)];
    order[..k].iter().for_each(|i| want[i / 32] |= 1 << (i % 32));
    let score = t.up(&[n], &bits)?;
    let mask = t.out(&[n.div_ceil(32)])?;
    topk_mask(&score, k, To::Into(&mask.tensor))?;
    t.compare_u32("mask", &mask, &want)
}
