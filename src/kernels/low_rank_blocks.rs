//! The blocks of a stacked weight that low-rank adapters belong to, as kernels are told of them.

use crate::device::Grid;
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct BlocksParams {
    pub(super) grid: Grid,
    pub(super) tokens: u32,
    pub(super) width: u32,
    pub(super) rank: u32,
    pub(super) splits: u32,
    // vectors start at multiples of 16 bytes
    pub(super) gap: [u32; 2],
    pub(super) first: [u32; MOST],
    pub(super) end: [u32; MOST],
    pub(super) column: [u32; MOST],
    pub(super) cols: [u32; MOST],
    pub(super) before: [u32; MOST],
    pub(super) scale: [f32; MOST],
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
    pub(super) fn new(one: BlocksParams, other: &BlocksParams, first_groups: usize) -> BothParams {
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
pub(super) fn elements(blocks: &[Block]) -> usize {
    blocks.iter().map(|b| b.rows * b.rank).sum()
}

/// One block for everything.
pub(super) fn whole(rows: usize, rank: usize, scale: f32) -> Block {
    Block { first_row: 0, rows, rank, scale }
}

/// Parameters for blocks of `width` features.
pub(super) fn params(blocks: &[Block], tokens: usize, width: usize) -> Result<BlocksParams> {
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

/// Whether rows and blocks can be read four features at a time.
pub(super) fn vec(p: &BlocksParams) -> bool {
    p.width.is_multiple_of(4) && p.first.iter().chain(&p.end).all(|x| x.is_multiple_of(4))
}
