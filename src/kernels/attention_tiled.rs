//! Attention out of tiles in workgroup memory, which every device can compute: `shaders/attention.wgsl`.

use super::attention_shape::{CHOICE, MAX_HEAD_DIM, Pass, TileParams};
use super::kernel;
use super::tuned::Choice;
use crate::device::spec::{read, write};
use crate::device::tiles::TileId;
use crate::device::{DeviceClass, Kernel, KernelSpec};

kernel!(
    /// Output and log-sum-exp.
    FORWARD, "attention_forward", "attention.wgsl", TileParams,
    [read("q"), read("k"), read("v"), read("kv_start"), read("kv_end"), write("out"), write("lse")]
);
kernel!(
    /// Gradient of the queries.
    BACKWARD_Q, "attention_backward_q", "attention.wgsl", TileParams,
    [read("q"), read("k"), read("v"), read("d_out"), read("stats"), write("dq")]
);
kernel!(
    /// Gradients of keys and values, summed over the query heads that share them.
    BACKWARD_KV, "attention_backward_kv", "attention.wgsl", TileParams,
    [read("q"), read("k"), read("v"), read("d_out"), read("stats"), write("dk"), write("dv")]
);

fn kernel(pass: Pass) -> &'static Kernel {
    match pass {
        Pass::Forward => &FORWARD,
        Pass::Query => &BACKWARD_Q,
        Pass::KeyValue => &BACKWARD_KV,
    }
}

/// Threads of a workgroup along columns and head_dim (`nx`) and along rows (`ny`), rows and columns a thread (`tm`, `tn`,
/// multiples of 4), and rounds of the second product that are unrolled in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    nx: u32,
    ny: u32,
    tm: u32,
    tn: u32,
    unroll: u32,
}

const fn tile(nx: u32, ny: u32, tm: u32, tn: u32, unroll: u32) -> Tile {
    Tile { nx, ny, tm, tn, unroll }
}

/// Of GPUs, and of software renderers; those of heads wider than 128 are the second of each. Keys and values, which have
/// twice the sums, take it for every head on a GPU (docs/notes/products.md, "Plain kernels").
const OF_GPUS: [Tile; 2] = [tile(8, 16, 4, 4, 4), tile(16, 8, 4, 4, 2)];
const OF_SOFTWARE: [Tile; 2] = [tile(4, 4, 8, 8, 1), tile(8, 4, 8, 4, 1)];
/// What a device may be faster with.
const OTHERS: [Tile; 3] = [tile(8, 16, 4, 4, 4), tile(8, 8, 4, 4, 4), tile(16, 8, 4, 4, 2)];

impl Tile {
    /// A thread holds `tm · head_dim / nx` sums, and twice that for keys and values: wide heads get more threads across.
    /// The software renderer wants large tiles a thread, but its compiler's time grows with the square of their text.
    pub const fn choose(class: DeviceClass, pass: Pass, head_dim: usize) -> Tile {
        let wide = head_dim > 128;
        match class {
            DeviceClass::Software => OF_SOFTWARE[wide as usize],
            _ => OF_GPUS[(wide || matches!(pass, Pass::KeyValue)) as usize],
        }
    }

    /// This one, and what else heads of this size can have.
    pub fn choices(self, head_dim: usize) -> Vec<Tile> {
        let others = OTHERS.iter().filter(|t| CHOICE.contains(&head_dim) && t.id() != self.id());
        std::iter::once(self).chain(others.copied()).collect()
    }

    /// Those that a pass over heads of this size can have, on any class of device.
    pub fn all(pass: Pass, head_dim: usize) -> Vec<Tile> {
        let own = [DeviceClass::Software, DeviceClass::Discrete].map(|class| Tile::choose(class, pass, head_dim));
        let mut all: Vec<Tile> = own.iter().flat_map(|t| t.choices(head_dim)).collect();
        all.sort_unstable_by_key(Tile::id);
        all.dedup_by_key(|t| t.id());
        all
    }

    pub fn rows(&self) -> usize {
        (self.ny * self.tm) as usize
    }

    pub fn spec(&self, pass: Pass, head_dim: usize, softcap: bool) -> KernelSpec {
        KernelSpec::new(
            kernel(pass),
            [
                ("PASS", pass as u32),
                ("HEAD_DIM", head_dim as u32),
                ("SOFTCAP", softcap.into()),
                ("NX", self.nx),
                ("NY", self.ny),
                ("TM", self.tm),
                ("TN", self.tn),
                ("UNROLL", self.unroll),
            ],
        )
    }

    /// Columns that a launch may go over on a software renderer, of whose threads all loops together may take so many rounds.
    pub fn longest(&self, pass: Pass, head_dim: usize, rounds: usize) -> usize {
        let Tile { nx, ny, tm, tn, unroll } = *self;
        let (rows, columns, threads) = (ny * tm, nx * tn, nx * ny);
        let chunk = if head_dim.is_multiple_of(16) { 16 } else { 8 };
        // the rounds of a tile of scores, of the product behind it, and of a block of columns, as in the shader; a loop takes
        // one more to find that it is over
        let loads = ((rows + columns) / 4 * chunk / 4).div_ceil(threads) + 1;
        let scores = head_dim as u32 / chunk * (1 + loads + chunk + 1) + 1;
        let gather = columns.div_ceil(unroll) + 1;
        let block = 1 + match pass {
            Pass::Forward => scores + gather,
            Pass::Query => 2 * scores + gather,
            Pass::KeyValue => 2 * scores + 2 * gather + columns.div_ceil(threads),
        };
        (rounds as u32 / block * columns) as usize
    }
}

impl Choice for Tile {
    fn id(&self) -> TileId {
        [self.nx, self.ny, self.tm, self.tn, self.unroll, 0, 0]
    }
}

/// Every specialisation, on every device class.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for (head_dim, pass) in (8..=MAX_HEAD_DIM).step_by(8).flat_map(|h| Pass::ALL.map(|p| (h, p))) {
        let tiles = Tile::all(pass, head_dim);
        all.extend(tiles.iter().flat_map(|t| [false, true].map(|softcap| t.spec(pass, head_dim, softcap))));
    }
    all
}
