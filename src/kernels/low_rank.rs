//! The thin products of low-rank adapters: `shaders/low_rank_*.wgsl`. With X `[tokens, in]`, dY `[tokens, out]`, A
//! `[rank, in]` and the adapters' blocks of B:
//!
//! ```text
//! U = s·X·Aᵀ [tokens, rank]     V = dY·B [tokens, rank]     dA = Vᵀ·X     dB = dYᵀ·U
//! ```
//!
//! Each moves a wide matrix once and computes little on it, so on GPUs they have kernels of their own, which take that
//! matrix as f16 too, on matrix units others ([`low_rank_coop`]); on software renderers, where computing is what costs, they
//! are products of `matmul` on f32.

use super::matmul::{Layout, Out, matmul};
use super::output::{To, distinct, halves, streaming};
use super::parts::{Sums, in_parts, in_parts_later};
use super::{kernel, launch, low_rank_coop};
use crate::device::spec::{read, write};
use crate::device::{Cost, DeviceClass, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Blocks of B spread out as one matrix, each times its scale.
    SPREAD, "low_rank_spread", "low_rank_spread.wgsl", BlocksParams, [read("b"), write("spread")]
);
kernel!(
    /// The gradient's way back: added to the blocks.
    GATHER, "low_rank_gather", "low_rank_spread.wgsl", BlocksParams, [read("spread"), write("b")]
);
kernel!(
    /// U and V.
    PROJECT, "low_rank_project", "low_rank_project.wgsl", BlocksParams,
    [read("d").half_if("X16"), read("thin"), write("out")]
);
kernel!(
    /// dA and dB.
    GRADIENT, "low_rank_gradient", "low_rank_gradient.wgsl", BlocksParams,
    [read("d").half_if("X16"), read("thin"), write("out")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct BlocksParams {
    grid: Grid,
    pub(super) tokens: u32,
    pub(super) width: u32,
    rank: u32,
    splits: u32,
    // vectors start at multiples of 16 bytes
    gap: [u32; 2],
    pub(super) first: [u32; MOST],
    pub(super) end: [u32; MOST],
    column: [u32; MOST],
    pub(super) cols: [u32; MOST],
    before: [u32; MOST],
    scale: [f32; MOST],
}

/// Of two gradients in one launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct BothParams {
    one: BlocksParams,
    width: u32,
    rank: u32,
    first_groups: u32,
    gap: u32,
    first: [u32; MOST],
    end: [u32; MOST],
    column: [u32; MOST],
    cols: [u32; MOST],
    before: [u32; MOST],
    scale: [f32; MOST],
}

impl BothParams {
    fn new(one: BlocksParams, other: &BlocksParams, first_groups: usize) -> BothParams {
        let BlocksParams { width, rank, first, end, column, cols, before, scale, .. } = *other;
        BothParams {
            one,
            width,
            rank,
            first_groups: first_groups as u32,
            gap: 0,
            first,
            end,
            column,
            cols,
            before,
            scale,
        }
    }
}

/// Blocks of a stacked weight, at most.
pub const MOST: usize = 4;

/// A low-rank adapter's part of a stacked weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    pub first_row: usize,
    pub rows: usize,
    pub rank: usize,
    /// alpha/rank or alpha/√rank
    pub scale: f32,
}

/// Elements of the blocks' B together.
fn elements(blocks: &[Block]) -> usize {
    blocks.iter().map(|b| b.rows * b.rank).sum()
}

/// B `[Σ rows · rank]` as one matrix `[out, Σ rank]`, each block times its scale, zeros elsewhere.
///
/// # Errors
/// [`Error::Shape`] if the blocks are too many, overlap, or do not fit.
pub fn spread(b: &Tensor, blocks: &[Block], out: usize, to: To<'_>) -> Result<Tensor> {
    let params = params(blocks, 0, out)?;
    b.expect_len("low_rank", "B", elements(blocks))?;
    let all = to.overwritten(b.device(), "low_rank", &[out, params.rank as usize])?;
    distinct("low_rank", &[b], &[&all])?;
    run_spread(false, b, &all, &params)?;
    Ok(all)
}

