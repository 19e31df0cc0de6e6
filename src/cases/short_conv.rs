//! Gated short convolutions over the tokens of segments, and through a cache.

use super::{Exact, Near, Op, Row, Trial, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::short_conv::{
    ConvCache, SHORT_CONV, SHORT_CONV_BACKWARD, SHORT_CONV_CACHED, SHORT_CONV_STORE, SHORT_CONV_WEIGHT, Segments,
    short_conv, short_conv_backward, short_conv_cached, short_conv_store, short_conv_weight,
};
use std::ops::Range;

const FORWARD: Op = Op { name: "short_conv", kernels: &[&SHORT_CONV], why: "a sum of taps products of four numbers" };
const BACKWARD: Op = Op {
    name: "short_conv_backward",
    kernels: &[&SHORT_CONV_BACKWARD, &SHORT_CONV_WEIGHT],
    why: "sums of taps products, and of tokens products for the filters",
};
const CACHED: Op = Op {
    name: "short_conv_cached",
    kernels: &[&SHORT_CONV_STORE, &SHORT_CONV_CACHED],
    why: "a sum of taps products, of which one factor is rounded before",
};

/// Lengths of segments, channels, taps: segments shorter than the filters, and more outputs than a workgroup has threads.
const SIZES: &[(&[usize], usize, usize)] =
    &[(&[1], 1, 1), (&[5, 1, 2, 9], 7, 3), (&[3, 4], 8, 4), (&[40, 2, 25], 33, 3), (&[130], 64, 3)];
const QUICK: &[usize] = &[1, 2];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &(segments, channels, taps)) in SIZES.iter().enumerate() {
        let (level, what) = (quick_at(i, QUICK), format!("{segments:?} x{channels}, {taps} taps"));
        rows.push(FORWARD.row(level, what.clone(), move |t| forward(t, segments, channels, taps)));
        rows.push(BACKWARD.row(level, what.clone(), move |t| backward(t, segments, channels, taps)));
        rows.push(CACHED.row(level, what, move |t| cached(t, segments, channels, taps)));
    }
    rows
}

/// The operands on the host.
struct Host {
    /// The segment of each token.
    segment: Vec<Range<usize>>,
    channels: usize,
    taps: usize,
    bgx: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

impl Host {
    fn new(t: &mut Trial<'_>, segments: &[usize], channels: usize, taps: usize) -> Host {
        let mut segment = Vec::new();
        for n in segments {
            let start = segment.len();
            segment.extend(vec![start..start + n; *n]);
        }
        let tokens = segment.len();
        let (bgx, w) = (t.random(tokens * 3 * channels), t.random(channels * taps));
        Host { segment, channels, taps, bgx, w, dy: t.random(tokens * channels) }
    }

    fn tokens(&self) -> usize {
        self.segment.len()
    }

    /// Part 0, 1, 2 of b | g | x.
    fn part(&self, part: usize, t: usize, c: usize) -> f64 {
        f64::from(self.bgx[(3 * t + part) * self.channels + c])
    }

    fn u(&self, t: usize, c: usize) -> f64 {
        self.part(0, t, c) * self.part(2, t, c)
    }

    fn tap(&self, c: usize, j: usize) -> f64 {
        f64::from(self.w[c * self.taps + self.taps - 1 - j])
    }

    fn dy(&self, t: usize, c: usize) -> f64 {
        f64::from(self.dy[t * self.channels + c])
    }

    /// `factor · conv(u)` at a token.
    fn sum(&self, t: usize, c: usize, factor: f64) -> Exact {
        let seen = (0..self.taps).filter(|j| t >= self.segment[t].start + j);
        // each product is rounded up to three times
        Exact::sum(seen.map(|j| factor * self.tap(c, j) * self.u(t - j, c))).looser(3.0)
    }

    fn y(&self) -> Vec<Exact> {
        let one = |i: usize| {
            let (t, c) = (i / self.channels, i % self.channels);
            self.sum(t, c, self.part(1, t, c))
        };
        (0..self.tokens() * self.channels).map(one).collect()
    }

