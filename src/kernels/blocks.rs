//! The B matrices of low-rank adapters on a stacked weight, between their own memory and one matrix with zeros between
//! them: `shaders/blocks.wgsl`.

use super::output::{To, distinct, streaming};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Blocks spread out, each times its scale.
    SPREAD, "blocks_spread", "blocks.wgsl", BlocksParams, [read("b"), write("spread")]
);
kernel!(
    /// The gradient's way back: added to the blocks.
    GATHER, "blocks_gather", "blocks.wgsl", BlocksParams, [read("spread"), write("b")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct BlocksParams {
    grid: Grid,
    n: u32,
    rank: u32,
    first: [u32; MOST],
    end: [u32; MOST],
    column: [u32; MOST],
    width: [u32; MOST],
    scale: [f32; MOST],
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

/// B `[Σ rows · rank]` as one matrix `[out, Σ rank]`, each block times its scale, zeros elsewhere.
///
/// # Errors
/// [`Error::Shape`] if the blocks are too many, overlap, or do not fit.
pub fn spread(b: &Tensor, blocks: &[Block], out: usize, to: To<'_>) -> Result<Tensor> {
    let params = params(b, blocks, out)?;
    let all = to.overwritten(b.device(), "blocks", &[out, params.rank as usize])?;
    distinct("blocks", &[b], &[&all])?;
    run(false, b, &all, &params)?;
    Ok(all)
}

/// Adds the blocks of `all` `[out, Σ rank]`, each times its scale, to `b` `[Σ rows · rank]`.
///
/// # Errors
/// As [`spread`].
pub fn gather_add(all: &Tensor, blocks: &[Block], b: &Tensor) -> Result<()> {
    let (out, rank) = all.dims2("blocks")?;
    let params = params(b, blocks, out)?;
    if rank != params.rank as usize {
        return Err(Error::shape("blocks", format!("{:?} for ranks of {}", all.shape(), params.rank)));
    }
    distinct("blocks", &[all], &[b])?;
    run(true, b, all, &params)
}

fn params(b: &Tensor, blocks: &[Block], out: usize) -> Result<BlocksParams> {
    let mut params = BlocksParams { n: out as u32, ..Default::default() };
    let (mut rows, mut len, mut rank) = (0, 0, 0);
    for (i, block) in blocks.iter().enumerate() {
        let end = block.first_row + block.rows;
        if i == MOST || block.first_row < rows || end > out {
            return Err(Error::shape("blocks", format!("block {i} has rows {}..{end} of {out}", block.first_row)));
        }
        (params.first[i], params.end[i]) = (block.first_row as u32, end as u32);
        (params.column[i], params.width[i]) = (rank as u32, block.rank as u32);
        params.scale[i] = block.scale;
        (rows, len, rank) = (end, len + block.rows * block.rank, rank + block.rank);
    }
    if b.len() != len {
        return Err(Error::shape("blocks", format!("B has {} elements, the blocks {len}", b.len())));
    }
    params.rank = rank as u32;
    Ok(params)
}

fn run(gather: bool, b: &Tensor, all: &Tensor, params: &BlocksParams) -> Result<()> {
    let bindings = if gather { [all.slice(), b.slice()] } else { [b.slice(), all.slice()] };
    let cost = streaming(all.len() + b.len(), 8.0);
    launch(b.device(), &spec(gather), &bindings, params, all.len().div_ceil(256) as u64, cost)
}

fn spec(gather: bool) -> KernelSpec {
    let kernel = if gather { &GATHER } else { &SPREAD };
    KernelSpec::new(kernel, [("GATHER", gather.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    [false, true].map(spec).to_vec()
}
