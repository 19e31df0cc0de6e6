//! Queries, keys and values out of one matrix and back: heads that turn, and heads that are normed before.

use super::rope::{LAYOUTS, Turned};
use super::{Exact, Guarded, Op, Row, Trial, elements, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::heads::{HeadNorm, Heads, norm_merge, norm_split, rope_merge, rope_split};
use crate::kernels::heads::{NORM_MERGE, NORM_SPLIT, ROPE_MERGE, ROPE_SPLIT};
use crate::kernels::norm::RmsNorm;
use crate::tensor::{Element, Tensor};

const SPLIT: Op = Op {
    name: "rope_split",
    kernels: &[&ROPE_SPLIT],
    why: "a sum of two products with sines and cosines that the host rounded from f64, and the rounding of an f16",
};
const MERGE: Op = Op { name: "rope_merge", kernels: &[&ROPE_MERGE], ..SPLIT };
const NORM: Op = Op {
    name: "norm_split",
    kernels: &[&NORM_SPLIT],
    why: "a mean of head_dim squares, its inverse root, two products, as in rmsnorm: √head_dim times the rounding of what rope_split \
          does with it",
};
const NORM_BACK: Op = Op {
    name: "norm_merge",
    kernels: &[&NORM_MERGE],
    why: "a sum over head_dim of what was turned back, doubled for the products with r on both sides, as in rmsnorm_backward",
};

/// Tokens, heads, heads of keys, elements of a head: both widths of loads, fewer and more of them than threads.
const SIZES: &[(usize, usize, usize, usize)] =
    &[(1, 1, 1, 2), (7, 3, 1, 8), (33, 4, 2, 10), (65, 9, 3, 64), (9, 2, 1, 300), (5, 3, 1, 128), (3, 1, 2, 320)];
const QUICK: &[usize] = &[1, 2, 3];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &size) in SIZES.iter().enumerate() {
        let (tokens, heads, kv_heads, head_dim) = size;
        let what = format!("{tokens} tokens, {heads} and {kv_heads} heads of {head_dim}");
        let level = quick_at(i, QUICK);
        for (made, to) in elements(head_dim / 2) {
            for (op, merge) in [(SPLIT, false), (MERGE, true)] {
                let turned = Turned::whole(head_dim);
                rows.push(op.row(level, format!("{what}{to}"), move |t| run(t, size, turned, merge, None, made)));
            }
            for (op, merge) in [(NORM, false), (NORM_BACK, true)] {
                for unit in [false, true] {
                    let what = format!("{what}{}{to}", if unit { " 1 + w" } else { "" });
                    let turned = Turned::whole(head_dim);
                    rows.push(op.row(level, what, move |t| run(t, size, turned, merge, Some(unit), made)));
                }
            }
        }
    }
    for (i, &((tokens, heads, head_dim, _), turned)) in LAYOUTS.iter().enumerate() {
        let what = format!("{tokens} tokens, {heads} and 1 heads of {head_dim}{}", turned.text(head_dim));
        for (made, to) in elements(if turned.moves_four(head_dim) { head_dim / 2 } else { 1 }) {
            for (op, merge) in [(SPLIT, false), (MERGE, true)] {
                let size = (tokens, heads, 1, head_dim);
                let level = quick_at(i, &[0, 1, 2, 3]);
                rows.push(op.row(level, format!("{what}{to}"), move |t| run(t, size, turned, merge, None, made)));
            }
        }
    }
    rows
}

const EPS: f32 = 1e-5;
const POSITIONS: usize = 500;

/// One head, where it stands and what it is multiplied by; without a gain it is not normed.
struct Head<'a> {
    x: &'a [f32],
    gain: Option<Vec<f64>>,
    /// For each element: its partner, the radians by which both turn, and whether it is the first.
    turns: Vec<(usize, f64, bool)>,
}

impl Head<'_> {
    fn x(&self, j: usize) -> f64 {
        self.x[j].into()
    }

    /// Terms of element `j` of `x`, turned by `sign` times the angles.
    fn turned(&self, x: impl Fn(usize) -> f64, j: usize, sign: f64) -> Exact {
        let (other, angle, is_first) = self.turns[j];
        let (sin, cos) = angle.sin_cos();
        let sin = if is_first { -sin * sign } else { sin * sign };
        Exact::sum([x(j) * cos, x(other) * sin])
    }

    /// 1 over the root of the mean square.
    fn r(&self) -> f64 {
        let squares: f64 = (0..self.x.len()).map(|j| self.x(j).powi(2)).sum();
        1.0 / (squares / self.x.len() as f64 + f64::from(EPS)).sqrt()
    }

    fn forward(&self) -> Vec<Exact> {
        let n = self.x.len();
        let of = |j: usize| match &self.gain {
            None => self.turned(|j| self.x(j), j, 1.0),
            Some(g) => self.turned(|j| self.x(j) * self.r() * g[j], j, 1.0).looser((n as f64).sqrt()),
        };
        (0..n).map(of).collect()
    }

    /// The gradient of x from that of the result, `d`.
    fn backward(&self, d: &[f32]) -> Vec<Exact> {
        let n = self.x.len();
        let back: Vec<Exact> = (0..n).map(|j| self.turned(|j| d[j].into(), j, -1.0)).collect();
        let Some(g) = &self.gain else { return back };
        let r = self.r();
        let mut dot = Exact::default();
        for (j, d) in back.iter().enumerate() {
            let by = g[j] * self.x(j) * r / n as f64;
            dot.value += d.value * by;
            dot.magnitude += d.magnitude * by.abs();
        }
        let of = |(j, d): (usize, &Exact)| {
            let (direct, through) = (r * g[j], r * r * self.x(j));
            let magnitude = 2.0 * (d.magnitude * direct.abs() + dot.magnitude * through.abs());
            Exact { value: d.value * direct - dot.value * through, magnitude, terms: n }
        };
        back.iter().enumerate().map(of).collect()
    }
}