    fn d(&self) -> Vec<Exact> {
        let one = |i: usize| {
            let (t, part, c) = (i / (3 * self.channels), i / self.channels % 3, i % self.channels);
            if part == 1 {
                return self.sum(t, c, self.dy(t, c));
            }
            let later = (0..self.taps).filter(|j| t + j < self.segment[t].end);
            let term = |j: usize| self.tap(c, j) * self.dy(t + j, c) * self.part(1, t + j, c);
            Exact::sum(later.map(|j| term(j) * self.part(2 - part, t, c))).looser(3.0)
        };
        (0..self.bgx.len()).map(one).collect()
    }

    /// Added to ones.
    fn dw(&self) -> Vec<Exact> {
        let one = |i: usize| {
            let (c, j) = (i / self.taps, self.taps - 1 - i % self.taps);
            let tokens = (0..self.tokens()).filter(|t| *t >= self.segment[*t].start + j);
            let term = |t: usize| self.dy(t, c) * self.part(1, t, c) * self.u(t - j, c);
            Exact::sum(tokens.map(term).chain([1.0])).looser(3.0)
        };
        (0..self.w.len()).map(one).collect()
    }

    fn indices(&self, of: impl Fn(&Range<usize>) -> usize) -> Vec<u32> {
        self.segment.iter().map(|s| of(s) as u32).collect()
    }
}

fn forward(t: &mut Trial<'_>, segments: &[usize], channels: usize, taps: usize) -> Result<()> {
    let h = Host::new(t, segments, channels, taps);
    let n = h.tokens();
    let y = t.out(&[n, channels])?;
    let (bgx, w) = (t.up(&[n, 3 * channels], &h.bgx)?, t.up(&[channels, 1, taps], &h.w)?);
    short_conv(&bgx, &w, &t.up(&[n], &h.indices(|s| s.start))?, To::Into(&y.tensor))?;
    t.compare("y", &y, h.y())
}

fn backward(t: &mut Trial<'_>, segments: &[usize], channels: usize, taps: usize) -> Result<()> {
    let h = Host::new(t, segments, channels, taps);
    let n = h.tokens();
    let (d, dw) = (t.out(&[n, 3 * channels])?, t.holding(&[channels, 1, taps], &vec![1.0; channels * taps])?);
    let (bgx, w) = (t.up(&[n, 3 * channels], &h.bgx)?, t.up(&[channels, 1, taps], &h.w)?);
    let dy = t.up(&[n, channels], &h.dy)?;
    let (start, end) = (t.up(&[n], &h.indices(|s| s.start))?, t.up(&[n], &h.indices(|s| s.end))?);
    short_conv_backward(&bgx, &w, Segments { start: &start, end: &end }, &dy, To::Into(&d.tensor))?;
    short_conv_weight(&bgx, &start, &dy, &dw.tensor)?;
    t.compare("d", &d, h.d())?;
    t.compare("dw", &dw, h.dw())
}

/// The first half of the tokens and then the others, with segments in the cache behind three rows of something else.
fn cached(t: &mut Trial<'_>, segments: &[usize], channels: usize, taps: usize) -> Result<()> {
    const BEFORE: usize = 3;
    let h = Host::new(t, segments, channels, taps);
    let n = h.tokens();
    let cache = t.holding(&[n + BEFORE, channels], &vec![1e3; (n + BEFORE) * channels])?;
    let (w, want) = (t.up(&[channels, 1, taps], &h.w)?, h.y());
    let start = h.indices(|s| s.start + BEFORE);
    for part in [0..n / 2, n / 2..n] {
        if part.is_empty() {
            continue;
        }
        let count = part.len();
        let slots: Vec<u32> = part.clone().map(|t| (t + BEFORE) as u32).collect();
        let bgx = t.up(&[count, 3 * channels], &h.bgx[part.start * 3 * channels..part.end * 3 * channels])?;
        let (start, slots) = (t.up(&[count], &start[part.clone()])?, t.up(&[count], &slots)?);
        let at = ConvCache { cache: &cache.tensor, start: &start, slots: &slots };
        short_conv_store(&bgx, &w, at)?;
        let y = t.out(&[count, channels])?;
        short_conv_cached(&bgx, &w, at, To::Into(&y.tensor))?;
        t.compare("y", &y, want[part.start * channels..part.end * channels].iter().copied())?;
    }
    let stored = (0..n * channels).map(|i| Near::from(Exact::of(h.u(i / channels, i % channels))));
    t.compare("cache", &cache, vec![Near::exactly(1e3); BEFORE * channels].into_iter().chain(stored))
}
