//! Rotary embedding, back and forth, at small and at very large positions.

use super::{Exact, Op, Row, Trial, elements, quick_at};
use crate::error::Result;
use crate::io::config::RopeScaling;
use crate::kernels::To;
use crate::kernels::rope::{ROPE, RopeTable, Turn, rope};
use crate::tensor::Element;

const COPY: Op = Op {
    name: "rope",
    kernels: &[&ROPE],
    why: "a sum of two products with sines and cosines that the host rounded from f64, whatever the position, and the rounding \
          of an f16",
};

/// Tokens, heads, elements of a head, largest position.
const SIZES: &[(usize, usize, usize, u32)] =
    &[(1, 1, 2, 0), (7, 3, 8, 40), (33, 2, 10, 600), (65, 5, 64, 2047), (5, 1, 16, 131_071)];
const QUICK: &[usize] = &[1, 2, 4];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &size) in SIZES.iter().enumerate() {
        for turn in [Turn::Forward, Turn::Back] {
            let (tokens, heads, head_dim, last) = size;
            let what = format!("{turn:?} {tokens} tokens up to {last}, {heads} heads of {head_dim}");
            for (out, to) in elements(head_dim / 2) {
                let what = format!("{what}{to}");
                rows.push(COPY.row(quick_at(i, QUICK), what, move |t| run(t, size, turn, out)));
            }
        }
    }
    rows
}

fn reference(x: &[f32], positions: &[u32], inv_freq: &[f64], heads: usize, factor: f64, sign: f64) -> Vec<Exact> {
    let half = inv_freq.len();
    let mut y = vec![Exact::default(); x.len()];
    for (t, &position) in positions.iter().enumerate() {
        for first in (0..heads).map(|h| (t * heads + h) * 2 * half) {
            for j in 0..half {
                let (a, b) = (f64::from(x[first + j]), f64::from(x[first + half + j]));
                let angle = f64::from(position) * inv_freq[j];
                let (c, s) = (angle.cos() * factor, angle.sin() * factor * sign);
                y[first + j] = Exact::sum([a * c, -b * s]);
                y[first + half + j] = Exact::sum([b * c, a * s]);
            }
        }
    }
    y
}

/// `out`: what the copy is made of.
fn run(t: &mut Trial<'_>, size: (usize, usize, usize, u32), turn: Turn, out: Element) -> Result<()> {
    let (tokens, heads, head_dim, last) = size;
    let inv_freq = RopeScaling::None.frequencies(10_000.0, head_dim);
    let mut positions: Vec<u32> = (0..tokens).map(|_| t.rng.below(u64::from(last) + 1) as u32).collect();
    positions[0] = last;
    let factor = if heads == 3 { 1.25 } else { 1.0 };
    let table = RopeTable::new(t.device, &inv_freq, last as usize + 1, factor)?;
    let x = t.random(tokens * heads * head_dim);
    let shape = [tokens, heads * head_dim];
    let at = t.up(&[tokens], &positions)?;
    let y = t.out_of(out, &shape)?;
    rope(&t.up(&shape, &x)?, &table, &at, turn, To::Into(&y.tensor))?;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    t.compare("y", &y, reference(&x, &positions, &inv_freq, heads, factor, sign))
}
