//! RMSNorm: `y = x·rstd·g`, its input and weight gradients.

use super::{Exact, Guarded, Level, Op, Row, Trial, elements, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::norm::{ADD_RMSNORM, ADD_RMSNORM_SIMD, RMSNORM, RMSNORM_SIMD};
use crate::kernels::norm::{RMSNORM_BACKWARD, RMSNORM_BACKWARD_ROUND, RMSNORM_BACKWARD_SIMD, RMSNORM_WEIGHT};
use crate::kernels::norm::{RmsNorm, add_rmsnorm_forward, rmsnorm_backward, rmsnorm_backward_round, rmsnorm_forward};
use crate::kernels::parts::SUM_PARTS;
use crate::tensor::{Element, Tensor};

const FORWARD: Op = Op {
    name: "rmsnorm",
    kernels: &[&RMSNORM, &RMSNORM_SIMD],
    why: "a mean of cols squares, its inverse root, two products: √cols times the rounding of one, and that of an f16",
};
const ADD: Op = Op { name: "add_rmsnorm", kernels: &[&ADD_RMSNORM, &ADD_RMSNORM_SIMD], ..FORWARD };
const BACKWARD: Op = Op {
    name: "rmsnorm_backward",
    kernels: &[&RMSNORM_BACKWARD, &RMSNORM_BACKWARD_SIMD],
    why: "a sum over cols for the row's dot, doubled for the products with rstd on both sides",
};
const ROUND: Op = Op { name: "rmsnorm_backward_round", kernels: &[&RMSNORM_BACKWARD_ROUND], ..BACKWARD };
const WEIGHT: Op = Op {
    name: "rmsnorm_weight",
    kernels: &[&RMSNORM_BACKWARD, &RMSNORM_BACKWARD_SIMD, &RMSNORM_WEIGHT, &SUM_PARTS],
    why: "a sum over rows of products of three, doubled for the second product",
};

/// (rows, cols): both widths of loads, fewer and more columns than threads, several parts of rows.
const SIZES: &[(usize, usize)] =
    &[(1, 1), (7, 8), (31, 65), (33, 31), (5, 129), (3, 576), (65, 64), (300, 12), (2, 1030)];
const QUICK: &[usize] = &[1, 2, 7];
/// As wide as the streams of large models.
const WIDE: (usize, usize) = (3, 2048);

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &size) in SIZES.iter().chain([&WIDE]).enumerate() {
        for unit in [false, true] {
            let level = if size == WIDE { Level::Spare } else { quick_at(i, QUICK) };
            let what = format!("{}x{}{}", size.0, size.1, if unit { " 1 + w" } else { "" });
            for (y, to) in elements(size.1) {
                rows.push(FORWARD.row(level, format!("{what}{to}"), move |t| forward(t, size, unit, y)));
                rows.push(ADD.row(level, format!("{what}{to}"), move |t| add_forward(t, size, unit, y)));
            }
            rows.push(WEIGHT.row(level, &what, move |t| weight(t, size, unit)));
            for add in [false, true] {
                let what = format!("{what}{}", if add { " +=" } else { "" });
                rows.push(BACKWARD.row(level, &what, move |t| backward(t, size, unit, add, false)));
                if size.1.is_multiple_of(4) {
                    rows.push(ROUND.row(level, what, move |t| backward(t, size, unit, add, true)));
                }
            }
        }
    }
    // more rows than parts have
    rows.push(WEIGHT.row(Level::Full, "9000x4", |t| weight(t, (9000, 4), false)));
    rows
}

struct Data {
    rows: usize,
    cols: usize,
    norm: RmsNorm,
    x: Vec<f32>,
    dy: Vec<f32>,
    w: Vec<f32>,
    /// As the forward would leave it.
    rstd: Vec<f32>,
}

impl Data {
    fn new(t: &mut Trial<'_>, (rows, cols): (usize, usize), unit_offset: bool) -> Data {
        let norm = RmsNorm { eps: 1e-5, unit_offset };
        let (x, dy, w) = (t.random(rows * cols), t.random(rows * cols), t.random(cols));
        let mut data = Data { rows, cols, norm, x, dy, w, rstd: Vec::new() };
        data.rstd = (0..rows).map(|t| data.exact_rstd(t) as f32).collect();
        data
    }

    fn exact_rstd(&self, t: usize) -> f64 {
        let row = &self.x[t * self.cols..][..self.cols];
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / self.cols as f64;
        1.0 / (mean + f64::from(self.norm.eps)).sqrt()
    }

    fn gain(&self, c: usize) -> f64 {
        f64::from(self.w[c]) + if self.norm.unit_offset { 1.0 } else { 0.0 }
    }

    fn at(v: &[f32], i: usize) -> f64 {
        v[i].into()
    }
}