/// `unit`: heads are normed, by `1 + w` or by `w`. What is written is made of `element`s.
fn run(
    t: &mut Trial<'_>,
    (tokens, heads, kv_heads, head_dim): (usize, usize, usize, usize),
    turned: Turned,
    merge: bool,
    unit: Option<bool>,
    element: Element,
) -> Result<()> {
    let at: Vec<u32> = (0..tokens).map(|_| t.rng.below(POSITIONS as u64) as u32).collect();
    let (table, inv_freq) = turned.table(t, head_dim, POSITIONS, 1.0)?;
    let positions = t.up(&[tokens], &at)?;
    let layout = Heads { heads, kv_heads, table: &table, positions: &positions };
    let (both, width) = (heads + kv_heads, (heads + 2 * kv_heads) * head_dim);
    let (x, d) = (t.random(tokens * width), t.random(tokens * width));
    let stride = head_dim.next_multiple_of(64);
    let w = t.random(2 * stride);
    let weights = t.up(&[2, stride], &w)?;
    let norm = unit.map(|unit_offset| HeadNorm { norm: RmsNorm { eps: EPS, unit_offset }, weights: &weights });
    // elements of a row, of which head, and where in it
    let each = |i: usize| (i / width, i % width / head_dim);
    let head = |first: usize| {
        let (token, head) = each(first);
        let is_turned = head < both;
        let gain = unit.filter(|_| is_turned).map(|unit| {
            let row = &w[if head < heads { 0 } else { stride }..][..head_dim];
            row.iter().map(|w| f64::from(*w) + f64::from(u8::from(unit))).collect()
        });
        let position = if is_turned { f64::from(at[token]) } else { 0.0 };
        // what does not turn is its own partner
        let mut turns: Vec<(usize, f64, bool)> = (0..head_dim).map(|j| (j, 0.0, true)).collect();
        for (j, other, frequency) in turned.pairs() {
            let angle = position * inv_freq[frequency];
            (turns[j], turns[other]) = ((other, angle, true), (j, angle, false));
        }
        Head { x: &x[first..][..head_dim], gain, turns }
    };
    let firsts = || (0..tokens * width).step_by(head_dim);
    let all = t.up(&[tokens, width], &x)?;
    if merge {
        let [q, k, v] = apart(&d, width, heads * head_dim, kv_heads * head_dim);
        let part = |p: &[f32]| t.up(&[tokens, p.len() / tokens], p);
        let (q, k, v): (Tensor, Tensor, Tensor) = (part(&q)?, part(&k)?, part(&v)?);
        let merged = t.out_of(element, &[tokens, width])?;
        let to = To::Into(&merged.tensor);
        match norm {
            None => rope_merge([&q, &k, &v], layout, to)?,
            Some(norm) => norm_merge([&q, &k, &v], &all, norm, layout, to)?,
        };
        let want: Vec<Exact> = firsts().flat_map(|i| head(i).backward(&d[i..][..head_dim])).collect();
        return t.compare("merged", &merged, want);
    }
    let parts: Vec<Guarded> = [heads, kv_heads, kv_heads]
        .into_iter()
        .map(|heads| t.out_of(element, &[tokens, heads * head_dim]))
        .collect::<Result<_>>()?;
    let to = [0, 1, 2].map(|i| To::Into(&parts[i].tensor));
    match norm {
        None => rope_split(&all, layout, to)?,
        Some(norm) => norm_split(&all, norm, layout, to)?,
    };
    let want: Vec<Exact> = firsts().flat_map(|i| head(i).forward()).collect();
    let wants = apart(&want, width, heads * head_dim, kv_heads * head_dim);
    for ((name, got), want) in ["q", "k", "v"].into_iter().zip(&parts).zip(wants) {
        t.compare(name, got, want)?;
    }
    Ok(())
}

/// The parts of rows `[q | k | v]` of `width` elements.
fn apart<T: Clone>(rows: &[T], width: usize, q: usize, kv: usize) -> [Vec<T>; 3] {
    [(0, q), (q, kv), (q + kv, kv)]
        .map(|(first, cols)| rows.chunks(width).flat_map(|row| row[first..][..cols].iter().cloned()).collect())
}