/// Adds the blocks of `all` `[out, Σ rank]`, each times its scale, to `b` `[Σ rows · rank]`.
///
/// # Errors
/// As [`spread`].
pub fn gather_add(all: &Tensor, blocks: &[Block], b: &Tensor) -> Result<()> {
    let (out, rank) = all.dims2("low_rank")?;
    let params = params(blocks, 0, out)?;
    b.expect_len("low_rank", "B", elements(blocks))?;
    if rank != params.rank as usize {
        return Err(Error::shape("low_rank", format!("{:?} for ranks of {}", all.shape(), params.rank)));
    }
    distinct("low_rank", &[all], &[b])?;
    run_spread(true, b, all, &params)
}

fn run_spread(gather: bool, b: &Tensor, all: &Tensor, params: &BlocksParams) -> Result<()> {
    let bindings = if gather { [all.slice(), b.slice()] } else { [b.slice(), all.slice()] };
    let cost = streaming(all.len() + b.len(), 8.0);
    launch(b.device(), &spread_spec(gather), &bindings, params, all.len().div_ceil(256) as u64, cost)
}

/// U = `scale`·X·Aᵀ `[tokens, rank]` of X `[tokens, in]` and A `[rank, in]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn project_rows(x: &Tensor, a: &Tensor, scale: f32, to: To<'_>) -> Result<Tensor> {
    let (tokens, inn) = x.dims2("low_rank")?;
    let (rank, in_a) = a.dims2("low_rank")?;
    if inn != in_a {
        return Err(Error::shape("low_rank", format!("X {:?} and A {:?}", x.shape(), a.shape())));
    }
    let u = to.overwritten(x.device(), "low_rank", &[tokens, rank])?;
    if as_product(x) {
        return matmul(Layout::Nt, x, a, Out { scale, ..Out::into(&u) });
    }
    distinct("low_rank", &[x, a], &[&u])?;
    project(true, x, a, &params(&[whole(inn, rank, scale)], tokens, inn)?, &u)?;
    Ok(u)
}

/// V = Σ s·dY·B `[tokens, Σ rank]` of dY `[tokens, out]` and the blocks' B, each with the features and the scale of its block.
///
/// # Errors
/// As [`spread`].
pub fn project_blocks(dy: &Tensor, b: &Tensor, blocks: &[Block], to: To<'_>) -> Result<Tensor> {
    let (tokens, out) = dy.dims2("low_rank")?;
    let params = params(blocks, tokens, out)?;
    b.expect_len("low_rank", "B", elements(blocks))?;
    let v = to.overwritten(dy.device(), "low_rank", &[tokens, params.rank as usize])?;
    if as_product(dy) {
        let (b, scale) = match blocks {
            [one] if one.rows == out => (b.reshape(&[out, one.rank])?, one.scale),
            _ => (spread(b, blocks, out, To::New("scratch"))?, 1.0),
        };
        return matmul(Layout::Nn, dy, &b, Out { scale, ..Out::into(&v) });
    }
    distinct("low_rank", &[dy, b], &[&v])?;
    project(false, dy, b, &params, &v)?;
    Ok(v)
}

/// `da [rank, in] += Vᵀ·X`, there when `sums` are finished, of V `[tokens, rank]` and X `[tokens, in]`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn gradient_rows(v: &Tensor, x: &Tensor, da: &Tensor, sums: &mut Sums) -> Result<()> {
    let ((tokens, inn), (tokens_v, rank)) = (x.dims2("low_rank")?, v.dims2("low_rank")?);
    if tokens != tokens_v {
        return Err(Error::shape("low_rank", format!("V {:?} and X {:?}", v.shape(), x.shape())));
    }
    da.expect_shape("low_rank", "dA", &[rank, inn])?;
    if as_product(x) {
        return matmul(Layout::Tn, v, x, Out::add_to(da)).map(drop);
    }
    gradient(true, x, v, &params(&[whole(inn, rank, 1.0)], tokens, inn)?, da, sums)
}

