//! A weight with its sparse adapter in a plain format, for one product: `shaders/decode.wgsl`.
//!
//! A tile of a product decodes its part of W and adds the entries of S that fall into it, and so does each of the tiles that
//! make other tokens' outputs: with 2,048 tokens sixteen times over, for a sixth of the time of the product and more. For many
//! tokens W + S is decoded once instead, to scratch memory of one matrix, which the next product takes over: to f16 for matrix
//! units, else to f32.

use super::merged;
use super::plan::{Execution, ProductPlan};
use super::sparse_index::SparseIndex;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, Kernel, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// W + S as f16.
    DECODE, "decode", "decode.wgsl", DecodeParams, [read("w"), read("s_index"), read("s_values"), write("out")], needs F16
);
kernel!(
    /// W + S as f32.
    DECODE_F32, "decode_f32", "decode.wgsl", DecodeParams, [read("w"), read("s_index"), read("s_values"), write("out")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DecodeParams {
    grid: Grid,
    rows: u32,
    cols: u32,
    w_scales: u32,
    bucket_cols: u32,
    s_positions: u32,
}

/// Threads of a workgroup.
const WG: u32 = 256;

/// S, and its values in the order of buckets.
type Sparse<'a> = (&'a SparseIndex, &'a Tensor);

/// W as `plan` wants it in scratch memory: in the format `to`, with S added where S belongs there.
pub(super) fn scratch(plan: &ProductPlan, w: &Weight, sparse: Option<Sparse<'_>>, to: WeightFormat) -> Result<Weight> {
    if let (Execution::Registers { .. }, Some((index, values))) = (plan.execution, sparse) {
        return merged::merged(w, index, values);
    }
    let out = Weight::empty(w.device(), to, w.rows(), w.cols(), "scratch")?;
    decode(w, sparse, &out)?;
    Ok(out)
}

fn kernel_to(out: WeightFormat) -> Option<&'static Kernel> {
    match out {
        WeightFormat::F16 => Some(&DECODE),
        WeightFormat::F32 => Some(&DECODE_F32),
        _ => None,
    }
}

/// W, with S added if there is one, to `out`, a weight of the same shape: one of f32 to any other format, one of f16 to a
/// quantised format. Rows are of a multiple of 8 elements.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together; those of a launch.
pub fn decode(w: &Weight, sparse: Option<Sparse<'_>>, out: &Weight) -> Result<()> {
    let own = (w.rows(), w.cols());
    let of_s = sparse.map_or(own, |(index, _)| (index.rows(), index.cols()));
    let shapes = [of_s, (out.rows(), out.cols())];
    let all = sparse.is_none_or(|(index, values)| values.len() == index.nnz());
    let formats = formats().any(|f| f == (w.format(), out.format()));
    let kernel = kernel_to(out.format()).filter(|_| formats && all && shapes == [own; 2] && own.1.is_multiple_of(8));
    let Some(kernel) = kernel else {
        let what = format!(
            "{:?} W [{}, {}] and S {:?} to {:?} {:?}",
            w.format(),
            w.rows(),
            w.cols(),
            shapes[0],
            out.format(),
            shapes[1]
        );
        return Err(Error::shape("decode", what));
    };
    let params = DecodeParams {
        rows: w.rows() as u32,
        cols: w.cols() as u32,
        w_scales: w.scales_at(),
        bucket_cols: sparse.map_or(0, |(index, _)| index.bucket_cols() as u32),
        s_positions: sparse.map_or(0, |(index, _)| index.positions_at() as u32),
        ..Default::default()
    };
    let groups = w.rows().div_ceil(32) * w.cols().div_ceil(128);
    let dummy = w.device().dummy()?;
    let s = sparse.map_or([dummy.clone(), dummy], |(index, values)| [index.tensor().slice(), values.slice()]);
    let [s_index, s_values] = s;
    let bindings = [w.slice(), s_index, s_values, out.slice()];
    let bytes = bindings.iter().map(|b| b.len as f64).sum();
    let cost = Cost { flops: (w.rows() * w.cols()) as f64, bytes };
    launch(w.device(), &spec(kernel, w.format(), sparse.is_some()), &bindings, &params, groups as u64, cost)
}

fn spec(kernel: &'static Kernel, format: WeightFormat, sparse: bool) -> KernelSpec {
    let out16 = std::ptr::eq(kernel, &DECODE);
    KernelSpec::new(kernel, [("WFMT", format as u32), ("WG", WG), ("SPARSE", sparse.into()), ("OUT16", out16.into())])
}

/// The pairs of formats (of W, of the copy) that there is a kernel for.
fn formats() -> impl Iterator<Item = (WeightFormat, WeightFormat)> {
    let ways = |to: WeightFormat| WeightFormat::ALL.into_iter().map(move |from| (from, to));
    let to_half = ways(WeightFormat::F16).filter(|(from, _)| from.is_quantised());
    to_half.chain(ways(WeightFormat::F32).filter(|(from, _)| *from != WeightFormat::F32))
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let kernels = formats().filter_map(|(from, to)| Some((from, kernel_to(to)?)));
    kernels.flat_map(|(from, kernel)| [false, true].map(|sparse| spec(kernel, from, sparse))).collect()
}
