//! How a product is cut: its tiles, and the parts of k (split-K).

use super::target::CoopMatrix;
use super::tuned::Choice;
use crate::device::DeviceClass;
use crate::device::tiles::TileId;
use crate::tensor::WeightFormat;

/// Which operands are read transposed. `m`, `n`, `k` are as in `C[m, n] = Σk …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Layout {
    /// `A [m, k] · B [n, k]ᵀ`
    Nt = 0,
    /// `A [m, k] · B [k, n]`
    Nn = 1,
    /// `A [k, m]ᵀ · B [k, n]`
    Tn = 2,
}

/// Outputs a workgroup (`bm × bn`, `bk` of k at a time) and a thread (`tm × tn`; on matrix units a subgroup).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    pub bm: u32,
    pub bn: u32,
    pub bk: u32,
    pub tm: u32,
    pub tn: u32,
    /// Steps of the innermost loop in the text.
    pub unroll: u32,
    /// How a tile comes in: 0 operand by operand, 1 ahead of its turn in registers, 2 both operands at once.
    pub prefetch: u32,
}

const fn gpu(bm: u32, bn: u32, bk: u32, tm: u32, tn: u32, prefetch: u32) -> Tile {
    Tile { bm, bn, bk, tm, tn, unroll: 1, prefetch }
}

const fn software(bm: u32, bn: u32, bk: u32, tm: u32, tn: u32) -> Tile {
    Tile { bm, bn, bk, tm, tn, unroll: 4, prefetch: 0 }
}

/// The tiles of a device class, by the shape of the output.
pub(super) struct Tiles {
    /// From the largest: the first one that fills the device is taken.
    pub square: &'static [Tile],
    /// For at most 16 columns.
    pub narrow: Tile,
    /// For at most 16 rows.
    pub flat: Tile,
    /// Workgroups that fill the device.
    pub fill: u64,
    /// Large tiles that a large GPU of the class has running at once, where that is known.
    room: Option<u64>,
}

pub(super) static DISCRETE: Tiles = Tiles {
    square: &[gpu(128, 128, 16, 16, 8, 0), gpu(64, 64, 16, 8, 4, 1), gpu(32, 32, 32, 4, 4, 1)],
    narrow: gpu(64, 16, 16, 4, 4, 0),
    flat: gpu(16, 64, 16, 4, 4, 0),
    fill: 128,
    room: Some(396),
};

/// Fewer registers a thread.
pub(super) static INTEGRATED: Tiles = Tiles {
    square: &[gpu(128, 128, 16, 8, 8, 0), gpu(64, 64, 16, 4, 4, 0), gpu(32, 32, 32, 4, 4, 1)],
    narrow: gpu(64, 16, 16, 4, 4, 0),
    flat: gpu(16, 64, 16, 4, 4, 0),
    fill: 128,
    room: None,
};

/// Where subgroups or 64-bit integers are missing; see [`in_registers`] for the others.
pub(super) static SOFTWARE: Tiles = Tiles {
    square: &[software(64, 64, 16, 8, 8), software(32, 32, 16, 8, 8)],
    narrow: software(64, 16, 16, 8, 4),
    flat: software(16, 64, 16, 4, 8),
    fill: 2,
    room: None,
};

pub(super) fn tiles(class: DeviceClass) -> &'static Tiles {
    match class {
        DeviceClass::Software => &SOFTWARE,
        DeviceClass::Integrated => &INTEGRATED,
        DeviceClass::Discrete => &DISCRETE,
    }
}

impl Tiles {
    /// Whether an output of so many large tiles keeps the device busy with them: neither are there few of them a processor,
    /// nor does a last turn run with most processors idle.
    fn suits(&self, groups: u64) -> bool {
        match self.room {
            Some(room) if groups <= room => groups >= room / 2,
            Some(room) => groups * 4 >= groups.div_ceil(room) * room * 3,
            None => groups >= self.fill,
        }
    }
}

impl Tile {
    /// The tile for an output of `m × n` that sums over `k`; 0 where the sum cannot be split.
    pub fn choose(class: DeviceClass, m: usize, n: usize, k: usize) -> Tile {
        let tiles = tiles(class);
        if n <= 16 {
            return tiles.narrow;
        }
        if m <= 16 {
            return tiles.flat;
        }
        // a long k is split, so that few large tiles fill a device too
        let is_split = class != DeviceClass::Software && k >= SPLIT_K;
        let large = tiles.square[0];
        let fills = |t: &&Tile| {
            let parts = if is_split { splits(tiles.fill, **t, m, n, k) } else { 1 };
            let groups = t.groups(m, n) * parts as u64;
            m.min(n) >= t.bm as usize / 2 && if **t == large { tiles.suits(groups) } else { groups >= tiles.fill }
        };
        let last = tiles.square[tiles.square.len() - 1];
        *tiles.square.iter().find(fills).unwrap_or(&last)
    }