/// `db += s·dYᵀ·U`, there when `sums` are finished, block by block: dY `[tokens, out]`, U `[tokens, Σ rank]`, `db [Σ rows · rank]`.
///
/// # Errors
/// As [`spread`].
pub fn gradient_blocks(dy: &Tensor, u: &Tensor, blocks: &[Block], db: &Tensor, sums: &mut Sums) -> Result<()> {
    let (tokens, out) = dy.dims2("low_rank")?;
    let params = params(blocks, tokens, out)?;
    u.expect_shape("low_rank", "U", &[tokens, params.rank as usize])?;
    db.expect_len("low_rank", "dB", elements(blocks))?;
    if as_product(dy) {
        return match blocks {
            [one] if one.rows == out => {
                let to = db.reshape(&[out, one.rank])?;
                matmul(Layout::Tn, dy, u, Out { scale: one.scale, ..Out::add_to(&to) }).map(drop)
            }
            _ => gather_add(&matmul(Layout::Tn, dy, u, Out { what: "scratch", ..Out::default() })?, blocks, db),
        };
    }
    gradient(false, dy, u, &params, db, sums)
}

/// What dB and dA of a linear are made of.
pub struct Gradients<'a> {
    /// `[tokens, out]`
    pub dy: &'a Tensor,
    /// `[tokens, Σ rank]`
    pub u: &'a Tensor,
    pub blocks: &'a [Block],
    /// `[tokens, in]`
    pub x: &'a Tensor,
    /// `[tokens, rank]`
    pub v: &'a Tensor,
}

/// [`gradient_blocks`] and [`gradient_rows`], in one launch where there is a kernel for both.
///
/// # Errors
/// As theirs.
pub fn gradients(of: Gradients<'_>, db: &Tensor, da: &Tensor, sums: &mut Sums) -> Result<()> {
    let Gradients { dy, u, blocks, x, v } = of;
    if !in_one_launch(&of, db, da, sums)? {
        gradient_blocks(dy, u, blocks, db, sums)?;
        gradient_rows(v, x, da, sums)?;
    }
    Ok(())
}

/// Both gradients in one launch on matrix units; false if that cannot be.
fn in_one_launch(of: &Gradients<'_>, db: &Tensor, da: &Tensor, sums: &mut Sums) -> Result<bool> {
    let Gradients { dy, u, blocks, x, v } = of;
    let ((tokens, out), (_, inn), (_, rank)) = (dy.dims2("low_rank")?, x.dims2("low_rank")?, v.dims2("low_rank")?);
    let (b, a) = (params(blocks, tokens, out)?, params(&[whole(inn, rank, 1.0)], tokens, inn)?);
    let shape = |d: &Tensor, p: &BlocksParams| low_rank_coop::Shape::of(d, p, true);
    let both = shape(dy, &b).zip(shape(x, &a)).and_then(|(of_b, of_a)| of_b.both(&b, (of_a, &a)));
    let Some((shape, tiles)) = both else { return Ok(false) };
    u.expect_shape("low_rank", "U", &[tokens, b.rank as usize])?;
    v.expect_shape("low_rank", "V", &[tokens, rank])?;
    x.expect_shape("low_rank", "X", &[tokens, inn])?;
    db.expect_len("low_rank", "dB", elements(blocks))?;
    da.expect_shape("low_rank", "dA", &[rank, inn])?;
    distinct("low_rank", &[dy, u, x, v], &[db, da])?;

    let parts = shape.parts(&b, tiles.iter().sum());
    let params = BothParams::new(BlocksParams { splits: parts as u32, ..b }, &a, tiles[0] * parts);
    let (c, d) = (cost(dy, &b, u.len() + parts * db.len()), cost(x, &a, v.len() + parts * da.len()));
    let cost = Cost { flops: c.flops + d.flops, bytes: c.bytes + d.bytes };
    in_parts_later(parts, [db, da], sums, |accumulate, [db, da]| {
        let bindings = [dy, u, db, x, v, da].map(Tensor::slice);
        let groups = (tiles.iter().sum::<usize>() * parts) as u64;
        launch(dy.device(), &shape.spec_of_both(accumulate), &bindings, &params, groups, cost)
    })?;
    Ok(true)
}

/// Whether a product of this wide matrix is left to `matmul`.
fn as_product(wide: &Tensor) -> bool {
    wide.device().caps().class == DeviceClass::Software && wide.element() == Element::F32
}

