//! Rows by index: embeddings, and the rows of hidden states whose tokens are supervised: `shaders/gather.wgsl`,
//! `shaders/scatter_add.wgsl`.

use super::output::{To, distinct, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Device, Grid, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `y[i] = scale·W[rows[i]]`.
    GATHER, "gather", "gather.wgsl", GatherParams, [read("w"), read("rows"), write("y")]
);
kernel!(
    /// `x[rows[i]] += dy[i]`.
    SCATTER_ADD, "scatter_add", "scatter_add.wgsl", ScatterAddParams, [read("dy"), read("index"), write("x")]
);

kernel!(
    /// `y = x[:, first..first + cols]`.
    COLUMNS, "columns", "columns.wgsl", ColumnsParams, [read("x"), write("y")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ColumnsParams {
    grid: Grid,
    n: u32,
    x_cols: u32,
    first: u32,
    cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct GatherParams {
    grid: Grid,
    n: u32,
    cols: u32,
    w_rows: u32,
    w_scales: u32,
    first: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ScatterAddParams {
    grid: Grid,
    n: u32,
    cols: u32,
    x_rows: u32,
    dy_rows: u32,
    scale: f32,
}

/// A matrix to take rows of.
struct Source {
    slice: Slice,
    format: WeightFormat,
    rows: usize,
    cols: usize,
    scales_at: u32,
    /// The first row, where this is a shard of a larger matrix.
    shard: Option<usize>,
}

/// `y [n, cols] = scale · table[ids]`: ids u32 `[n]`, the table in any storage format. The caller has checked the ids;
/// one outside of the table gives zeros. With `shard` the table is the rows from that one on of a larger table, and
/// only the rows of y whose ids fall into it are written.
///
/// # Errors
/// [`Error::Shape`] if ids are no vector or the output does not fit.
pub fn embedding_forward(table: &Weight, shard: Option<usize>, ids: &Tensor, scale: f32, y: To<'_>) -> Result<Tensor> {
    let source = Source {
        slice: table.slice(),
        format: table.format(),
        rows: table.rows(),
        cols: table.cols(),
        scales_at: table.scales_at(),
        shard,
    };
    gather("embedding", source, ids, scale, y)
}

/// `y [n, cols] = x[rows]`: x `[tokens, cols]`, rows u32 `[n]`. A row outside of x gives zeros.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn gather_rows(x: &Tensor, rows: &Tensor, y: To<'_>) -> Result<Tensor> {
    let (x_rows, cols) = x.dims2("gather_rows")?;
    let source = Source { slice: x.slice(), format: WeightFormat::F32, rows: x_rows, cols, scales_at: 0, shard: None };
    gather("gather_rows", source, rows, 1.0, y)
}

fn gather(op: &'static str, w: Source, rows: &Tensor, scale: f32, y: To<'_>) -> Result<Tensor> {
    let n = rows.len();
    rows.expect_shape(op, "the index", &[n])?;
    let y = y.overwritten(rows.device(), op, &[n, w.cols])?;
    distinct(op, &[rows], &[&y])?;
    if y.slice().raw.id == w.slice.raw.id {
        return Err(Error::shape(op, "the output lies in the same buffer as its source"));
    }
    let params = GatherParams {
        n: n as u32,
        cols: w.cols as u32,
        w_rows: w.rows as u32,
        w_scales: w.scales_at,
        first: w.shard.unwrap_or(0) as u32,
        scale,
        ..Default::default()
    };
    let vec = vec4(w.cols);
    let work = if vec { y.len() / 4 } else { y.len() };
    let bindings = [w.slice, rows.slice(), y.slice()];
    let spec = gather_spec(w.format, vec, w.shard.is_some());
    launch(rows.device(), &spec, &bindings, &params, work.div_ceil(256) as u64, streaming(2 * y.len(), 1.0))?;
    Ok(y)
}

/// `x[rows[i], :] += dy[i, :]`: x `[tokens, cols]`, dy `[n, cols]`, rows u32 `[n]`, distinct, since an element has one
/// writer. Rows outside of x are left out.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn scatter_rows_add(x: &Tensor, rows: &Tensor, dy: &Tensor) -> Result<()> {
    let op = "scatter_rows_add";
    let (n, cols) = dy.dims2(op)?;
    rows.expect_shape(op, "rows", &[n])?;
    scatter(op, false, x, dy, rows, (n, cols), 1.0)
}

/// `y [n, cols] = x[:, first..first + cols]`.
///
/// # Errors
/// [`Error::Shape`] if x has no such columns or the output does not fit.
pub fn columns(x: &Tensor, first: usize, cols: usize, y: To<'_>) -> Result<Tensor> {
    let op = "columns";
    let (n, x_cols) = x.dims2(op)?;
    if first + cols > x_cols {
        return Err(Error::shape(op, format!("{first}..{} of {:?}", first + cols, x.shape())));
    }
    let y = y.overwritten(x.device(), op, &[n, cols])?;
    distinct(op, &[x], &[&y])?;
    let params = ColumnsParams {
        n: n as u32,
        x_cols: x_cols as u32,
        first: first as u32,
        cols: cols as u32,
        ..Default::default()
    };
    let (bindings, cost) = ([x.slice(), y.slice()], streaming(2 * y.len(), 1.0));
    launch(x.device(), &columns_spec(), &bindings, &params, y.len().div_ceil(256) as u64, cost)?;
    Ok(y)
}

/// Where each distinct token of a sequence stands, sorted: the backward of an embedding reads it, so that each row of
/// the gradient has one writer and a fixed order of summation.
#[derive(Clone, Debug)]
pub struct TokenOrder {
    index: Tensor,
    distinct: usize,
    tokens: usize,
    vocab: usize,
}

impl TokenOrder {
    /// Sorts and uploads.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id outside of `vocab`.
    pub fn new(device: &Device, ids: &[u32], vocab: usize) -> Result<TokenOrder> {
        if let Some(at) = ids.iter().position(|id| *id as usize >= vocab) {
            return Err(Error::invalid(
                format!("token {at}"),
                format!("its id {} lies outside of the vocabulary of {vocab}", ids[at]),
            ));
        }
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|t| ids[*t as usize]); // stable: positions ascend
        let (mut words, mut offsets) = (Vec::new(), Vec::new());
        for (e, t) in order.iter().enumerate() {
            let id = ids[*t as usize];
            if words.last() != Some(&id) {
                words.push(id);
                offsets.push(e as u32);
            }
        }
        offsets.push(ids.len() as u32);
        let distinct = words.len();
        words.extend(offsets);
        words.extend(order);
        let index = Tensor::from_slice(device, &[words.len()], &words, "batch")?;
        Ok(TokenOrder { index, distinct, tokens: ids.len(), vocab })
    }
}

/// `dw [vocab, cols] += scale · Σ dy[t]` at each token's row: dy `[tokens, cols]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn embedding_backward(dw: &Tensor, order: &TokenOrder, dy: &Tensor, scale: f32) -> Result<()> {
    let op = "embedding_backward";
    let (tokens, cols) = dy.dims2(op)?;
    let (vocab, _) = dw.dims2(op)?;
    if (tokens, vocab) != (order.tokens, order.vocab) {
        return Err(Error::shape(
            op,
            format!("dy {:?} and dW {:?} for {} tokens of {}", dy.shape(), dw.shape(), order.tokens, order.vocab),
        ));
    }
    scatter(op, true, dw, dy, &order.index, (order.distinct, cols), scale)
}