    pub(super) fn groups(&self, m: usize, n: usize) -> u64 {
        (m.div_ceil(self.bm as usize) * n.div_ceil(self.bn as usize)) as u64
    }

    pub(super) fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("BM", self.bm),
            ("BN", self.bn),
            ("BK", self.bk),
            ("TM", self.tm),
            ("TN", self.tn),
            ("UNROLL", self.unroll),
            ("PREFETCH", self.prefetch),
        ]
    }
}

/// Products with few outputs and a long k are split along k, each part by its own workgroups.
/// `fill` workgroups fill the device.
pub(super) fn splits(fill: u64, tile: Tile, m: usize, n: usize, k: usize) -> usize {
    let fill = fill * 2;
    let groups = tile.groups(m, n);
    let longest = k / (8 * tile.bk as usize);
    if groups * 2 > fill || longest < 2 {
        return 1;
    }
    // whole tiles of k a part, so the number of parts follows from the length of one
    let wanted = (fill.div_ceil(groups) as usize).min(longest).min(64);
    k.div_ceil(k.div_ceil(wanted).next_multiple_of(tile.bk as usize))
}

/// From this k on a product with few outputs is worth splitting, with plain kernels on a GPU.
pub(super) const SPLIT_K: usize = 512;

/// From this k on it is so on matrix units, at any cost of adding the parts up.
pub(super) const LONG_K: usize = 4096;

/// The longest k that a thread sums over on a software renderer. Mesa's ends all loops of a thread after 65,535 rounds
/// together, without a word; of the smallest tiles, 16 values of k take 30.
pub(super) const LONGEST_K: usize = 16 << 10;

/// Into how many parts a k of this length must be split.
pub(super) fn least_splits(class: DeviceClass, k: usize) -> usize {
    if class == DeviceClass::Software { k.div_ceil(LONGEST_K).max(1) } else { 1 }
}

impl Choice for Tile {
    fn id(&self) -> TileId {
        let Tile { bm, bn, bk, tm, tn, unroll, prefetch } = *self;
        [bm, bn, bk, tm, tn, unroll, prefetch]
    }
}

/// The tiles of products in registers. Accumulators of 32 × 32 fill the registers four times over, which costs less than loading
/// more; see docs/notes/products.md.
pub(super) mod registers {
    use super::Tile;

    pub const SQUARE: Tile = tile(32, 32);
    pub const SMALL: Tile = tile(16, 32);
    pub const NARROW: Tile = tile(64, 8);
    pub const NARROW_16: Tile = tile(32, 16);
    pub const FLAT: Tile = tile(8, 64);
    pub const FLAT_16: Tile = tile(16, 64);

    const fn tile(bm: u32, bn: u32) -> Tile {
        // threads hold whole vectors; k is only cut where a product is split
        Tile { bm, bn, bk: 16, tm: bm, tn: bn, unroll: 1, prefetch: 0 }
    }
}

/// The tile in registers for an output of `m × n`. A lane that decodes eight neighbours of a row of W owns eight
/// columns, so tiles are wide.
pub(super) fn in_registers(layout: Layout, format: Option<WeightFormat>, m: usize, n: usize) -> Tile {
    use registers::{FLAT, FLAT_16, NARROW, NARROW_16, SMALL, SQUARE};
    let wide = layout == Layout::Nn && format.is_some_and(|f| f.unit() == 8);
    match (m, n) {
        (_, ..=8) if !wide => NARROW,
        (_, ..=16) if !wide => NARROW_16,
        (..=8, _) => FLAT,
        _ if wide || m <= 16 => FLAT_16,
        _ if SQUARE.groups(m, n) < 8 => SMALL,
        _ => SQUARE,
    }
}

/// The tiles of products on matrix units: outputs of a workgroup and of a subgroup; see docs/notes/products.md for what was tried.
pub(super) mod units {
    use super::Tile;

    pub const LARGE: Tile = tile(128, 128, 32, 64, 64);
    /// Rows of 64 halves fill a cache line, which pays where both operands are f16 and lie along k.
    pub const LARGE_DEEP: Tile = tile(128, 128, 64, 32, 64);
    /// For widths that leave much of the last large tile empty, 576 among them.
    pub const NARROW: Tile = tile(128, 96, 32, 64, 48);
    pub const MEDIUM: Tile = tile(64, 64, 32, 32, 32);
    /// Software renderers compile as long as a tile's text is.
    pub const SMALL: Tile = tile(32, 32, 32, 16, 16);
    /// Workgroups from which on the large tiles keep a device busy.
    pub const FILL: u64 = 96;
    /// Workgroups that a large GPU has running at once, two a processor.
    pub const ROOM: u64 = 264;