/// One block for everything.
fn whole(rows: usize, rank: usize, scale: f32) -> Block {
    Block { first_row: 0, rows, rank, scale }
}

/// Parameters for blocks of `width` features.
fn params(blocks: &[Block], tokens: usize, width: usize) -> Result<BlocksParams> {
    let mut params = BlocksParams { tokens: tokens as u32, width: width as u32, splits: 1, ..Default::default() };
    let (mut rows, mut before, mut rank) = (0, 0, 0);
    for (i, block) in blocks.iter().enumerate() {
        let end = block.first_row + block.rows;
        if i == MOST || block.first_row < rows || end > width {
            return Err(Error::shape("low_rank", format!("block {i} has rows {}..{end} of {width}", block.first_row)));
        }
        (params.first[i], params.end[i]) = (block.first_row as u32, end as u32);
        (params.column[i], params.cols[i]) = (rank as u32, block.rank as u32);
        (params.before[i], params.scale[i]) = (before as u32, block.scale);
        (rows, before, rank) = (end, before + block.rows * block.rank, rank + block.rank);
    }
    params.rank = rank as u32;
    Ok(params)
}

/// Threads of a workgroup of the projection.
const THREADS: usize = 64;
/// Workgroups that keep a large GPU's memory busy: of the projection, and of the gradient, which are larger.
const FILL: usize = 768;
const GRADIENT_FILL: usize = 384;
/// Columns that a thread of the projection, and of the gradient, holds.
const PROJECT_COLS: [u32; 6] = [1, 2, 3, 4, 6, 9];
const GRADIENT_COLS: [u32; 6] = [4, 8, 12, 16, 20, 24];

/// Whether rows and blocks can be read four features at a time.
fn vec(p: &BlocksParams) -> bool {
    p.width.is_multiple_of(4) && p.first.iter().chain(&p.end).all(|x| x.is_multiple_of(4))
}

/// Whether a kernel reads `d` four features at a time, and whether those are f16.
fn loads(d: &Tensor, p: &BlocksParams) -> Result<(bool, bool)> {
    let vec = vec(p);
    Ok((vec, halves("low_rank", d, if vec { 4 } else { 1 })?))
}

/// The work of a product that moves the wide matrix `d`, and so many words beside it.
fn cost(d: &Tensor, p: &BlocksParams, others: usize) -> Cost {
    let pairs: u64 = (0..MOST).map(|i| u64::from(p.end[i] - p.first[i]) * u64::from(p.cols[i])).sum();
    let features: u64 = (0..MOST).map(|i| u64::from(p.end[i] - p.first[i])).sum();
    let tokens = f64::from(p.tokens);
    Cost {
        flops: 2.0 * tokens * pairs as f64,
        bytes: d.element().bytes() as f64 * tokens * features as f64 + 4.0 * others as f64,
    }
}

fn project(rows: bool, d: &Tensor, thin: &Tensor, params: &BlocksParams, out: &Tensor) -> Result<()> {
    let on_units = low_rank_coop::Shape::of(d, params, false);
    let (tiles, splits, spec) = match on_units {
        Some(shape) => {
            let (tiles, splits) = shape.work(params);
            (tiles, splits, shape.spec(rows, false))
        }
        None => plain_project(rows, d, params)?,
    };
    let params = BlocksParams { splits: splits as u32, ..*params };
    let cost = cost(d, &params, thin.len() + splits * out.len());
    let run = |_: bool, to: &Tensor| {
        launch(d.device(), &spec, &[d.slice(), thin.slice(), to.slice()], &params, (tiles * splits) as u64, cost)
    };
    in_parts(splits, out, 1.0, false, run)
}

