//! Sums, scaling and gated activations: `shaders/elementwise.wgsl`, `shaders/glu.wgsl`. Any shape; operands of one
//! call have the same one. Outputs of gated activations are f16 if that is asked for, and rows a multiple of 4 long.

use super::output::{To, Words, distinct, groups, halves, pairs, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, Kernel, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `c = a + b`.
    ADD, "add", "elementwise.wgsl", ElementwiseParams, [read("a"), read("b"), write("c")]
);
kernel!(
    /// `a += scale·b`.
    ADD_INTO, "add_into", "elementwise.wgsl", ElementwiseParams, [read("b"), write("a")]
);
kernel!(
    /// `a *= scale`.
    SCALE, "scale", "elementwise.wgsl", ElementwiseParams, [write("a")]
);
kernel!(
    /// A copy in f16.
    ROUND, "round", "elementwise.wgsl", ElementwiseParams, [read("a"), write("h").half_if("OUT16")]
);
kernel!(
    /// `h = f(gate)·up`.
    GLU, "glu", "glu.wgsl", GluParams,
    [read("gate"), read("up"), write("h").half_if("OUT16")]
);
kernel!(
    /// The gradients of gate and up.
    GLU_BACKWARD, "glu_backward", "glu.wgsl", GluParams,
    [read("dh"), read("gate"), read("up"), write("dgate").half_if("OUT16"), write("dup").half_if("OUT16")]
);

