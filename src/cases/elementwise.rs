//! Sums, scaling, gated activations.

use super::{Exact, Level, Op, Row, Trial, elements, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::elementwise::{
    ADD, ADD_INTO, Activation, GLU, GLU_BACKWARD, GLU_BOTH, GLU_BOTH_BACKWARD, GLU_BOTH_KEPT, ROUND, SCALE, add,
    add_into, glu_backward, glu_both, glu_both_backward, glu_both_kept, glu_forward, round, scale,
};
use crate::tensor::Element;
use half::f16;

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
const GLU_BOTH_KEPT_OP: Op = Op { name: "glu_both_kept", kernels: &[&GLU_BOTH_KEPT], why: ACTIVATION };
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
                rows.push(GLU_OP.row(level, &what, move |t| glu(t, activation, n, false, out)));
                rows.push(GLU_BACKWARD_OP.row(level, what, move |t| glu(t, activation, n, true, out)));
            }
        }
    }
    for (n, cols) in [(7, 7), (30, 5), (64, 4), (1040, 52), (3000, 1500)] {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            let mut put = |op: Op, what: &str, packed: Packed, out| {
                let what = format!("{activation:?} [{}, {cols}]{what}", n / cols);
                rows.push(
                    op.row(Level::Quick, what, move |t| glu_packed(t, activation, [n / cols, cols], packed, out)),
                );
            };
            for (out, to) in elements(cols) {
                put(GLU_BOTH_OP, to, Packed::Forward(Element::F32), out);
                put(GLU_BOTH_BACKWARD_OP, to, Packed::Backward(Element::F32), out);
                if out == Element::F16 {
                    put(GLU_BOTH_OP, " of f16", Packed::Forward(out), out);
                    put(GLU_BOTH_BACKWARD_OP, " of f16", Packed::Backward(out), out);
                    put(GLU_BOTH_KEPT_OP, "", Packed::Kept, out);
                }
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

/// Gates that reach to where naive forms overflow, ups, and gradients of h: `n` each.
fn operands(t: &mut Trial<'_>, n: usize) -> [Vec<f32>; 3] {
    let mut gate: Vec<f32> = t.random(n).iter().map(|z| 3.0 * z).collect();
    for (g, extreme) in gate.iter_mut().skip(1).zip([-1000.0, 1000.0, -90.0, 90.0, 0.0, -20.0]) {
        *g = extreme;
    }
    [gate, t.random(n), t.random(n)]
}

/// `[h, dgate, dup]` of gate, up and dh.
fn reference(activation: Activation, [gate, up, dh]: [&[f32]; 3]) -> [Vec<Exact>; 3] {
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for ((z, u), d) in gate.iter().zip(up).zip(dh) {
        let (z, u, d) = (f64::from(*z), f64::from(*u), f64::from(*d));
        let (value, slope) = value_and_slope(activation, z);
        // the kernel's σ stops at e⁻⁸⁰, so z·σ is off by |z|·10⁻³⁵; the reference's 1 + tanh cancels at 10⁻¹⁶
        let tail = z.abs() * 1e-27 + if activation == Activation::Silu { 0.0 } else { z.abs() * 1e-9 };
        let parts = (value * (1.0 + z * z).min(slope.abs() + 3.0)).abs() + tail * (1.0 + z * z);
        all[0].push(loose(z, value * u, tail * u.abs()));
        all[1].push(loose(z, slope * u * d, parts * (u * d).abs()));
        all[2].push(loose(z, value * d, tail * d.abs()));
    }
    all
}

fn glu(t: &mut Trial<'_>, activation: Activation, n: usize, backward: bool, out: Element) -> Result<()> {
    let [gate, up, dh] = operands(t, n);
    let [h, dgate, dup] = reference(activation, [&gate, &up, &dh]);
    let (gate, up) = (t.up(&[n], &gate)?, t.up(&[n], &up)?);
    if !backward {
        let y = t.out_of(out, &[n])?;
        glu_forward(activation, &gate, &up, To::Into(&y.tensor))?;
        return t.compare("h", &y, h);
    }
    let (y, z) = (t.out_of(out, &[n])?, t.out_of(out, &[n])?);
    glu_backward(activation, &t.up(&[n], &dh)?, &gate, &up, To::Into(&y.tensor), To::Into(&z.tensor))?;
    t.compare("dgate", &y, dgate)?;
    t.compare("dup", &z, dup)
}

/// What is computed of gate and up side by side.
#[derive(Clone, Copy)]
enum Packed {
    /// h, of such elements.
    Forward(Element),
    /// h of gate and up rounded to f16, and those.
    Kept,
    /// The gradients, of such elements.
    Backward(Element),
}

fn glu_packed(
    t: &mut Trial<'_>,
    activation: Activation,
    [rows, cols]: [usize; 2],
    packed: Packed,
    out: Element,
) -> Result<()> {
    let [gate, up, dh] = operands(t, rows * cols);
    let side_by_side: Vec<f32> =
        gate.chunks(cols).zip(up.chunks(cols)).flat_map(|(gate, up)| [gate, up].concat()).collect();
    let element = match packed {
        Packed::Forward(element) | Packed::Backward(element) => element,
        Packed::Kept => Element::F32,
    };
    let (both, values) = t.operand(element, &[rows, 2 * cols], &side_by_side)?;
    let want = |values: &[f32]| {
        let half = |first: usize| -> Vec<f32> {
            values.chunks(2 * cols).flat_map(|row| row[first..first + cols].to_vec()).collect()
        };
        reference(activation, [&half(0), &half(cols), &dh])
    };
    match packed {
        Packed::Forward(_) => {
            let y = t.out_of(out, &[rows, cols])?;
            glu_both(activation, &both, To::Into(&y.tensor))?;
            let [h, ..] = want(&values);
            t.compare("h", &y, h)
        }
        Packed::Kept => {
            let (y, kept) = (t.out_of(out, &[rows, cols])?, t.out_of(out, &[rows, 2 * cols])?);
            glu_both_kept(activation, &both, [To::Into(&y.tensor), To::Into(&kept.tensor)])?;
            t.compare("gate and up", &kept, values.iter().map(|v| Exact::of(f64::from(*v))))?;
            // of whichever f16 the device has rounded them to
            let rounded: Vec<f32> = kept.tensor.read::<f16>()?.into_iter().map(f32::from).collect();
            let [h, ..] = want(&rounded);
            t.compare("h", &y, h)
        }
        Packed::Backward(_) => {
            let y = t.out_of(out, &[rows, 2 * cols])?;
            glu_both_backward(activation, &t.up(&[rows, cols], &dh)?, &both, To::Into(&y.tensor))?;
            let [_, dgate, dup] = want(&values);
            let rows = dgate.chunks(cols).zip(dup.chunks(cols)).flat_map(|(gate, up)| [gate, up].concat());
            t.compare("dgate and dup", &y, rows.collect::<Vec<_>>())
        }
    }
}