/// Tiles, parts of the sum and kernel of a projection without matrix units.
fn plain_project(rows: bool, d: &Tensor, params: &BlocksParams) -> Result<(usize, usize, KernelSpec)> {
    // narrow rows leave few steps of k, so that many workgroups count for more than few loads
    let tok: usize = if params.width >= 2048 { 64 } else { 32 };
    let widest = params.cols.iter().max().copied().unwrap_or(1);
    let groups_of_columns = (THREADS / (tok / 4)) as u32;
    let needed = widest.div_ceil(groups_of_columns);
    let ct = *PROJECT_COLS.iter().find(|c| **c >= needed).unwrap_or(&PROJECT_COLS[PROJECT_COLS.len() - 1]);
    let pieces: u32 = params.cols.iter().map(|c| c.div_ceil(groups_of_columns * ct)).sum();
    let tiles = (params.tokens as usize).div_ceil(tok) * pieces as usize;
    let longest = (0..MOST).map(|i| params.end[i] - params.first[i]).max().unwrap_or(0) as usize;
    let splits = FILL.div_ceil(tiles.max(1)).min(longest / 128).clamp(1, 16);
    Ok((tiles, splits, project_spec(rows, loads(d, params)?, tok as u32, ct)))
}

fn gradient(rows: bool, d: &Tensor, thin: &Tensor, params: &BlocksParams, out: &Tensor, sums: &mut Sums) -> Result<()> {
    distinct("low_rank", &[d, thin], &[out])?;
    let on_units = low_rank_coop::Shape::of(d, params, true);
    let widest = params.cols.iter().max().copied().unwrap_or(1);
    let most = GRADIENT_COLS[GRADIENT_COLS.len() - 1];
    // as many pieces as needed, all of one width
    let needed = widest.div_ceil(widest.div_ceil(most).max(1));
    let ct = *GRADIENT_COLS.iter().find(|c| **c >= needed).unwrap_or(&most);
    let (tiles, splits) = match on_units {
        Some(shape) => shape.work(params),
        None => {
            let of = |i: usize| (params.end[i] - params.first[i]).div_ceil(256) * params.cols[i].div_ceil(ct);
            let tiles = (0..MOST).map(of).sum::<u32>() as usize;
            (tiles, GRADIENT_FILL.div_ceil(tiles.max(1)).min(params.tokens as usize / 64).clamp(1, 64))
        }
    };
    let params = BlocksParams { splits: splits as u32, ..*params };
    let cost = cost(d, &params, thin.len() + splits * out.len());
    let loads = loads(d, &params)?;
    let run = |accumulate: bool, [to]: [&Tensor; 1]| {
        let spec = match on_units {
            Some(shape) => shape.spec(rows, accumulate),
            None => gradient_spec(rows, loads, accumulate, ct),
        };
        launch(d.device(), &spec, &[d.slice(), thin.slice(), to.slice()], &params, (tiles * splits) as u64, cost)
    };
    in_parts_later(splits, [out], sums, run)
}

fn spread_spec(gather: bool) -> KernelSpec {
    let kernel = if gather { &GATHER } else { &SPREAD };
    KernelSpec::new(kernel, [("GATHER", gather.into())])
}

fn project_spec(rows: bool, (vec, half): (bool, bool), tok: u32, ct: u32) -> KernelSpec {
    let flags = [("ROWS", rows.into()), ("VEC", vec.into()), ("X16", half.into()), ("TOK", tok), ("CT", ct)];
    KernelSpec::new(&PROJECT, flags)
}

fn gradient_spec(rows: bool, (vec, half): (bool, bool), accumulate: bool, ct: u32) -> KernelSpec {
    let flags = [("ROWS", rows), ("VEC", vec), ("X16", half), ("ACCUMULATE", accumulate)];
    let consts = flags.into_iter().map(|(name, flag)| (name, flag.into())).chain([("CT", ct)]);
    KernelSpec::new(&GRADIENT, consts.collect::<Vec<_>>())
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all: Vec<KernelSpec> = flags.map(spread_spec).to_vec();
    let loads = [(false, false), (true, false), (true, true)];
    for (rows, loads) in flags.into_iter().flat_map(|r| loads.map(|l| (r, l))) {
        all.extend([32, 64].into_iter().flat_map(|tok| PROJECT_COLS.map(|ct| project_spec(rows, loads, tok, ct))));
        all.extend(flags.into_iter().flat_map(|add| GRADIENT_COLS.map(|ct| gradient_spec(rows, loads, add, ct))));
    }
    all
}
