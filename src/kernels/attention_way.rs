//! How a pass of attention is cut, and which of its kernels runs it.

use super::attention::{AttentionShape, OUT, Pass, Sizes, operands};
use super::matmul::Layout;
use super::tuned::{self, Choice};
use super::{attention_coop, attention_simd};
use crate::device::tiles::{Family, Product, TileId};
use crate::device::{Device, DeviceClass, KernelSpec, Slice};

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
/// twice the sums, take it for every head on a GPU (BENCHMARKS.md, "Plain kernels").
const OF_GPUS: [Tile; 2] = [tile(8, 16, 4, 4, 4), tile(16, 8, 4, 4, 2)];
const OF_SOFTWARE: [Tile; 2] = [tile(4, 4, 8, 8, 1), tile(8, 4, 8, 4, 1)];
/// What a device may be faster with.
const OTHERS: [Tile; 3] = [tile(8, 16, 4, 4, 4), tile(8, 8, 4, 4, 4), tile(16, 8, 4, 4, 2)];

/// Heads, in elements, for whose blocks there is a choice: those of most models. Each block of each is a kernel to validate.
pub(super) const CHOICE: [usize; 5] = [64, 80, 96, 128, 256];

impl Tile {
    /// A thread holds `tm · head_dim / nx` sums, and twice that for keys and values: wide heads get more threads across.
    /// The software renderer wants large tiles a thread, but its compiler's time grows with the square of their text.
    const fn choose(class: DeviceClass, pass: Pass, head_dim: usize) -> Tile {
        let wide = head_dim > 128;
        match class {
            DeviceClass::Software => OF_SOFTWARE[wide as usize],
            _ => OF_GPUS[(wide || matches!(pass, Pass::KeyValue)) as usize],
        }
    }

    /// This one, and what else heads of this size can have.
    fn choices(self, head_dim: usize) -> Vec<Tile> {
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

    fn rows(&self) -> usize {
        (self.ny * self.tm) as usize
    }

    pub fn spec(&self, pass: Pass, head_dim: usize, softcap: bool) -> KernelSpec {
        KernelSpec::new(
            pass.kernel(),
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

    /// Columns that a launch may walk over on a software renderer.
    fn longest(&self, pass: Pass, head_dim: usize) -> usize {
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
        (ROUNDS as u32 / block * columns) as usize
    }
}

impl Choice for Tile {
    fn id(&self) -> TileId {
        [self.nx, self.ny, self.tm, self.tn, self.unroll, 0, 0]
    }
}

/// Rounds of all loops of a thread together: Mesa's software renderer ends them after 65,535, without a word.
const ROUNDS: usize = 50_000;

/// A pass on matrix units, in a software renderer's registers, or by the kernels for every other device.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Coop(attention_coop::Block),
    Simd(attention_simd::Block),
    Plain(Tile),
}

impl Way {
    /// What was measured to be the fastest for such a pass, or what the device's class has for it.
    pub fn choose(pass: Pass, device: &Device, sizes: &Sizes) -> Way {
        let head_dim = sizes.shape.head_dim;
        let product = || product(pass, device, sizes);
        if let Some(own) = attention_coop::choose(device, pass, head_dim) {
            return Way::Coop(tuned::choose(device, own, || own.all(pass, head_dim), product));
        }
        if let Some(block) = attention_simd::choose(device.caps(), head_dim) {
            return Way::Simd(block);
        }
        let own = Tile::choose(device.caps().class, pass, head_dim);
        Way::Plain(tuned::choose(device, own, || own.choices(head_dim), product))
    }

    /// Rows of a workgroup.
    pub fn rows(&self) -> usize {
        match self {
            Way::Coop(block) => block.rows(),
            Way::Simd(block) => block.rows(),
            Way::Plain(tile) => tile.rows(),
        }
    }

    /// How many keys, or for [`Pass::KeyValue`] tokens, one launch may walk over.
    pub fn longest(&self, pass: Pass, device: &Device, sizes: &Sizes) -> usize {
        if device.caps().class != DeviceClass::Software {
            return usize::MAX;
        }
        let columns = match self {
            Way::Coop(block) => ROUNDS * block.columns(),
            Way::Simd(block) => ROUNDS * block.columns(),
            Way::Plain(tile) => tile.longest(pass, sizes.shape.head_dim),
        };
        // keys meet all queries that share them
        let each = if pass == Pass::KeyValue { sizes.group() } else { 1 };
        (columns / each).max(1)
    }

    /// The kernel that reads and writes `bindings`.
    pub fn spec(&self, pass: Pass, device: &Device, shape: &AttentionShape, bindings: &[Slice]) -> KernelSpec {
        let (head_dim, softcap) = (shape.head_dim, shape.softcap.is_some());
        match *self {
            Way::Coop(block) => {
                let out16 = pass == Pass::Forward && bindings[OUT].half;
                attention_coop::spec(block, pass, head_dim, softcap, out16)
            }
            Way::Simd(block) => {
                let images = attention_simd::loads_images(device, pass, bindings);
                attention_simd::spec(block, pass, head_dim, softcap, images)
            }
            Way::Plain(tile) => tile.spec(pass, head_dim, softcap),
        }
    }
}

/// A pass as the table of measured tiles knows it.
fn product(pass: Pass, device: &Device, sizes: &Sizes) -> Product {
    let AttentionShape { heads, kv_heads, head_dim, span, .. } = sizes.shape;
    let family = match pass {
        Pass::Forward => Family::AttentionForward,
        Pass::Query => Family::AttentionQuery,
        Pass::KeyValue => Family::AttentionKeyValue,
    };
    let element = operands(device, head_dim);
    let mut product = tuned::product(family, Layout::Nt, [sizes.tokens, heads, head_dim], [element as u32, 0]);
    (product.key.count, product.key.span) = (kv_heads, span.unwrap_or(sizes.kv_rows).min(sizes.kv_rows));
    product.key = product.key.rounded();
    product
}