    const fn tile(bm: u32, bn: u32, bk: u32, tm: u32, tn: u32) -> Tile {
        Tile { bm, bn, bk, tm, tn, unroll: 1, prefetch: 0 }
    }
}

/// The tiles of products on these matrix units; each can make every product.
pub(super) fn all_on_units(on: CoopMatrix) -> &'static [Tile] {
    use units::{LARGE, LARGE_DEEP, MEDIUM, NARROW, SMALL};
    match on {
        CoopMatrix { lanes: 8, .. } => &[SMALL],
        CoopMatrix { fragment: 8, .. } => &[LARGE, MEDIUM],
        _ => &[LARGE, LARGE_DEEP, NARROW, MEDIUM],
    }
}

/// The tile on these matrix units for a product `[m, n, k]`; `halves` where both operands are stored as f16.
pub(super) fn on_units(on: CoopMatrix, layout: Layout, halves: bool, [m, n, k]: [usize; 3]) -> Tile {
    use units::{FILL, LARGE, LARGE_DEEP, MEDIUM, NARROW, SMALL};
    // a long k is split, so that few large tiles fill a device too
    let parts = if m.min(n) >= 96 && k >= LONG_K { (k / LONG_K * 16) as u64 } else { 1 };
    match (layout, halves) {
        _ if on.lanes == 8 => SMALL,
        _ if on.fragment == 16 && narrow(m, n) => NARROW,
        _ if LARGE.groups(m, n) * parts < FILL => MEDIUM,
        (Layout::Nt, true) if on.fragment == 16 => LARGE_DEEP,
        _ => LARGE,
    }
}

/// Whether [`units::NARROW`] leaves fewer columns empty than [`units::LARGE`], and all of its workgroups are running at once: one
/// more turn for a few of them would cost more than is saved.
fn narrow(m: usize, n: usize) -> bool {
    use units::{FILL, LARGE, NARROW, ROOM};
    let columns = |tile: Tile| n.next_multiple_of(tile.bn as usize);
    (FILL..=ROOM).contains(&NARROW.groups(m, n)) && columns(NARROW) < columns(LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edges of a discrete GPU's tile, and the parts of k.
    fn chosen(m: usize, n: usize, k: usize) -> (u32, usize) {
        let tile = Tile::choose(DeviceClass::Discrete, m, n, k);
        (tile.bm, splits(DISCRETE.fill, tile, m, n, k))
    }

    #[test]
    fn large_tiles_are_for_outputs_that_keep_a_gpu_busy_with_them() {
        // 256, 768 and 4,096 of them; 160 are too few, and of 512 the last turn would be short
        assert_eq!([960, 3072, 16384].map(|n| chosen(4096, n, 0).0), [128; 3]);
        assert_eq!([576, 2048].map(|n| chosen(4096, n, 0).0), [64; 2]);
        assert_eq!(chosen(130, 130, 64).0, 32);
    }

    #[test]
    fn few_outputs_of_a_long_sum_are_made_in_parts() {
        assert_eq!(chosen(512, 576, 3072), (128, 13));
        assert_eq!([chosen(512, 576, 576), chosen(512, 576, 256)], [(64, 4), (32, 1)]);
        assert_eq!(chosen(512, 2048, 2048), (128, 4));
        assert_eq!(chosen(248, 576, 49152).0, 128);
    }

    #[test]
    fn the_tile_on_units_follows_from_what_fills_a_device_and_its_last_columns() {
        use units::{LARGE, MEDIUM, NARROW, SMALL};
        let [nvidia, apple, mesa] = CoopMatrix::ALL;
        let pick = |on, m, n| on_units(on, Layout::Nn, false, [m, n, 576]);
        for (m, n, tile) in [
            (4096, 576, NARROW), // 192 workgroups, no column to spare
            (4096, 960, LARGE),  // 320 of them, more than are running at once
            (4096, 768, LARGE),  // neither has a column to spare
            (2048, 576, NARROW), // 96, where the large tile would have 80
            (1024, 576, MEDIUM), // too few of either
            (4096, 3072, LARGE),
            (1304, 1288, NARROW), // as the self-test has it
            (1304, 1400, LARGE),
        ] {
            assert_eq!(pick(nvidia, m, n), tile, "{m} x {n}");
        }
        assert_eq!((pick(apple, 4096, 576), pick(mesa, 4096, 576)), (LARGE, SMALL));
    }
}