fn forward(t: &mut Trial<'_>, size: (usize, usize), unit: bool, y: Element) -> Result<()> {
    let d = Data::new(t, size, unit);
    let (tx, tw) = (t.up(&[d.rows, d.cols], &d.x)?, t.up(&[d.cols], &d.w)?);
    let (y, rstd) = (t.out_of(y, &[d.rows, d.cols])?, t.out(&[d.rows])?);
    rmsnorm_forward(&tx, &tw, d.norm, To::Into(&y.tensor), To::Into(&rstd.tensor))?;
    compare_normed(t, &d, &y, &rstd)
}

fn add_forward(t: &mut Trial<'_>, size: (usize, usize), unit: bool, y: Element) -> Result<()> {
    let mut d = Data::new(t, size, unit);
    let shape = [d.rows, d.cols];
    let b = t.random(d.x.len());
    let (ta, tb, tw) = (t.up(&shape, &d.x)?, t.up(&shape, &b)?, t.up(&[d.cols], &d.w)?);
    let (x, y, rstd) = (t.out(&shape)?, t.out_of(y, &shape)?, t.out(&[d.rows])?);
    let to = [&x, &y, &rstd].map(|out| To::Into(&out.tensor));
    add_rmsnorm_forward([&ta, &tb], &tw, d.norm, to)?;
    t.compare("x", &x, d.x.iter().zip(&b).map(|(a, b)| Exact::sum([f64::from(*a), f64::from(*b)])))?;
    // the norm is that of the sum as it is stored
    d.x.iter_mut().zip(&b).for_each(|(a, b)| *a += b);
    compare_normed(t, &d, &y, &rstd)
}

fn compare_normed(t: &mut Trial<'_>, d: &Data, y: &Guarded, rstd: &Guarded) -> Result<()> {
    let roughness = (d.cols as f64).sqrt();
    let want = (0..d.x.len()).map(|i| Data::at(&d.x, i) * d.exact_rstd(i / d.cols) * d.gain(i % d.cols));
    t.compare("y", y, want.map(|v| Exact::of(v).looser(roughness)))?;
    t.compare("rstd", rstd, (0..d.rows).map(|row| Exact::of(d.exact_rstd(row)).looser(roughness)))
}

fn run(t: &Trial<'_>, d: &Data, dx: To<'_>, rounded: Option<To<'_>>, dw: Option<&Tensor>) -> Result<()> {
    let shape = [d.rows, d.cols];
    let (tx, tdy) = (t.up(&shape, &d.x)?, t.up(&shape, &d.dy)?);
    let (tw, rstd) = (t.up(&[d.cols], &d.w)?, t.up(&[d.rows], &d.rstd)?);
    let operands = [&tdy, &tx, &tw, &rstd];
    match rounded {
        None => rmsnorm_backward(operands, d.norm, dx, dw).map(drop),
        Some(rounded) => rmsnorm_backward_round(operands, d.norm, dx, rounded, dw).map(drop),
    }
}

fn backward(t: &mut Trial<'_>, size: (usize, usize), unit: bool, add: bool, round: bool) -> Result<()> {
    let d = Data::new(t, size, unit);
    let start = t.random(d.x.len());
    let shape = [d.rows, d.cols];
    let dx = if add { t.holding(&shape, &start)? } else { t.out(&shape)? };
    let rounded = if round { Some(t.out_of(Element::F16, &shape)?) } else { None };
    let to = if add { To::AddTo(&dx.tensor) } else { To::Into(&dx.tensor) };
    run(t, &d, to, rounded.as_ref().map(|r| To::Into(&r.tensor)), None)?;
    let mut want = Vec::with_capacity(d.x.len());
    for row in 0..d.rows {
        let r = d.exact_rstd(row);
        let at = |v: &[f32], c: usize| Data::at(v, row * d.cols + c);
        let dot = Exact::sum((0..d.cols).map(|c| at(&d.dy, c) * d.gain(c) * at(&d.x, c) * r / d.cols as f64));
        for c in 0..d.cols {
            let (direct, through) = (r * at(&d.dy, c) * d.gain(c), r * at(&d.x, c) * r);
            let mut e = Exact {
                value: direct - through * dot.value,
                magnitude: 2.0 * (direct.abs() + through.abs() * dot.magnitude),
                terms: d.cols,
            };
            if add {
                e.add(at(&start, c));
            }
            want.push(e);
        }
    }
    if let Some(rounded) = &rounded {
        t.compare("dx in f16", rounded, want.iter().copied())?;
    }
    t.compare("dx", &dx, want)
}

fn weight(t: &mut Trial<'_>, size: (usize, usize), unit: bool) -> Result<()> {
    let d = Data::new(t, size, unit);
    let start = t.random(d.cols);
    let dw = t.holding(&[d.cols], &start)?;
    run(t, &d, To::default(), None, Some(&dw.tensor))?;
    let want = (0..d.cols).map(|c| {
        let term =
            |row: usize| Data::at(&d.dy, row * d.cols + c) * Data::at(&d.x, row * d.cols + c) * d.exact_rstd(row);
        Exact::sum((0..d.rows).map(term).chain([Data::at(&start, c)])).looser(2.0)
    });
    let want: Vec<_> = want.collect();
    t.compare("dw", &dw, want)
}
