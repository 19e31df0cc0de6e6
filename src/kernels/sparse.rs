//! The gradient of a sparse adapter at its mask (SDDMM): `shaders/sddmm_sampled.wgsl`, and what other files have for it.

use super::product::{masked_product, stored};
use super::sampled::{self, Sampling};
use super::sddmm_plan::{SddmmPlan, SddmmProblem};
pub use super::sparse_index::SparseIndex;
use super::target::Target;
use super::tuned::Measured;
use super::{kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `dS[e] = Σ_t dY[t, row(e)] · X[t, col(e)]`.
    SAMPLED, "sddmm_sampled", "sddmm_sampled.wgsl", SampledParams,
    [read("dy").image_if("DY_IMAGE"), read("x").image_if("X_IMAGE"), read("coords"), write("ds")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SampledParams {
    grid: Grid,
    tokens: u32,
    rows: u32,
    cols: u32,
    nnz: u32,
}

/// How [`sddmm`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SddmmAlgorithm {
    /// One dot product an entry.
    Sampled,
    /// Whole tiles of the product, of which the entries are kept.
    Tile,
}

/// `ds [nnz] += Σ_t dY[t, row] · X[t, col]` at the mask: dY `[tokens, rows]`, X `[tokens, cols]`, by the plan that should
/// take less time. Software renderers always make the entries: arithmetic is what costs there.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn sddmm(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let problem = fitting(dy, x, index, ds)?;
    if problem.is_empty() {
        return Ok(());
    }
    let plan = SddmmPlan::choose(&Target::of(ds.device()), &problem, Measured::on(ds.device()));
    plan_log::tell(&problem, &plan);
    run(plan, &problem, [dy, x], index, ds)
}

/// [`sddmm`] by the algorithm of the caller's choice.
///
/// # Errors
/// As [`sddmm`].
pub fn sddmm_by(way: SddmmAlgorithm, dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let problem = fitting(dy, x, index, ds)?;
    let plan = match way {
        SddmmAlgorithm::Tile => SddmmPlan::Tiles,
        SddmmAlgorithm::Sampled => SddmmPlan::sampled(&Target::of(ds.device()), &problem),
    };
    run(plan, &problem, [dy, x], index, ds)
}

fn run(plan: SddmmPlan, problem: &SddmmProblem, [dy, x]: [&Tensor; 2], index: &SparseIndex, ds: &Tensor) -> Result<()> {
    match plan {
        _ if problem.is_empty() => Ok(()),
        SddmmPlan::Entries => sampled(dy, x, index, ds),
        SddmmPlan::Rows(sampling) => sampled::run(sampling, dy, x, index, ds),
        SddmmPlan::Tiles => masked_product(dy, x, index, ds),
    }
}

/// [`sddmm`] by the sampled kernel of GPUs, on any device.
///
/// # Errors
/// As [`sddmm`]; [`Error::Shape`] too where the mask is wider than this kernel's entries can say.
pub fn sddmm_sampled(sampling: Sampling, dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let problem = fitting(dy, x, index, ds)?;
    run(SddmmPlan::Rows(sampling), &problem, [dy, x], index, ds)
}

/// The problem of operands that fit together.
fn fitting(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<SddmmProblem> {
    let (tokens, rows) = dy.dims2("sddmm")?;
    let (tokens_x, cols) = x.dims2("sddmm")?;
    if tokens == tokens_x && (rows, cols) == (index.rows(), index.cols()) && ds.len() == index.nnz() {
        let (formats, bytes) = ([stored(dy), stored(x)], dy.slice().len + x.slice().len);
        return Ok(SddmmProblem { formats, bytes, ..SddmmProblem::of(index, tokens) });
    }
    let (rows, cols) = (index.rows(), index.cols());
    Err(Error::shape(
        "sddmm",
        format!("dY {:?}, X {:?}, mask [{rows}, {cols}], dS {:?}", dy.shape(), x.shape(), ds.shape()),
    ))
}

/// One dot product an entry. Shapes are the caller's to check.
fn sampled(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let ((tokens, rows), (_, cols)) = (dy.dims2("sddmm")?, x.dims2("sddmm")?);
    let params = SampledParams {
        tokens: tokens as u32,
        rows: rows as u32,
        cols: cols as u32,
        nnz: index.nnz() as u32,
        ..Default::default()
    };
    let work = index.nnz() as f64 * tokens as f64;
    let cost = Cost { flops: 2.0 * work, bytes: 8.0 * work };
    let bindings = [dy.slice(), x.slice(), index.coords()?.slice(), ds.slice()];
    let spec = sampled_spec([&bindings[0], &bindings[1]].map(|operand| ds.device().loads_image(operand)));
    launch(ds.device(), &spec, &bindings, &params, index.nnz().div_ceil(SAMPLED_ENTRIES) as u64, cost)
}

/// Entries a workgroup.
const SAMPLED_ENTRIES: usize = 64;

/// `images`: dY and X.
fn sampled_spec(images: [bool; 2]) -> KernelSpec {
    let [dy, x] = images.map(u32::from);
    KernelSpec::new(&SAMPLED, [("ENTRIES", SAMPLED_ENTRIES as u32), ("DY_IMAGE", dy), ("X_IMAGE", x)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    flags.iter().flat_map(|&dy| flags.map(|x| sampled_spec([dy, x]))).collect()
}
