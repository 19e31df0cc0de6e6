//! The sparse gradient on GPUs where masks are thin: one dot product an entry, from copies of dY and X whose tokens lie
//! side by side. `shaders/transpose.wgsl`, `shaders/sddmm_rows.wgsl`.
//!
//! An entry reads a row of each copy, nnz · tokens · 2 bytes for f16, where the masked product computes all
//! rows · cols · tokens; entries of a row are taken in fours, which share what they read of dY.

pub use super::sddmm_plan::Sampling;
use super::sddmm_plan::{LANES, THREADS, TOKENS, UNROLLS, element};
use super::sparse_index::SparseIndex;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `turned[col, t] = x[t, col]` of dY and of X, as f16 or f32; both come as either.
    TRANSPOSE, "transpose", "transpose.wgsl", TransposeParams,
    [read("dy").half_if("DY16"), read("x").half_if("X16"), write("dy_turned"), write("x_turned")]
);
kernel!(
    /// `dS[e] += Σ_t dYᵀ[row(e), t] · Xᵀ[col(e), t]`.
    SDDMM_ROWS, "sddmm_rows", "sddmm_rows.wgsl", RowsParams,
    [read("dyt"), read("xt"), read("rows"), read("entries"), read("s_index"), write("ds")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct TransposeParams {
    grid: Grid,
    first: u32,
    end: u32,
    words: u32,
    dy_groups: u32,
    dy_cols: u32,
    x_cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RowsParams {
    grid: Grid,
    fours: u32,
    steps: u32,
    bucket_cols: u32,
}

/// Copies and samples slice by slice. Shapes are the caller's to check; there are entries, and tokens.
pub(super) fn run(sampling: Sampling, dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    sampling.check()?;
    let device = ds.device();
    let (tokens, _) = dy.dims2("sddmm")?;
    let fours = index.fours()?;
    let spec = spec(&sampling);
    let mut first = 0;
    while first < tokens {
        let end = (first + sampling.slice).min(tokens);
        let bytes = (end - first).next_multiple_of(TOKENS) * element(sampling.half);
        let [dyt, xt] = turned([dy, x], first..end, sampling.half, bytes / 4)?;
        let params = RowsParams {
            fours: fours.count as u32,
            steps: (bytes / 16) as u32,
            bucket_cols: index.bucket_cols() as u32,
            ..Default::default()
        };
        let bindings =
            [dyt.slice(), xt.slice(), fours.rows.slice(), fours.entries.slice(), index.tensor().slice(), ds.slice()];
        let cost = Cost {
            flops: 2.0 * (index.nnz() * (end - first)) as f64,
            bytes: (index.nnz() + fours.count) as f64 * bytes as f64,
        };
        let groups = fours.count.div_ceil((THREADS / sampling.lanes) as usize) as u64;
        launch(device, &spec, &bindings, &params, groups, cost)?;
        first = end;
    }
    Ok(())
}

/// Some tokens of dY and X `[tokens, cols]` as `[cols, words]`, a row's words filled up with zeros.
fn turned(operands: [&Tensor; 2], tokens: std::ops::Range<usize>, half: bool, words: usize) -> Result<[Tensor; 2]> {
    let [dy, x] = operands;
    if let Some(x) = operands.into_iter().find(|x| x.element() == Element::F16 && !half) {
        return Err(Error::shape("transpose", format!("{x:?} is not turned into f32")));
    }
    let cols = |x: &Tensor| x.dims2("transpose").map(|(_, cols)| cols);
    let (dy_cols, x_cols) = (cols(dy)?, cols(x)?);
    let out = |cols: usize| Tensor::empty(x.device(), &[cols, words], "scratch");
    let (dyt, xt) = (out(dy_cols)?, out(x_cols)?);
    let groups = |cols: usize| cols.div_ceil(64) * (words / 32);
    let params = TransposeParams {
        first: tokens.start as u32,
        end: tokens.end as u32,
        words: words as u32,
        dy_groups: groups(dy_cols) as u32,
        dy_cols: dy_cols as u32,
        x_cols: x_cols as u32,
        ..Default::default()
    };
    let read = (dy.element().bytes() * dy_cols + x.element().bytes() * x_cols) * tokens.len();
    let cost = Cost { flops: 0.0, bytes: (read + 4 * (dyt.len() + xt.len())) as f64 };
    let spec = transpose_spec(half, operands.map(|x| x.element() == Element::F16));
    let bindings = [dy.slice(), x.slice(), dyt.slice(), xt.slice()];
    launch(x.device(), &spec, &bindings, &params, (groups(dy_cols) + groups(x_cols)) as u64, cost)?;
    Ok([dyt, xt])
}

fn spec(s: &Sampling) -> KernelSpec {
    KernelSpec::new(&SDDMM_ROWS, [("HALF", s.half.into()), ("LANES", s.lanes), ("UNROLL", s.unroll)])
}

fn transpose_spec(half: bool, [dy16, x16]: [bool; 2]) -> KernelSpec {
    KernelSpec::new(&TRANSPOSE, [("HALF", half.into()), ("DY16", dy16.into()), ("X16", x16.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = Vec::new();
    for half in flags {
        let given = flags.into_iter().flat_map(|dy| flags.map(|x| [dy, x]));
        all.extend(given.filter(|any| half || *any == [false; 2]).map(|given| transpose_spec(half, given)));
        for (lanes, unroll) in LANES.iter().flat_map(|&l| UNROLLS.map(|u| (l, u))) {
            all.push(spec(&Sampling { half, lanes, unroll, slice: TOKENS }));
        }
    }
    all
}
