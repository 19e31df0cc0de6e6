//! RMSNorm over rows: `shaders/rmsnorm.wgsl`, on software renderers `shaders/rmsnorm_simd.wgsl`, and
//! `shaders/rmsnorm_weight.wgsl`. A norm per head is the same on a view of
//! `[tokens · heads, head_dim]`.

use super::output::{To, distinct, halves, streaming, vec4};
use super::parts::sum_parts;
use super::streaming_plan::{RowLanes, Rows, SUBGROUP_ROWS};
use super::target::{self, Target};
use super::{kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Device, Grid, Kernel, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `y = x·rstd·g`.
    RMSNORM, "rmsnorm", "rmsnorm.wgsl", RmsNormParams,
    [read("x"), read("w"), write("y").half_if("OUT16"), write("rstd")]
);
kernel!(
    /// The gradient of x.
    RMSNORM_BACKWARD, "rmsnorm_backward", "rmsnorm.wgsl", RmsNormParams,
    [read("dy"), read("x"), read("w"), read("rstd"), write("dx")]
);
kernel!(
    /// `x = a + b`, and [`RMSNORM`] of it.
    ADD_RMSNORM, "add_rmsnorm", "rmsnorm.wgsl", RmsNormParams,
    [read("a"), read("b"), read("w"), write("x"), write("y").half_if("OUT16"), write("rstd")]
);
kernel!(
    /// [`RMSNORM_BACKWARD`], with a copy of dx in f16.
    RMSNORM_BACKWARD_ROUND, "rmsnorm_backward_round", "rmsnorm.wgsl", RmsNormParams,
    [read("dy"), read("x"), read("w"), read("rstd"), write("dx"), write("rounded").half_if("ROUND")]
);
kernel!(
    /// [`RMSNORM`] by subgroups.
    RMSNORM_SIMD, "rmsnorm_simd", "rmsnorm_simd.wgsl", RmsNormParams,
    [read("x"), read("w"), write("y"), write("rstd")], needs Subgroup Int64
);
kernel!(
    /// [`ADD_RMSNORM`] by subgroups.
    ADD_RMSNORM_SIMD, "add_rmsnorm_simd", "rmsnorm_simd.wgsl", RmsNormParams,
    [read("a"), read("b"), read("w"), write("x"), write("y"), write("rstd")], needs Subgroup Int64
);
kernel!(
    /// [`RMSNORM_BACKWARD`] by subgroups.
    RMSNORM_BACKWARD_SIMD, "rmsnorm_backward_simd", "rmsnorm_simd.wgsl", RmsNormParams,
    [read("dy"), read("x"), read("w"), read("rstd"), write("dx")], needs Subgroup Int64
);
kernel!(
    /// The gradient of w over parts of the rows.
    RMSNORM_WEIGHT, "rmsnorm_weight", "rmsnorm_weight.wgsl", RmsNormWeightParams,
    [read("dy"), read("x"), read("rstd"), write("parts")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RmsNormParams {
    grid: Grid,
    rows: u32,
    cols: u32,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RmsNormWeightParams {
    grid: Grid,
    rows: u32,
    cols: u32,
    rows_per_part: u32,
}

/// The norm's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// The gain is `1 + w` instead of `w` (Gemma).
    pub unit_offset: bool,
}

/// How this device deals out the rows of `op`.
fn lanes(device: &Device, op: &'static str, (rows, cols): (usize, usize), half: bool) -> RowLanes {
    let lanes = RowLanes::choose(&Target::of(device), cols, half);
    plan_log::tell(&Rows(op, rows, cols), &lanes);
    lanes
}

/// `y = x·rstd·g` of x `[rows, cols]` and w `[cols]`; returns y `[rows, cols]`, f16 if it is asked for and cols is a multiple
/// of 4, and `rstd [rows]`, which the backward wants.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rmsnorm_forward(x: &Tensor, w: &Tensor, norm: RmsNorm, y: To<'_>, rstd: To<'_>) -> Result<(Tensor, Tensor)> {
    forward([x], w, norm, None, y, rstd).map(|[_, y, rstd]| (y, rstd))
}

/// [`rmsnorm_forward`] of `x = a + b`, of `[rows, cols]` each; returns x too: `[x, y, rstd]`.
///
/// # Errors
/// As [`rmsnorm_forward`].
pub fn add_rmsnorm_forward(
    [a, b]: [&Tensor; 2],
    w: &Tensor,
    norm: RmsNorm,
    [x, y, rstd]: [To<'_>; 3],
) -> Result<[Tensor; 3]> {
    forward([a, b], w, norm, Some(x), y, rstd)
}

/// `sum`: where a sum of two goes.
fn forward<const N: usize>(
    parts: [&Tensor; N],
    w: &Tensor,
    norm: RmsNorm,
    sum: Option<To<'_>>,
    y: To<'_>,
    rstd: To<'_>,
) -> Result<[Tensor; 3]> {
    let op = "rmsnorm";
    let first = parts[0];
    let (rows, cols) = first.dims2(op)?;
    parts.iter().try_for_each(|t| t.expect_shape(op, "b", first.shape()).map(drop))?;
    w.expect_shape(op, "w", &[cols])?;
    let device = first.device();
    let x = sum.map(|x| x.overwritten(device, op, first.shape())).transpose()?;
    let y = y.overwritten(device, op, first.shape())?;
    let rstd = rstd.overwritten(device, op, &[rows])?;
    let inputs = || parts.iter().copied().chain([w]);
    let outputs = || x.iter().chain([&y, &rstd]);
    distinct(op, &inputs().collect::<Vec<_>>(), &outputs().collect::<Vec<_>>())?;
    let params = RmsNormParams { rows: rows as u32, cols: cols as u32, eps: norm.eps, ..Default::default() };
    let half = halves(op, &y, cols)?;
    let lanes = lanes(device, op, (rows, cols), half);
    let spec = forward_spec(norm.unit_offset, lanes.vec(cols), half, x.is_some(), lanes);
    let bindings: Vec<_> = inputs().chain(outputs()).map(Tensor::slice).collect();
    let cost = streaming((2 * N + 1) * first.len(), 2.0);
    launch(device, &spec, &bindings, &params, lanes.groups(rows), cost)?;
    Ok([x.unwrap_or_else(|| first.clone()), y, rstd])
}

/// `dx` of `[dy, x, w, rstd]`: dy and x `[rows, cols]`, w `[cols]` and the forward's rstd `[rows]`. Adds the gradient of w to
/// `dw [cols]` if there is one.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rmsnorm_backward(operands: [&Tensor; 4], norm: RmsNorm, dx: To<'_>, dw: Option<&Tensor>) -> Result<Tensor> {
    backward(operands, norm, dx, None, dw).map(|(dx, _)| dx)
}

/// [`rmsnorm_backward`] that leaves what dx is then in f16 as well, where cols is a multiple of 4: both.
///
/// # Errors
/// As [`rmsnorm_backward`].
pub fn rmsnorm_backward_round(
    operands: [&Tensor; 4],
    norm: RmsNorm,
    dx: To<'_>,
    rounded: To<'_>,
    dw: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (dx, rounded) = backward(operands, norm, dx, Some(rounded), dw)?;
    rounded.map(|rounded| (dx, rounded)).ok_or_else(|| Error::shape("rmsnorm_backward", "nothing was rounded"))
}

fn backward(
    operands: [&Tensor; 4],
    norm: RmsNorm,
    dx: To<'_>,
    rounded: Option<To<'_>>,
    dw: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let op = "rmsnorm_backward";
    let [dy, x, w, rstd] = operands;
    let (rows, cols) = x.dims2(op)?;
    dy.expect_shape(op, "dy", x.shape())?;
    w.expect_shape(op, "w", &[cols])?;
    rstd.expect_shape(op, "rstd", &[rows])?;
    let device = x.device();
    let accumulate = dx.accumulates();
    let dx = dx.tensor(device, op, x.shape())?;
    let rounded = rounded.map(|to| to.overwritten(device, op, x.shape())).transpose()?;
    let outputs = || [&dx].into_iter().chain(&rounded);
    distinct(op, &operands, &outputs().collect::<Vec<_>>())?;
    if let Some(rounded) = &rounded {
        halves(op, rounded, cols)?;
    }
    let params = RmsNormParams { rows: rows as u32, cols: cols as u32, eps: norm.eps, ..Default::default() };
    let lanes = lanes(device, op, (rows, cols), rounded.is_some());
    let spec = backward_spec(norm.unit_offset, lanes.vec(cols), accumulate, rounded.is_some(), lanes);
    let bindings: Vec<_> = operands.into_iter().chain(outputs()).map(Tensor::slice).collect();
    launch(device, &spec, &bindings, &params, lanes.groups(rows), streaming(5 * x.len(), 2.0))?;
    if let Some(dw) = dw {
        weight_gradient(dy, x, rstd, dw)?;
    }
    Ok((dx, rounded))
}

/// `dw [cols] += Σ_row dy·x·rstd`, in two steps of fixed order.
fn weight_gradient(dy: &Tensor, x: &Tensor, rstd: &Tensor, dw: &Tensor) -> Result<()> {
    let op = "rmsnorm_backward";
    let (rows, cols) = x.dims2(op)?;
    dw.expect_shape(op, "dw", &[cols])?;
    distinct(op, &[dy, x, rstd], &[dw])?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let rows_per_part = rows.div_ceil(256).max(32);
    let parts = rows.div_ceil(rows_per_part);
    let sums = Tensor::empty(x.device(), &[parts, cols], "scratch")?;
    let params = RmsNormWeightParams {
        rows: rows as u32,
        cols: cols as u32,
        rows_per_part: rows_per_part as u32,
        ..Default::default()
    };
    let vec = vec4(cols);
    let across = (if vec { cols / 4 } else { cols }).div_ceil(64);
    let bindings = [dy.slice(), x.slice(), rstd.slice(), sums.slice()];
    let cost = streaming(2 * x.len(), 1.5);
    launch(x.device(), &weight_spec(vec), &bindings, &params, (parts * across) as u64, cost)?;
    sum_parts(&sums, parts, dw, 1.0, true)
}

impl RowLanes {
    fn groups(self, rows: usize) -> u64 {
        let each = match self {
            RowLanes::Threads { row, workgroup } => workgroup / row,
            RowLanes::Subgroup(_) => SUBGROUP_ROWS,
        };
        rows.div_ceil(each as usize) as u64
    }

    fn consts(self) -> [(&'static str, u32); 2] {
        match self {
            RowLanes::Threads { row, workgroup } => [("LANES", row), ("WG", workgroup)],
            RowLanes::Subgroup(lanes) => [("SG", lanes), ("ROWS", SUBGROUP_ROWS)],
        }
    }

    /// Whether rows of `cols` elements are read in vectors: subgroups always do.
    fn vec(self, cols: usize) -> bool {
        matches!(self, RowLanes::Subgroup(_)) || vec4(cols)
    }

    /// The kernel of threads, or that of subgroups.
    fn kernel(self, threads: &'static Kernel, subgroup: &'static Kernel) -> &'static Kernel {
        match self {
            RowLanes::Threads { .. } => threads,
            RowLanes::Subgroup(_) => subgroup,
        }
    }
}

fn forward_spec(unit: bool, vec: bool, half: bool, add: bool, lanes: RowLanes) -> KernelSpec {
    let mut consts = vec![("BACKWARD", 0), ("UNIT", unit.into()), ("VEC", vec.into()), ("OUT16", half.into())];
    consts.extend([("ADD", add.into()), ("ROUND", 0)]);
    consts.extend(lanes.consts());
    let kernel = match add {
        false => lanes.kernel(&RMSNORM, &RMSNORM_SIMD),
        true => lanes.kernel(&ADD_RMSNORM, &ADD_RMSNORM_SIMD),
    };
    KernelSpec::new(kernel, consts)
}

fn backward_spec(unit: bool, vec: bool, accumulate: bool, round: bool, lanes: RowLanes) -> KernelSpec {
    let mut consts = vec![("BACKWARD", 1), ("UNIT", unit.into()), ("VEC", vec.into()), ("OUT16", 0), ("ADD", 0)];
    consts.extend([("ACCUMULATE", accumulate.into()), ("ROUND", round.into())]);
    consts.extend(lanes.consts());
    let kernel = match round {
        false => lanes.kernel(&RMSNORM_BACKWARD, &RMSNORM_BACKWARD_SIMD),
        true => &RMSNORM_BACKWARD_ROUND,
    };
    KernelSpec::new(kernel, consts)
}

fn weight_spec(vec: bool) -> KernelSpec {
    KernelSpec::new(&RMSNORM_WEIGHT, [("VEC", vec.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = Vec::new();
    for vec in flags {
        all.push(weight_spec(vec));
        let subgroups = target::LANES.map(RowLanes::Subgroup).into_iter().filter(|_| vec);
        for (lanes, unit) in RowLanes::THREADS.into_iter().chain(subgroups).flat_map(|l| flags.map(|u| (l, u))) {
            // f16 comes four at a time, from threads
            let halves = || flags.into_iter().filter(|half| !half || (vec && !matches!(lanes, RowLanes::Subgroup(_))));
            for other in flags {
                all.extend(halves().map(|half| forward_spec(unit, vec, half, other, lanes)));
                all.extend(halves().map(|round| backward_spec(unit, vec, other, round, lanes)));
            }
        }
    }
    all
}
