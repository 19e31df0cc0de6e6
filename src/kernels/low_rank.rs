//! The products of low-rank adapters: `shaders/low_rank_*.wgsl`. With X `[tokens, in]`, dY `[tokens, out]`, A
//! `[rank, in]` and the adapters' blocks of B:
//!
//! ```text
//! U = s·X·Aᵀ [tokens, rank]     V = dY·B [tokens, rank]     dA = Vᵀ·X     dB = dYᵀ·U
//! ```
//!
//! Each moves a wide matrix once and computes little on it, so on GPUs they have kernels of their own, which take that
//! matrix as f16 too, on matrix units others ([`super::low_rank_coop`]); on software renderers, where computing is what costs, they
//! are products of `matmul` on f32.

pub use super::low_rank_blocks::{Block, MOST};
use super::low_rank_blocks::{BlocksParams, BothParams, elements, params, vec, whole};
use super::low_rank_plan::{GRADIENT_COLS, LowRankPlan, LowRankProblem, PROJECT_COLS, coop_shape};
use super::output::{To, distinct, halves, streaming};
use super::pairing::together;
use super::parts::{Sums, in_parts, in_parts_later};
use super::product::{Layout, Out, matmul};
use super::target::Target;
use super::{kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Cost, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

kernel!(
    /// Blocks of B spread out as one matrix, each times its scale.
    SPREAD, "low_rank_spread", "low_rank_spread.wgsl", BlocksParams, [read("b"), write("spread")]
);
kernel!(
    /// The reverse, for gradients: the blocks of one matrix are added to those of B.
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

/// The operands of dB and dA of a linear.
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
    let target = Target::of(dy.device());
    let shape = |d: &Tensor, p: &BlocksParams| coop_shape(&target, d.element(), p, true);
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
    let cost = together(c, d);
    in_parts_later(parts, [db, da], sums, |accumulate, [db, da]| {
        let bindings = [dy, u, db, x, v, da].map(Tensor::slice);
        let groups = (tiles.iter().sum::<usize>() * parts) as u64;
        launch(dy.device(), &shape.spec_of_both(accumulate), &bindings, &params, groups, cost)
    })?;
    Ok(true)
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

/// Whether a product of this wide matrix is left to [`super::product`].
fn as_product(wide: &Tensor) -> bool {
    LowRankPlan::is_product(&Target::of(wide.device()), wide.element())
}

fn project(rows: bool, d: &Tensor, thin: &Tensor, params: &BlocksParams, out: &Tensor) -> Result<()> {
    let plan = LowRankPlan::projection(&Target::of(d.device()), d.element(), params);
    plan_log::tell(&LowRankProblem("projection", d.element(), params), &plan);
    let (cut, spec) = match plan {
        LowRankPlan::CoopMatrix(shape, cut) => (cut, shape.spec(rows, false)),
        LowRankPlan::Streaming { tokens, columns, cut } => {
            (cut, project_spec(rows, loads(d, params)?, tokens, columns))
        }
        LowRankPlan::Product => return Err(Error::shape("low_rank", "this device makes it a product")),
    };
    let params = BlocksParams { splits: cut.parts as u32, ..*params };
    let cost = cost(d, &params, thin.len() + cut.parts * out.len());
    let run = |_: bool, to: &Tensor| {
        let groups = (cut.tiles * cut.parts) as u64;
        launch(d.device(), &spec, &[d.slice(), thin.slice(), to.slice()], &params, groups, cost)
    };
    in_parts(cut.parts, out, 1.0, false, run)
}

fn gradient(rows: bool, d: &Tensor, thin: &Tensor, params: &BlocksParams, out: &Tensor, sums: &mut Sums) -> Result<()> {
    distinct("low_rank", &[d, thin], &[out])?;
    let plan = LowRankPlan::gradient(&Target::of(d.device()), d.element(), params);
    plan_log::tell(&LowRankProblem("gradient", d.element(), params), &plan);
    let loads = loads(d, params)?;
    let spec = |accumulate: bool| match plan {
        LowRankPlan::CoopMatrix(shape, cut) => Ok((cut, shape.spec(rows, accumulate))),
        LowRankPlan::Streaming { columns, cut, .. } => Ok((cut, gradient_spec(rows, loads, accumulate, columns))),
        LowRankPlan::Product => Err(Error::shape("low_rank", "this device makes it a product")),
    };
    let (cut, _) = spec(true)?;
    let params = BlocksParams { splits: cut.parts as u32, ..*params };
    let cost = cost(d, &params, thin.len() + cut.parts * out.len());
    let run = |accumulate: bool, [to]: [&Tensor; 1]| {
        let groups = (cut.tiles * cut.parts) as u64;
        launch(d.device(), &spec(accumulate)?.1, &[d.slice(), thin.slice(), to.slice()], &params, groups, cost)
    };
    in_parts_later(cut.parts, [out], sums, run)
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
