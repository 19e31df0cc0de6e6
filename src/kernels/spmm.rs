//! Products with a sparse matrix alone (SpMM): `shaders/spmm.wgsl`. Where few rows are multiplied by a weight with a sparse adapter, this
//! adds the adapter's part to what the weight's product left, for less than a merged copy of both costs.

use super::sparse_index::SparseIndex;
use super::tile::Layout;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `Y += scale · X·Sᵀ` or `dX += scale · dY·S`.
    SPMM, "spmm", "spmm.wgsl", SpmmParams,
    [read("x"), read("offsets"), read("entries"), read("s_values"), write("y")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SpmmParams {
    grid: Grid,
    tokens: u32,
    lines: u32,
    x_cols: u32,
    y_stride: u32,
    y_column: u32,
    scale: f32,
}

/// Tokens a thread: those of a longer batch share what is loaded of an entry.
const TOKENS: [u32; 2] = [1, 4];
/// Threads of a workgroup.
const THREADS: usize = 64;

/// Adds `scale · X·Sᵀ` (`Nt`: X `[tokens, cols]`) or `scale · dY·S` (`Nn`: dY `[tokens, rows]`) to columns of `y`, from the given
/// one on; the other number is the elements between its rows. Shapes are the caller's to check.
pub(super) fn add_sparse_product(
    layout: Layout,
    x: &Tensor,
    (index, values): (&SparseIndex, &Tensor),
    scale: f32,
    (y, (stride, column)): (&Tensor, (usize, usize)),
) -> Result<()> {
    let (tokens, x_cols) = x.dims2("spmm")?;
    let lines = match layout {
        Layout::Nt => index.rows(),
        Layout::Nn => index.cols(),
        Layout::Tn => return Err(Error::shape("spmm", "there is no product of Sᵀ with a transposed matrix")),
    };
    if index.nnz() == 0 || tokens == 0 {
        return Ok(());
    }
    let by_line = index.by_line(layout == Layout::Nn)?;
    let params = SpmmParams {
        tokens: tokens as u32,
        lines: lines as u32,
        x_cols: x_cols as u32,
        y_stride: stride as u32,
        y_column: column as u32,
        scale,
        ..Default::default()
    };
    let work = (index.nnz() * tokens) as f64;
    let cost =
        Cost { flops: 2.0 * work, bytes: 12.0 * index.nnz() as f64 + 4.0 * work + 8.0 * (lines * tokens) as f64 };
    let at_a_time = if tokens < TOKENS[1] as usize { TOKENS[0] } else { TOKENS[1] };
    let groups = lines.div_ceil(THREADS) * tokens.div_ceil(at_a_time as usize);
    let bindings = [x.slice(), by_line.offsets.slice(), by_line.entries.slice(), values.slice(), y.slice()];
    launch(x.device(), &spec(at_a_time), &bindings, &params, groups as u64, cost)
}

fn spec(tokens: u32) -> KernelSpec {
    KernelSpec::new(&SPMM, [("TOK", tokens)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    TOKENS.map(spec).to_vec()
}