kernel!(
    /// The same where gate and up lie side by side.
    GLU_BOTH, "glu_both", "glu.wgsl", GluParams,
    [read("both"), write("h").half_if("OUT16")]
);
kernel!(
    /// The gradients of both, side by side.
    GLU_BOTH_BACKWARD, "glu_both_backward", "glu.wgsl", GluParams,
    [read("dh"), read("both"), write("dboth").half_if("OUT16")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ElementwiseParams {
    grid: Grid,
    n: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct GluParams {
    grid: Grid,
    n: u32,
    cols: u32,
}

/// The function on the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Activation {
    /// `z·σ(z)`: SwiGLU.
    Silu = 0,
    /// The tanh form of gelu: GeGLU.
    GeluTanh = 1,
    /// `max(z, 0)`; of a gate that is the value itself: its square, where it is positive.
    Relu = 2,
}

/// `a + b`.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes differ.
pub fn add(a: &Tensor, b: &Tensor, to: To<'_>) -> Result<Tensor> {
    b.expect_shape("add", "b", a.shape())?;
    let c = to.overwritten(a.device(), "add", a.shape())?;
    distinct("add", &[a, b], &[&c])?;
    let params = ElementwiseParams { n: a.len() as u32, ..Default::default() };
    let vec = vec4(a.len());
    let bindings = [a.slice(), b.slice(), c.slice()];
    launch(
        a.device(),
        &elementwise_spec(0, vec, pairs(a.device(), vec)),
        &bindings,
        &params,
        groups(a.len(), vec),
        streaming(3 * a.len(), 0.5),
    )?;
    Ok(c)
}

/// `a += scale·b`.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes differ.
pub fn add_into(a: &Tensor, b: &Tensor, scale: f32) -> Result<()> {
    b.expect_shape("add_into", "b", a.shape())?;
    distinct("add_into", &[b], &[a])?;
    let params = ElementwiseParams { n: a.len() as u32, scale, ..Default::default() };
    let vec = vec4(a.len());
    let bindings = [b.slice(), a.slice()];
    launch(
        a.device(),
        &elementwise_spec(1, vec, pairs(a.device(), vec)),
        &bindings,
        &params,
        groups(a.len(), vec),
        streaming(3 * a.len(), 1.0),
    )
}

/// `a *= factor`, where it lies.
///
/// # Errors
/// Those of a launch.
pub fn scale(a: &Tensor, factor: f32) -> Result<()> {
    let params = ElementwiseParams { n: a.len() as u32, scale: factor, ..Default::default() };
    let vec = vec4(a.len());
    launch(
        a.device(),
        &elementwise_spec(2, vec, pairs(a.device(), vec)),
        &[a.slice()],
        &params,
        groups(a.len(), vec),
        streaming(2 * a.len(), 0.5),
    )
}

/// A copy of `a` in f16; numbers that are too large for that become NaN.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the length is not a multiple of 4.
pub fn round(a: &Tensor, h: To<'_>) -> Result<Tensor> {
    let op = "round";
    let h = h.overwritten(a.device(), op, a.shape())?;
    distinct(op, &[a], &[&h])?;
    if !halves(op, &h, a.len())? {
        return Err(Error::shape(op, "the output is not f16"));
    }
    let params = ElementwiseParams { n: a.len() as u32, ..Default::default() };
    let cost = Cost { flops: 0.0, bytes: 6.0 * a.len() as f64 };
    launch(a.device(), &round_spec(), &[a.slice(), h.slice()], &params, groups(a.len(), true), cost)?;
    Ok(h)
}

/// `h = f(gate)·up`.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes differ.
pub fn glu_forward(activation: Activation, gate: &Tensor, up: &Tensor, h: To<'_>) -> Result<Tensor> {
    let op = "glu";
    up.expect_shape(op, "up", gate.shape())?;
    let h = h.overwritten(gate.device(), op, gate.shape())?;
    distinct(op, &[gate, up], &[&h])?;
    let n = gate.len();
    let params = GluParams { n: n as u32, ..Default::default() };
    let bindings = [gate.slice(), up.slice(), h.slice()];
    let spec = glu_spec(&GLU, activation, vec4(n), Words::of(gate.device(), vec4(n), halves(op, &h, n)?));
    launch(gate.device(), &spec, &bindings, &params, groups(n, vec4(n)), streaming(3 * n, 8.0))?;
    Ok(h)
}

/// `(dgate, dup)` of dh and the forward's operands.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes differ.
pub fn glu_backward(
    activation: Activation,
    dh: &Tensor,
    gate: &Tensor,
    up: &Tensor,
    dgate: To<'_>,
    dup: To<'_>,
) -> Result<(Tensor, Tensor)> {
    let op = "glu_backward";
    up.expect_shape(op, "up", gate.shape())?;
    dh.expect_shape(op, "dh", gate.shape())?;
    let dgate = dgate.overwritten(gate.device(), op, gate.shape())?;
    let dup = dup.overwritten(gate.device(), op, gate.shape())?;
    distinct(op, &[dh, gate, up], &[&dgate, &dup])?;
    let n = gate.len();
    let params = GluParams { n: n as u32, ..Default::default() };
    let bindings = [dh.slice(), gate.slice(), up.slice(), dgate.slice(), dup.slice()];
    let spec = glu_spec(&GLU_BACKWARD, activation, vec4(n), Words::of(gate.device(), vec4(n), halves(op, &dgate, n)?));
    launch(gate.device(), &spec, &bindings, &params, groups(n, vec4(n)), streaming(5 * n, 8.0))?;
    Ok((dgate, dup))
}

/// `h [rows, cols] = f(gate)·up` of gate and up side by side, `[rows, 2·cols]`.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the width is odd.
pub fn glu_both(activation: Activation, both: &Tensor, h: To<'_>) -> Result<Tensor> {
    let op = "glu_both";
    let (rows, cols) = sides(both, op)?;
    let h = h.overwritten(both.device(), op, &[rows, cols])?;
    distinct(op, &[both], &[&h])?;
    let n = h.len();
    let params = GluParams { n: n as u32, cols: cols as u32, ..Default::default() };
    let spec = glu_spec(&GLU_BOTH, activation, vec4(cols), Words::of(both.device(), vec4(cols), halves(op, &h, cols)?));
    let groups = groups(n, vec4(cols));
    launch(both.device(), &spec, &[both.slice(), h.slice()], &params, groups, streaming(3 * n, 8.0))?;
    Ok(h)
}

/// `[dgate | dup] [rows, 2·cols]` of dh `[rows, cols]` and the forward's operand.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes do not fit together.
pub fn glu_both_backward(activation: Activation, dh: &Tensor, both: &Tensor, to: To<'_>) -> Result<Tensor> {
    let op = "glu_both_backward";
    let (rows, cols) = sides(both, op)?;
    dh.expect_shape(op, "dh", &[rows, cols])?;
    let dboth = to.overwritten(both.device(), op, both.shape())?;
    distinct(op, &[dh, both], &[&dboth])?;
    let n = dh.len();
    let params = GluParams { n: n as u32, cols: cols as u32, ..Default::default() };
    let spec = glu_spec(
        &GLU_BOTH_BACKWARD,
        activation,
        vec4(cols),
        Words::of(both.device(), vec4(cols), halves(op, &dboth, cols)?),
    );
    let bindings = [dh.slice(), both.slice(), dboth.slice()];
    launch(both.device(), &spec, &bindings, &params, groups(n, vec4(cols)), streaming(5 * n, 8.0))?;
    Ok(dboth)
}

/// Rows, and half of the columns.
fn sides(both: &Tensor, op: &'static str) -> Result<(usize, usize)> {
    let (rows, cols) = both.dims2(op)?;
    if !cols.is_multiple_of(2) {
        return Err(Error::shape(op, format!("{:?} does not part in halves", both.shape())));
    }
    Ok((rows, cols / 2))
}

fn elementwise_spec(op: u32, vec: bool, pairs: bool) -> KernelSpec {
    let kernel = [&ADD, &ADD_INTO, &SCALE][op as usize];
    KernelSpec::new(kernel, [("OP", op), ("VEC", vec.into()), ("PAIRS", pairs.into())])
}

fn round_spec() -> KernelSpec {
    KernelSpec::new(&ROUND, [("OP", 3), ("VEC", 1), ("PAIRS", 0), ("OUT16", 1)])
}

fn glu_spec(kernel: &'static Kernel, activation: Activation, vec: bool, words: Words) -> KernelSpec {
    let backward = [GLU_BACKWARD.name, GLU_BOTH_BACKWARD.name].contains(&kernel.name);
    let both = [GLU_BOTH.name, GLU_BOTH_BACKWARD.name].contains(&kernel.name);
    let mut consts = vec![("ACT", activation as u32), ("BACKWARD", backward.into()), ("BOTH", both.into())];
    consts.extend([("VEC", vec.into()), ("OUT16", words.half.into()), ("PAIRS", words.pairs.into())]);
    KernelSpec::new(kernel, consts)
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = vec![round_spec()];
    for (vec, pairs) in [(false, false), (true, false), (true, true)] {
        all.extend((0..3).map(|op| elementwise_spec(op, vec, pairs)));
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            let kernels: [&'static Kernel; 4] = [&GLU, &GLU_BACKWARD, &GLU_BOTH, &GLU_BOTH_BACKWARD];
            let ways = [Words { half: false, pairs }, Words { half: true, pairs: false }];
            let ways = ways.into_iter().filter(|w| !w.half || (vec && !pairs));
            all.extend(ways.flat_map(|words| kernels.map(|kernel| glu_spec(kernel, activation, vec, words))));
        }
    }
    all
}
