//! W + S as f32 on software renderers: `shaders/densify.wgsl`, `shaders/sparse_add.wgsl`. S cannot be added to a tile that is only in
//! registers, so a weight that has one beside it ([`super::in_weight`] has those that are in it) is written out first: one pass over
//! W, some 5 % of a product with 256 tokens, in scratch memory of one weight.

use super::sparse_index::SparseIndex;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec};
use crate::error::Result;
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// A weight as f32.
    DENSIFY, "densify", "densify.wgsl", DensifyParams, [read("w"), write("out")], needs Int64
);
kernel!(
    /// Adds the entries of S to a dense matrix.
    SPARSE_ADD, "sparse_add", "sparse_add.wgsl", SparseAddParams, [read("coords"), read("s_values"), write("out")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DensifyParams {
    grid: Grid,
    elements: u32,
    w_scales: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SparseAddParams {
    grid: Grid,
    nnz: u32,
    cols: u32,
}

/// W + S as an f32 weight in scratch memory; the length of a row is a multiple of 4.
pub(super) fn merged(w: &Weight, index: &SparseIndex, values: &Tensor) -> Result<Weight> {
    let device = w.device();
    let dense = Weight::empty(device, WeightFormat::F32, w.rows(), w.cols(), "scratch")?;
    let elements = w.rows() * w.cols();
    if w.format() == WeightFormat::F32 {
        device.copy(&w.slice(), &dense.slice())?;
    } else {
        let params = DensifyParams { elements: elements as u32, w_scales: w.scales_at(), ..Default::default() };
        let cost = Cost { flops: 2.0 * elements as f64, bytes: (w.slice().len + dense.slice().len) as f64 };
        let groups = elements.div_ceil(4 * 64) as u64;
        launch(device, &densify_spec(w.format()), &[w.slice(), dense.slice()], &params, groups, cost)?;
    }
    if index.nnz() > 0 {
        let params = SparseAddParams { nnz: index.nnz() as u32, cols: w.cols() as u32, ..Default::default() };
        let cost = Cost { flops: index.nnz() as f64, bytes: 20.0 * index.nnz() as f64 };
        let bindings = [index.coords()?.slice(), values.slice(), dense.slice()];
        launch(device, &sparse_add_spec(), &bindings, &params, index.nnz().div_ceil(64) as u64, cost)?;
    }
    Ok(dense)
}

fn densify_spec(format: WeightFormat) -> KernelSpec {
    KernelSpec::new(&DENSIFY, [("WFMT", format as u32), ("VEC", 1)])
}

fn sparse_add_spec() -> KernelSpec {
    KernelSpec::new(&SPARSE_ADD, [])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let packed = WeightFormat::ALL.into_iter().filter(|f| *f != WeightFormat::F32);
    packed.map(densify_spec).chain([sparse_add_spec()]).collect()
}
