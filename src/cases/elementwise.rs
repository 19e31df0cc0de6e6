//! Sums, scaling, gated activations.

use super::{Exact, Level, Op, Row, Trial, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::blocks::{Block, GATHER, SPREAD, gather_add, spread};
use crate::kernels::elementwise::{
    ADD, ADD_INTO, Activation, GLU, GLU_BACKWARD, SCALE, add, add_into, glu_backward, glu_forward, scale,
};

const ROUNDED: &str = "one product and one sum, each rounded once";
const ADD_OP: Op = Op { name: "add", kernels: &[&ADD], why: ROUNDED };
const ADD_INTO_OP: Op = Op { name: "add_into", kernels: &[&ADD_INTO], why: ROUNDED };
const SCALE_OP: Op = Op { name: "scale", kernels: &[&SCALE], why: ROUNDED };
const ACTIVATION: &str = "the exponential's argument is rounded, and WGSL grants it 3 + 2|x| units in the last place; \
                          both reach the result through σ or 1 − σ";
const GLU_OP: Op = Op { name: "glu", kernels: &[&GLU], why: ACTIVATION };
const GLU_BACKWARD_OP: Op = Op { name: "glu_backward", kernels: &[&GLU_BACKWARD], why: ACTIVATION };

const SPREAD_OP: Op = Op { name: "blocks_spread", kernels: &[&SPREAD], why: ROUNDED };
const GATHER_OP: Op = Op { name: "blocks_gather", kernels: &[&GATHER], why: ROUNDED };

const SIZES: &[usize] = &[1, 7, 31, 33, 64, 65, 129, 1024, 2052, 4099];
const QUICK: &[usize] = &[1, 4, 9];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = blocks();
    for (i, &n) in SIZES.iter().enumerate() {
        let level = quick_at(i, QUICK);
        rows.push(ADD_OP.row(level, format!("{n}"), move |t| {
            let (a, b, c) = (t.random(n), t.random(n), t.out(&[n])?);
            add(&t.up(&[n], &a)?, &t.up(&[n], &b)?, To::Into(&c.tensor))?;
            t.compare("c", &c, a.iter().zip(&b).map(|(a, b)| Exact::sum([f64::from(*a), f64::from(*b)])))
        }));
        rows.push(ADD_INTO_OP.row(level, format!("{n}"), move |t| {
            let (a, b) = (t.random(n), t.random(n));
            let c = t.holding(&[n], &a)?;
            add_into(&c.tensor, &t.up(&[n], &b)?, -0.3)?;
            let sum = |(a, b): (&f32, &f32)| Exact::sum([f64::from(*a), f64::from(-0.3f32) * f64::from(*b)]);
            t.compare("a", &c, a.iter().zip(&b).map(sum))
        }));
        rows.push(SCALE_OP.row(level, format!("{n}"), move |t| {
            let a = t.random(n);
            let c = t.holding(&[n], &a)?;
            scale(&c.tensor, 1.7)?;
            t.compare("a", &c, a.iter().map(|a| Exact::of(f64::from(*a) * f64::from(1.7f32))))
        }));
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let what = format!("{activation:?} {n}");
            rows.push(GLU_OP.row(level, &what, move |t| glu(t, activation, n, false)));
            rows.push(GLU_BACKWARD_OP.row(level, what, move |t| glu(t, activation, n, true)));
        }
    }
    rows
}