fn scatter(
    op: &'static str,
    sorted: bool,
    x: &Tensor,
    dy: &Tensor,
    index: &Tensor,
    (n, cols): (usize, usize),
    scale: f32,
) -> Result<()> {
    let (x_rows, x_cols) = x.dims2(op)?;
    if x_cols != cols {
        return Err(Error::shape(op, format!("rows of dy {:?} into rows of {:?}", dy.shape(), x.shape())));
    }
    distinct(op, &[dy, index], &[x])?;
    let params = ScatterAddParams {
        n: n as u32,
        cols: cols as u32,
        x_rows: x_rows as u32,
        dy_rows: dy.dims2(op)?.0 as u32,
        scale,
        ..Default::default()
    };
    let vec = vec4(cols);
    let work = n * if vec { cols / 4 } else { cols };
    let bindings = [dy.slice(), index.slice(), x.slice()];
    let cost = streaming(dy.len() + 2 * n * cols, 1.0);
    launch(x.device(), &scatter_spec(sorted, vec), &bindings, &params, work.div_ceil(256) as u64, cost)
}

fn gather_spec(format: WeightFormat, vec: bool, shard: bool) -> KernelSpec {
    KernelSpec::new(&GATHER, [("WFMT", format as u32), ("VEC", vec.into()), ("SHARD", shard.into())])
}

fn columns_spec() -> KernelSpec {
    KernelSpec::new(&COLUMNS, [])
}

fn scatter_spec(sorted: bool, vec: bool) -> KernelSpec {
    KernelSpec::new(&SCATTER_ADD, [("SORTED", sorted.into()), ("VEC", vec.into())])
}

/// Every specialisation. Rows of quantised formats are whole blocks.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = Vec::new();
    for shard in flags {
        all.extend(WeightFormat::ALL.map(|f| gather_spec(f, true, shard)));
        let plain = WeightFormat::ALL.into_iter().filter(|f| !f.is_quantised());
        all.extend(plain.map(|f| gather_spec(f, false, shard)));
    }
    all.push(columns_spec());
    all.extend(flags.iter().flat_map(|&sorted| flags.map(|vec| scatter_spec(sorted, vec))));
    all
}
