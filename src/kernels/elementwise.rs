//! Sums, scaling and gated activations: `shaders/elementwise.wgsl`, `shaders/glu.wgsl`. Any shape; operands of one
//! call have the same one. Outputs of gated activations are f16 if that is asked for, and rows a multiple of 4 long.

use super::output::{To, distinct, groups, halves, streaming, vec4};
use super::streaming_plan::Words;
use super::target::Target;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, Kernel, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
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
    [read("both").half_if("IN16"), write("h").half_if("OUT16")]
);
kernel!(
    /// [`GLU_BOTH`] of gate and up rounded to f16, and those as well.
    GLU_BOTH_KEPT, "glu_both_kept", "glu.wgsl", GluParams,
    [read("both"), write("h").half_if("OUT16"), write("kept").half_if("OUT16")]
);
kernel!(
    /// The gradients of both, side by side.
    GLU_BOTH_BACKWARD, "glu_both_backward", "glu.wgsl", GluParams,
    [read("dh"), read("both").half_if("IN16"), write("dboth").half_if("OUT16")]
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
        &elementwise_spec(0, vec, words(a, vec, false)),
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
        &elementwise_spec(1, vec, words(a, vec, false)),
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
        &elementwise_spec(2, vec, words(a, vec, false)),
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
    let spec = glu_spec(&GLU, activation, vec4(n), words(gate, vec4(n), halves(op, &h, n)?));
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
    let spec = glu_spec(&GLU_BACKWARD, activation, vec4(n), words(gate, vec4(n), halves(op, &dgate, n)?));
    launch(gate.device(), &spec, &bindings, &params, groups(n, vec4(n)), streaming(5 * n, 8.0))?;
    Ok((dgate, dup))
}

/// `h [rows, cols] = f(gate)·up` of gate and up side by side, `[rows, 2·cols]`, f16 if h is.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the width is odd, or the operand alone is f16.
pub fn glu_both(activation: Activation, both: &Tensor, h: To<'_>) -> Result<Tensor> {
    let op = "glu_both";
    let (rows, cols) = sides(both, op)?;
    let h = h.overwritten(both.device(), op, &[rows, cols])?;
    distinct(op, &[both], &[&h])?;
    let n = h.len();
    let params = GluParams { n: n as u32, cols: cols as u32, ..Default::default() };
    let words = words(both, vec4(cols), halves(op, &h, cols)?);
    let spec = packed_spec(&GLU_BOTH, activation, vec4(cols), words, in16(op, both, words)?);
    let groups = groups(n, vec4(cols));
    launch(both.device(), &spec, &[both.slice(), h.slice()], &params, groups, streaming(3 * n, 8.0))?;
    Ok(h)
}