/// Adapters' B on stacked weights: all rows covered, rows between and behind the blocks, a single block.
fn blocks() -> Vec<Row> {
    let mut rows = Vec::new();
    for (out, blocks) in [(48, vec![(0, 32, 4), (32, 8, 4), (40, 8, 4)]), (77, vec![(5, 30, 3), (40, 31, 1)])]
        .into_iter()
        .chain([(33, vec![(32, 1, 2)]), (131, vec![(0, 100, 1), (100, 1, 8), (101, 20, 16), (121, 9, 2)])])
    {
        let what = format!("{out} rows, blocks {blocks:?}");
        let blocks: Vec<Block> = (blocks.into_iter().zip([1.5, -0.25, 0.7, 2.0]))
            .map(|((first_row, rows, rank), scale)| Block { first_row, rows, rank, scale })
            .collect();
        let again = blocks.clone();
        rows.push(SPREAD_OP.row(Level::Quick, &what, move |t| {
            let (rank, places) = places(&blocks);
            let b = t.random(places.len());
            let all = t.out(&[out, rank])?;
            spread(&t.up(&[b.len()], &b)?, &blocks, out, To::Into(&all.tensor))?;
            let mut want = vec![Exact::of(0.0); out * rank];
            for (b, (row, col, scale)) in b.iter().zip(places) {
                want[row * rank + col] = Exact::of(f64::from(*b) * f64::from(scale));
            }
            t.compare("spread", &all, want)
        }));
        rows.push(GATHER_OP.row(Level::Quick, what, move |t| {
            let (rank, places) = places(&again);
            let (start, all) = (t.random(places.len()), t.random(out * rank));
            let b = t.holding(&[start.len()], &start)?;
            gather_add(&t.up(&[out, rank], &all)?, &again, &b.tensor)?;
            let sum = |(start, (row, col, scale)): (&f32, (usize, usize, f32))| {
                Exact::sum([f64::from(*start), f64::from(scale) * f64::from(all[row * rank + col])])
            };
            t.compare("b", &b, start.iter().zip(places).map(sum))
        }));
    }
    rows
}

/// All ranks together, and the row, column and scale of each element of B.
fn places(blocks: &[Block]) -> (usize, Vec<(usize, usize, f32)>) {
    let (mut rank, mut all) = (0, Vec::new());
    for b in blocks {
        let places = (0..b.rows).flat_map(|row| (0..b.rank).map(move |col| (b.first_row + row, rank + col, b.scale)));
        all.extend(places);
        rank += b.rank;
    }
    (rank, all)
}

fn value_and_slope(activation: Activation, z: f64) -> (f64, f64) {
    match activation {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-z).exp());
            (z * s, s * (1.0 + z * (1.0 - s)))
        }
        Activation::GeluTanh => {
            let k = (2.0 / std::f64::consts::PI).sqrt();
            let t = (k * (z + 0.044715 * z.powi(3))).tanh();
            let slope = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * z * z);
            (0.5 * z * (1.0 + t), slope)
        }
    }
}

/// [`ACTIVATION`], relative to the larger of the result and its cancelling parts.
fn loose(z: f64, value: f64, parts: f64) -> Exact {
    let argument = 1.6 * (z.abs() + 0.044715 * z.abs().powi(3));
    Exact { value, magnitude: (value.abs() + parts) * (2.0 + argument.min(90.0)), terms: 1 }
}

fn glu(t: &mut Trial<'_>, activation: Activation, n: usize, backward: bool) -> Result<()> {
    let mut gate: Vec<f32> = t.random(n).iter().map(|z| 3.0 * z).collect();
    // where naive forms overflow
    for (g, extreme) in gate.iter_mut().skip(1).zip([-1000.0, 1000.0, -90.0, 90.0, 0.0, -20.0]) {
        *g = extreme;
    }
    let (up, dh) = (t.random(n), t.random(n));
    let (mut h, mut dgate, mut dup) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        let (z, u, d) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dh[i]));
        let (value, slope) = value_and_slope(activation, z);
        // the kernel's σ stops at e⁻⁸⁰, so z·σ is off by |z|·10⁻³⁵; the reference's 1 + tanh cancels at 10⁻¹⁶
        let tail = z.abs() * 1e-27 + if activation == Activation::Silu { 0.0 } else { z.abs() * 1e-9 };
        h.push(loose(z, value * u, tail * u.abs()));
        dup.push(loose(z, value * d, tail * d.abs()));
        let parts = (value * (1.0 + z * z).min(slope.abs() + 3.0)).abs() + tail * (1.0 + z * z);
        dgate.push(loose(z, slope * u * d, parts * (u * d).abs()));
    }
    let (t_gate, t_up) = (t.up(&[n], &gate)?, t.up(&[n], &up)?);
    if !backward {
        let y = t.out(&[n])?;
        glu_forward(activation, &t_gate, &t_up, To::Into(&y.tensor))?;
        return t.compare("h", &y, h);
    }
    let (y, z) = (t.out(&[n])?, t.out(&[n])?);
    glu_backward(activation, &t.up(&[n], &dh)?, &t_gate, &t_up, To::Into(&y.tensor), To::Into(&z.tensor))?;
    t.compare("dgate", &y, dgate)?;
    t.compare("dup", &z, dup)
}
