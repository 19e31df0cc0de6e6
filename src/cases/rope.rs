//! Rotary embedding, back and forth, at small and at very large positions.

use super::{Exact, Op, Row, Trial, elements, quick_at};
use crate::error::Result;
use crate::io::config::RopeScaling;
use crate::kernels::To;
use crate::kernels::rope::{ROPE, RopeLayout, RopeTable, Turn, rope};
use crate::tensor::Element;

const COPY: Op = Op {
    name: "rope",
    kernels: &[&ROPE],
    why: "a sum of two products with sines and cosines that the host rounded from f64, whatever the position, and the rounding \
          of an f16",
};

/// Tokens, heads, elements of a head, largest position.
type Size = (usize, usize, usize, u32);

const SIZES: &[Size] = &[(1, 1, 2, 0), (7, 3, 8, 40), (33, 2, 10, 600), (65, 5, 64, 2047), (5, 1, 16, 131_071)];
const QUICK: &[usize] = &[1, 2, 4];

/// How a head turns, besides whole and by halves: which elements together, and how many of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turned {
    pub layout: RopeLayout,
    pub elements: usize,
}

impl Turned {
    pub(super) const fn whole(head_dim: usize) -> Turned {
        Turned { layout: RopeLayout::Halves, elements: head_dim }
    }

    /// The elements that turn together, and the index of their frequency.
    pub(super) fn pairs(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let half = self.elements / 2;
        (0..half).map(move |j| match self.layout {
            RopeLayout::Halves => (j, j + half, j),
            RopeLayout::Neighbours => (2 * j, 2 * j + 1, j),
        })
    }

    /// A table for heads of `head_dim`, and its frequencies.
    pub(super) fn table(
        self,
        t: &Trial<'_>,
        head_dim: usize,
        positions: usize,
        factor: f64,
    ) -> Result<(RopeTable, Vec<f64>)> {
        let inv_freq = RopeScaling::None.frequencies(10_000.0, self.elements, false);
        let table = RopeTable::partial(t.device, &inv_freq, head_dim, self.layout, positions, factor)?;
        Ok((table, inv_freq))
    }
}

/// The same of other layouts: a size, and what turns of it. Both widths of loads of each.
pub(super) const LAYOUTS: &[(Size, Turned)] = &[
    ((7, 3, 16, 40), Turned { layout: RopeLayout::Halves, elements: 8 }),
    ((33, 2, 24, 600), Turned { layout: RopeLayout::Halves, elements: 12 }),
    ((5, 3, 8, 40), Turned { layout: RopeLayout::Neighbours, elements: 8 }),
    ((33, 2, 10, 600), Turned { layout: RopeLayout::Neighbours, elements: 10 }),
    ((9, 3, 128, 2047), Turned { layout: RopeLayout::Neighbours, elements: 64 }),
];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let whole = SIZES.iter().enumerate().map(|(i, &size)| (quick_at(i, QUICK), size, Turned::whole(size.2)));
    let others = LAYOUTS.iter().enumerate().map(|(i, &(size, turned))| (quick_at(i, &[0, 1, 2, 3]), size, turned));
    for (level, size, turned) in whole.chain(others) {
        for turn in [Turn::Forward, Turn::Back] {
            let (tokens, heads, head_dim, last) = size;
            let what =
                format!("{turn:?} {tokens} tokens up to {last}, {heads} heads of {head_dim}{}", turned.text(head_dim));
            let width = if turned.moves_four(head_dim) { head_dim / 2 } else { 1 };
            for (out, to) in elements(width) {
                let what = format!("{what}{to}");
                rows.push(COPY.row(level, what, move |t| run(t, size, turned, turn, out)));
            }
        }
    }
    rows
}

impl Turned {
    /// What a row says of it.
    pub(super) fn text(self, head_dim: usize) -> String {
        let part = if self.elements < head_dim { format!(", {} turned", self.elements) } else { String::new() };
        format!("{part}{}", if self.layout == RopeLayout::Neighbours { ", neighbours" } else { "" })
    }

    /// Whether kernels move four elements at a time.
    pub(super) fn moves_four(self, head_dim: usize) -> bool {
        let by_parts = self.layout == RopeLayout::Halves && self.elements < head_dim;
        head_dim.is_multiple_of(8) && (!by_parts || self.elements.is_multiple_of(8))
    }
}

fn reference(
    x: &[f32],
    positions: &[u32],
    (inv_freq, turned): (&[f64], Turned),
    (heads, head_dim): (usize, usize),
    factor: f64,
    sign: f64,
) -> Vec<Exact> {
    let mut y: Vec<Exact> = x.iter().map(|x| Exact::sum([f64::from(*x)])).collect();
    for (t, &position) in positions.iter().enumerate() {
        for first in (0..heads).map(|h| (t * heads + h) * head_dim) {
            for (i, other, j) in turned.pairs() {
                let (a, b) = (f64::from(x[first + i]), f64::from(x[first + other]));
                let angle = f64::from(position) * inv_freq[j];
                let (c, s) = (angle.cos() * factor, angle.sin() * factor * sign);
                y[first + i] = Exact::sum([a * c, -b * s]);
                y[first + other] = Exact::sum([b * c, a * s]);
            }
        }
    }
    y
}

/// `out`: what the copy is made of.
fn run(t: &mut Trial<'_>, size: Size, turned: Turned, turn: Turn, out: Element) -> Result<()> {
    let (tokens, heads, head_dim, last) = size;
    let mut positions: Vec<u32> = (0..tokens).map(|_| t.rng.below(u64::from(last) + 1) as u32).collect();
    positions[0] = last;
    let factor = if heads == 3 { 1.25 } else { 1.0 };
    let (table, inv_freq) = turned.table(t, head_dim, last as usize + 1, factor)?;
    let x = t.random(tokens * heads * head_dim);
    let shape = [tokens, heads * head_dim];
    let at = t.up(&[tokens], &positions)?;
    let y = t.out_of(out, &shape)?;
    rope(&t.up(&shape, &x)?, &table, &at, turn, To::Into(&y.tensor))?;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    t.compare("y", &y, reference(&x, &positions, (&inv_freq, turned), (heads, head_dim), factor, sign))
}
