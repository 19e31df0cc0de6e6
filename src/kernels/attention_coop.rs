//! Attention on matrix units: `shaders/attention_coop.wgsl`. Queries, keys, values, weights and gradients of scores are rounded
//! to f16 as operands; scores, statistics and sums are f32.

use super::attention_shape::{CHOICE, MAX_HEAD_DIM, Pass, TileParams};
use super::kernel;
use super::target::CoopMatrix;
use super::tuned::Choice;
use crate::device::spec::{read, write};
use crate::device::tiles::TileId;
use crate::device::{Kernel, KernelSpec};

kernel!(
    /// [`super::attention::FORWARD`] on matrix units.
    FORWARD_COOP, "attention_forward_coop", "attention_coop.wgsl", TileParams,
    [
        read("q").half_if("IN16"), read("k").half_if("IN16"), read("v").half_if("IN16"), read("kv_start"), read("kv_end"),
        write("out").half_if("OUT16"), write("lse"),
    ],
    needs F16 CoopMatrix Subgroup
);
kernel!(
    /// [`super::attention::BACKWARD_Q`] on matrix units.
    BACKWARD_Q_COOP, "attention_backward_q_coop", "attention_coop.wgsl", TileParams,
    [read("q").half_if("IN16"), read("k").half_if("IN16"), read("v").half_if("IN16"), read("stats"), write("dq")],
    needs F16 CoopMatrix Subgroup
);
kernel!(
    /// [`super::attention::BACKWARD_KV`] on matrix units.
    BACKWARD_KV_COOP, "attention_backward_kv_coop", "attention_coop.wgsl", TileParams,
    [
        read("q").half_if("IN16"), read("k").half_if("IN16"), read("v").half_if("IN16"), read("stats"), write("dk"), write("dv"),
    ],
    needs F16 CoopMatrix Subgroup
);

/// What a workgroup does at a time: `subgroups` of `fragments` fragments of rows each, and `columns` columns, of whose scores
/// `piece` pass through workgroup memory at once. With `ahead` the next columns come in while these are worked on, which costs
/// registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    units: CoopMatrix,
    subgroups: u32,
    fragments: u32,
    columns: u32,
    piece: u32,
    ahead: bool,
}

impl Block {
    /// By workgroup memory (two tiles of columns, a piece of scores and the weights) and by registers (the rows' operands and
    /// the sums of a row); docs/notes/attention.md has what was tried.
    pub const fn choose(units: CoopMatrix, pass: Pass, head_dim: usize) -> Block {
        let queries_are_columns = matches!(pass, Pass::KeyValue);
        let (subgroups, fragments, columns) = match (units.fragment, units.lanes) {
            // as with products, short text compiles sooner; a lane has a query to itself
            (_, 8) => (4, 1, if head_dim > 32 || queries_are_columns { 8 } else { 16 }),
            (8, _) if head_dim > 128 => (2, 2, 16),
            (8, _) => (2, 2, 32),
            _ if head_dim <= 64 => (4, 1, 32),
            _ if head_dim > 128 => (2, 1, 32),
            _ if queries_are_columns => (4, 1, 16),
            _ => (8, 1, 32),
        };
        Block::of(units, pass, head_dim, (subgroups, fragments, columns))
    }

    const fn of(units: CoopMatrix, pass: Pass, head_dim: usize, size: (u32, u32, u32)) -> Block {
        let (subgroups, fragments, columns) = size;
        let piece = match subgroups {
            _ if matches!(pass, Pass::KeyValue) => fragments * units.fragment,
            8 => 16,
            _ => columns,
        };
        Block { units, subgroups, fragments, columns, piece, ahead: units.lanes == 32 && head_dim <= 128 }
    }

    /// Those that a pass over heads of this size can have on the units of this one.
    pub fn all(&self, pass: Pass, head_dim: usize) -> Vec<Block> {
        let units = self.units;
        let sizes: &[(u32, u32, u32)] = match (units.fragment, units.lanes) {
            // a column of every lane's is all that the text of a software renderer may have
            (_, 8) => &[],
            (8, _) => &[(4, 2, 32), (2, 2, 16), (4, 2, 16), (4, 1, 32)],
            _ => &[(4, 1, 32), (8, 1, 32), (4, 1, 16), (2, 1, 32)],
        };
        let own = Block::choose(units, pass, head_dim);
        let others = sizes.iter().map(|&size| Block::of(units, pass, head_dim, size));
        let fits = |b: &Block| b.id() != own.id() && b.memory(pass, head_dim) <= units.memory();
        let mut all = vec![own];
        all.extend(others.filter(|b| CHOICE.contains(&head_dim) && fits(b)));
        all
    }

    /// Bytes of workgroup memory, as the shader counts them: tiles of columns and weights, or of rows before those, and scores.
    fn memory(&self, pass: Pass, head_dim: usize) -> u32 {
        let (rows, fragment) = (self.fragments * self.units.fragment, self.units.fragment);
        let (lines, width) = if pass == Pass::KeyValue { (self.columns, rows) } else { (rows, self.columns) };
        let line = 2 * (head_dim as u32).div_ceil(fragment) * fragment / 8 + 2;
        let walk = 2 * self.columns * line + self.subgroups * lines * (width / 4 + 2);
        let load = self.subgroups * fragment * line;
        let slabs = self.subgroups * lines * (self.piece / 4 + 1);
        // of each row where it lies and its factor, and a few words
        8 * walk.max(load) + 16 * slabs + 8 * self.subgroups * rows + 64
    }

    /// Rows of a workgroup.
    pub fn rows(&self) -> usize {
        (self.subgroups * self.fragments * self.units.fragment) as usize
    }

    /// Columns at a time.
    pub fn columns(&self) -> usize {
        self.columns as usize
    }
}

impl Choice for Block {
    fn id(&self) -> TileId {
        [self.subgroups, self.fragments, self.columns, self.piece, self.ahead.into(), 0, 0]
    }
}

fn kernel(pass: Pass) -> &'static Kernel {
    match pass {
        Pass::Forward => &FORWARD_COOP,
        Pass::Query => &BACKWARD_Q_COOP,
        Pass::KeyValue => &BACKWARD_KV_COOP,
    }
}

pub(super) fn spec(block: Block, pass: Pass, head_dim: usize, softcap: bool, out16: bool) -> KernelSpec {
    KernelSpec::new(
        kernel(pass),
        [
            ("PASS", pass as u32),
            ("HEAD_DIM", head_dim as u32),
            ("SOFTCAP", softcap.into()),
            ("IN16", 1),
            ("OUT16", out16.into()),
            ("FRAG", block.units.fragment),
            ("LANES", block.units.lanes),
            ("SG", block.subgroups),
            ("FM", block.fragments),
            ("BN", block.columns),
            ("PIECE", block.piece),
            ("AHEAD", block.ahead.into()),
        ],
    )
}

/// Every specialisation, on all matrix units.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for head_dim in (8..=MAX_HEAD_DIM).step_by(8) {
        for (units, pass) in CoopMatrix::ALL.iter().flat_map(|&u| Pass::ALL.map(|p| (u, p))) {
            for block in Block::choose(units, pass, head_dim).all(pass, head_dim) {
                let outputs = [false, true].into_iter().filter(|out16| pass == Pass::Forward || !out16);
                all.extend(outputs.flat_map(|out16| [false, true].map(|cap| spec(block, pass, head_dim, cap, out16))));
            }
        }
    }
    all
}
