//! Sums over whole tensors, in two steps of fixed order: `shaders/reduce_parts.wgsl`, `shaders/reduce_total.wgsl`.

use super::output::{distinct, streaming, vec4};
use super::parts::sum_parts;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Sums of shares of a tensor.
    REDUCE_PARTS, "reduce_parts", "reduce_parts.wgsl", ReducePartsParams, [read("x"), write("parts")]
);
kernel!(
    /// The sum of the parts.
    REDUCE_TOTAL, "reduce_total", "reduce_total.wgsl", ReduceTotalParams, [read("parts"), write("out")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ReducePartsParams {
    grid: Grid,
    n: u32,
    first: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ReduceTotalParams {
    grid: Grid,
    parts: u32,
    slot: u32,
    accumulate: u32,
}

/// Threads a workgroup.
const WORKGROUP: u32 = 256;
/// Elements that a workgroup adds before another one is worth it, and the most workgroups.
const SHARE: usize = 256 * 32;
const MOST: usize = 512;

fn parts_of(elements: usize) -> usize {
    elements.div_ceil(SHARE).min(MOST)
}

/// `out[slot] = Σ x`, or `+=` with `accumulate`.
///
/// # Errors
/// [`Error::Shape`] if `slot` lies outside of `out`, or `out` in x's buffer.
pub fn sum(x: &Tensor, out: &Tensor, slot: usize, accumulate: bool) -> Result<()> {
    if slot >= out.len() {
        return Err(Error::shape("sum", format!("slot {slot} of {:?}", out.shape())));
    }
    distinct("sum", &[x], &[out])?;
    let parts = parts_of(x.len());
    let scratch = Tensor::empty(x.device(), &[parts.max(1), 2], "scratch")?;
    add_parts(x, &scratch, 0, false)?;
    let params = ReduceTotalParams {
        parts: parts as u32,
        slot: slot as u32,
        accumulate: accumulate.into(),
        ..Default::default()
    };
    let bindings = [scratch.slice(), out.slice()];
    launch(out.device(), &total_spec(false), &bindings, &params, 1, streaming(2 * parts, 1.0))
}

/// The squared global norm of `tensors` into `out [2]`: `[Σ x², flag]`; the flag is 1 if an element or the sum is not
/// finite, else 0.
///
/// # Errors
/// [`Error::Shape`] if `out` is not `[2]` or shares a buffer with a tensor.
pub fn sum_of_squares(tensors: &[&Tensor], out: &Tensor) -> Result<()> {
    with_flag("sum_of_squares", tensors, out, true)
}

/// `[Σ x, flag]` into `out [2]`, for the flag: 1 if an element or the sum is not finite, else 0.
///
/// # Errors
/// As [`sum_of_squares`].
pub fn sum_and_flag(x: &Tensor, out: &Tensor) -> Result<()> {
    with_flag("sum_and_flag", &[x], out, false)
}

fn with_flag(op: &'static str, tensors: &[&Tensor], out: &Tensor, squares: bool) -> Result<()> {
    out.expect_shape(op, "out", &[2])?;
    distinct(op, tensors, &[out])?;
    let parts: usize = tensors.iter().map(|t| parts_of(t.len())).sum();
    let scratch = Tensor::empty(out.device(), &[parts.max(1), 2], "scratch")?;
    let mut first = 0;
    for t in tensors {
        add_parts(t, &scratch, first, squares)?;
        first += parts_of(t.len());
    }
    let params = ReduceTotalParams { parts: parts as u32, ..Default::default() };
    let bindings = [scratch.slice(), out.slice()];
    launch(out.device(), &total_spec(true), &bindings, &params, 1, streaming(2 * parts, 1.0))
}

/// `out [cols] += Σ rows of x [rows, cols]`, in order.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn sum_rows(x: &Tensor, out: &Tensor) -> Result<()> {
    let op = "sum_rows";
    let (rows, cols) = x.dims2(op)?;
    out.expect_shape(op, "out", &[cols])?;
    distinct(op, &[x], &[out])?;
    // a software renderer ends a thread's loops after 65,535 rounds
    const ROUNDS: usize = 1 << 15;
    for first in (0..rows).step_by(ROUNDS) {
        let count = ROUNDS.min(rows - first);
        sum_parts(&x.view(first * cols, &[count, cols])?, count, out, 1.0, true)?;
    }
    Ok(())
}

fn add_parts(x: &Tensor, parts: &Tensor, first: usize, squares: bool) -> Result<()> {
    let params = ReducePartsParams { n: x.len() as u32, first: first as u32, ..Default::default() };
    let spec = parts_spec(squares, vec4(x.len()));
    let groups = parts_of(x.len()) as u64;
    launch(x.device(), &spec, &[x.slice(), parts.slice()], &params, groups, streaming(x.len(), 2.0))
}

fn parts_spec(squares: bool, vec: bool) -> KernelSpec {
    KernelSpec::new(&REDUCE_PARTS, [("SQUARES", squares.into()), ("VEC", vec.into()), ("WG", WORKGROUP)])
}

fn total_spec(norm: bool) -> KernelSpec {
    KernelSpec::new(&REDUCE_TOTAL, [("NORM", norm.into()), ("WG", WORKGROUP)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all: Vec<_> = flags.map(total_spec).into();
    all.extend(flags.iter().flat_map(|&squares| flags.map(|vec| parts_spec(squares, vec))));
    all
}
