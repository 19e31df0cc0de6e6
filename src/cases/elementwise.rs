//! Sums, scaling, gated activations.

use super::{Exact, Level, Op, Row, Trial, elements, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::elementwise::{
    ADD, ADD_INTO, Activation, GLU, GLU_BACKWARD, GLU_BOTH, GLU_BOTH_BACKWARD, ROUND, SCALE, add, add_into,
    glu_backward, glu_both, glu_both_backward, glu_forward, round, scale,
};
use crate::tensor::Element;

const ROUNDED: &str = "one product and one sum, each rounded once";
const ADD_OP: Op = Op { name: "add", kernels: &[&ADD], why: ROUNDED };
const ADD_INTO_OP: Op = Op { name: "add_into", kernels: &[&ADD_INTO], why: ROUNDED };
const SCALE_OP: Op = Op { name: "scale", kernels: &[&SCALE], why: ROUNDED };
const ROUND_OP: Op = Op { name: "round", kernels: &[&ROUND], why: "the rounding of an f16" };
const ACTIVATION: &str = "the exponential's argument is rounded, and WGSL grants it 3 + 2|x| units in the last place; \
                          both reach the result through σ or 1 − σ; and an f16 rounds once more";
const GLU_OP: Op = Op { name: "glu", kernels: &[&GLU], why: ACTIVATION };
const GLU_BACKWARD_OP: Op = Op { name: "glu_backward", kernels: &[&GLU_BACKWARD], why: ACTIVATION };

const GLU_BOTH_OP: Op = Op { name: "glu_both", kernels: &[&GLU_BOTH], why: ACTIVATION };
const GLU_BOTH_BACKWARD_OP: Op = Op { name: "glu_both_backward", kernels: &[&GLU_BOTH_BACKWARD], why: ACTIVATION };

const SIZES: &[usize] = &[1, 7, 31, 33, 64, 65, 129, 1024, 2052, 4099];
const QUICK: &[usize] = &[1, 4, 9];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
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
        if n.is_multiple_of(4) {
            rows.push(ROUND_OP.row(level, format!("{n}"), move |t| {
                let (a, h) = (t.random(n), t.out_of(Element::F16, &[n])?);
                round(&t.up(&[n], &a)?, To::Into(&h.tensor))?;
                t.compare("h", &h, a.iter().map(|a| Exact::of(f64::from(*a))))
            }));
        }
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            for (out, to) in elements(n) {
                let what = format!("{activation:?} {n}{to}");
                rows.push(GLU_OP.row(level, &what, move |t| glu(t, activation, n, false, None, out)));
                rows.push(GLU_BACKWARD_OP.row(level, what, move |t| glu(t, activation, n, true, None, out)));
            }
        }
    }
    for (n, cols) in [(7, 7), (30, 5), (64, 4), (1040, 52), (3000, 1500)] {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            for (out, to) in elements(cols) {
                let what = format!("{activation:?} [{}, {cols}]{to}", n / cols);
                let both = Some(cols);
                rows.push(GLU_BOTH_OP.row(Level::Quick, &what, move |t| glu(t, activation, n, false, both, out)));
                rows.push(
                    GLU_BOTH_BACKWARD_OP.row(Level::Quick, what, move |t| glu(t, activation, n, true, both, out)),
                );
            }
        }
    }
    rows
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
        Activation::Relu => (z.max(0.0), if z > 0.0 { 1.0 } else { 0.0 }),
    }
}

/// [`ACTIVATION`], relative to the larger of the result and its cancelling parts.
fn loose(z: f64, value: f64, parts: f64) -> Exact {
    let argument = 1.6 * (z.abs() + 0.044715 * z.abs().powi(3));
    Exact { value, magnitude: (value.abs() + parts) * (2.0 + argument.min(90.0)), terms: 1 }
}

fn glu(
    t: &mut Trial<'_>,
    activation: Activation,
    n: usize,
    backward: bool,
    both: Option<usize>,
    out: Element,
) -> Result<()> {
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
    if let Some(cols) = both {
        let (rows, side) = (n / cols, [n / cols, 2 * cols]);
        let side_by_side = |a: &[f32], b: &[f32]| -> Vec<f32> {
            a.chunks(cols).zip(b.chunks(cols)).flat_map(|(a, b)| [a, b].concat()).collect()
        };
        let operand = t.up(&side, &side_by_side(&gate, &up))?;
        if !backward {
            let y = t.out_of(out, &[rows, cols])?;
            glu_both(activation, &operand, To::Into(&y.tensor))?;
            return t.compare("h", &y, h);
        }
        let y = t.out_of(out, &side)?;
        glu_both_backward(activation, &t.up(&[rows, cols], &dh)?, &operand, To::Into(&y.tensor))?;
        let want: Vec<_> = dgate.chunks(cols).zip(dup.chunks(cols)).flat_map(|(g, u)| [g, u].concat()).collect();
        return t.compare("dgate and dup", &y, want);
    }
    let (t_gate, t_up) = (t.up(&[n], &gate)?, t.up(&[n], &up)?);
    if !backward {
        let y = t.out_of(out, &[n])?;
        glu_forward(activation, &t_gate, &t_up, To::Into(&y.tensor))?;
        return t.compare("h", &y, h);
    }
    let (y, z) = (t.out_of(out, &[n])?, t.out_of(out, &[n])?);
    glu_backward(activation, &t.up(&[n], &dh)?, &t_gate, &t_up, To::Into(&y.tensor), To::Into(&z.tensor))?;
    t.compare("dgate", &y, dgate)?;
    t.compare("dup", &z, dup)
}