/// [`glu_both`] of gate and up rounded to f16: h and those, both f16, of which another pass makes the same h.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if `cols` is not a multiple of 4.
pub fn glu_both_kept(activation: Activation, both: &Tensor, [h, kept]: [To<'_>; 2]) -> Result<(Tensor, Tensor)> {
    let op = "glu_both_kept";
    let (rows, cols) = sides(both, op)?;
    let h = h.overwritten(both.device(), op, &[rows, cols])?;
    let kept = kept.overwritten(both.device(), op, both.shape())?;
    distinct(op, &[both], &[&h, &kept])?;
    let n = h.len();
    let params = GluParams { n: n as u32, cols: cols as u32, ..Default::default() };
    if !(halves(op, &h, cols)? && halves(op, &kept, cols)?) {
        return Err(Error::shape(op, "the outputs are not f16"));
    }
    let spec = packed_spec(&GLU_BOTH_KEPT, activation, true, Words { half: true, pairs: false }, false);
    let bindings = [both.slice(), h.slice(), kept.slice()];
    launch(both.device(), &spec, &bindings, &params, groups(n, true), streaming(4 * n, 8.0))?;
    Ok((h, kept))
}

/// `[dgate | dup] [rows, 2·cols]` of dh `[rows, cols]` and the forward's operand, f16 if they are.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes do not fit together, or the operand alone is f16.
pub fn glu_both_backward(activation: Activation, dh: &Tensor, both: &Tensor, to: To<'_>) -> Result<Tensor> {
    let op = "glu_both_backward";
    let (rows, cols) = sides(both, op)?;
    dh.expect_shape(op, "dh", &[rows, cols])?;
    let dboth = to.overwritten(both.device(), op, both.shape())?;
    distinct(op, &[dh, both], &[&dboth])?;
    let n = dh.len();
    let params = GluParams { n: n as u32, cols: cols as u32, ..Default::default() };
    let words = words(both, vec4(cols), halves(op, &dboth, cols)?);
    let spec = packed_spec(&GLU_BOTH_BACKWARD, activation, vec4(cols), words, in16(op, both, words)?);
    let bindings = [dh.slice(), both.slice(), dboth.slice()];
    launch(both.device(), &spec, &bindings, &params, groups(n, vec4(cols)), streaming(5 * n, 8.0))?;
    Ok(dboth)
}

/// Whether gate and up are f16, which no kernel takes that writes f32.
fn in16(op: &'static str, both: &Tensor, words: Words) -> Result<bool> {
    match both.element() == Element::F16 {
        true if !words.half => Err(Error::shape(op, "gate and up are f16, the output is not")),
        in16 => Ok(in16),
    }
}

/// Rows, and half of the columns.
fn sides(both: &Tensor, op: &'static str) -> Result<(usize, usize)> {
    let (rows, cols) = both.dims2(op)?;
    if !cols.is_multiple_of(2) {
        return Err(Error::shape(op, format!("{:?} does not part in halves", both.shape())));
    }
    Ok((rows, cols / 2))
}

/// How this device reads and writes what `of` is one of.
fn words(of: &Tensor, vec: bool, half: bool) -> Words {
    Words::choose(&Target::of(of.device()), vec, half)
}

fn elementwise_spec(op: u32, vec: bool, words: Words) -> KernelSpec {
    let kernel = [&ADD, &ADD_INTO, &SCALE][op as usize];
    KernelSpec::new(kernel, [("OP", op), ("VEC", vec.into()), ("PAIRS", words.pairs.into())])
}

fn round_spec() -> KernelSpec {
    KernelSpec::new(&ROUND, [("OP", 3), ("VEC", 1), ("PAIRS", 0), ("OUT16", 1)])
}

/// Of gate and up apart.
fn glu_spec(kernel: &'static Kernel, activation: Activation, vec: bool, words: Words) -> KernelSpec {
    let backward = kernel.name == GLU_BACKWARD.name;
    let mut consts = vec![("ACT", activation as u32), ("BACKWARD", backward.into()), ("BOTH", 0)];
    consts.extend([("VEC", vec.into()), ("OUT16", words.half.into()), ("PAIRS", words.pairs.into())]);
    consts.extend([("IN16", 0), ("KEEP", 0)]);
    KernelSpec::new(kernel, consts)
}

/// Of gate and up side by side; `in16`: they are f16.
fn packed_spec(kernel: &'static Kernel, activation: Activation, vec: bool, words: Words, in16: bool) -> KernelSpec {
    let (backward, keep) = (kernel.name == GLU_BOTH_BACKWARD.name, kernel.name == GLU_BOTH_KEPT.name);
    let mut consts = vec![("ACT", activation as u32), ("BACKWARD", backward.into()), ("BOTH", 1)];
    consts.extend([("VEC", vec.into()), ("OUT16", words.half.into()), ("PAIRS", words.pairs.into())]);
    consts.extend([("IN16", in16.into()), ("KEEP", keep.into())]);
    KernelSpec::new(kernel, consts)
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let halves = Words { half: true, pairs: false };
    let mut all = vec![round_spec()];
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
        all.extend([&GLU_BOTH, &GLU_BOTH_BACKWARD].map(|kernel| packed_spec(kernel, activation, true, halves, true)));
        all.push(packed_spec(&GLU_BOTH_KEPT, activation, true, halves, false));
    }
    for (vec, pairs) in [(false, false), (true, false), (true, true)] {
        all.extend((0..3).map(|op| elementwise_spec(op, vec, Words { half: false, pairs })));
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            let ways = [Words { half: false, pairs }, halves].into_iter().filter(|w| !w.half || (vec && !pairs));
            for words in ways {
                all.extend([&GLU, &GLU_BACKWARD].map(|kernel| glu_spec(kernel, activation, vec, words)));
                let packed = [&GLU_BOTH, &GLU_BOTH_BACKWARD];
                all.extend(packed.map(|kernel| packed_spec(kernel, activation, vec, words, false)));
            }
        }
    }
    all
}
