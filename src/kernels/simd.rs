//! Products on software renderers: `shaders/matmul_simd.wgsl`. One subgroup makes a tile out of registers; the shader
//! says why that is twice as fast there as tiles in workgroup memory.
//!
//! A sparse adapter cannot be added to a tile that is only in registers, so a weight that has one beside it
//! ([`super::in_weight`] has those that are in it) is first written out as f32 with S added: one pass over W, some 5 % of a product with 256 tokens, in scratch memory of one weight.

use super::matmul::{Layout, MatmulParams, RosaVariant};
use super::sparse::SparseIndex;
use super::tile::Tile;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Caps, Cost, Device, DeviceClass, Feature, Grid, KernelSpec, Slice};
use crate::error::Result;
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// [`super::matmul::MATMUL`] in registers.
    MATMUL_SIMD, "matmul_simd", "matmul_simd.wgsl", MatmulParams,
    [read("a").image_if("A_IMAGE"), read("w").image_if("W_IMAGE"), write("c")],
    needs Subgroup Int64
);
kernel!(
    /// [`super::matmul::ROSA_LINEAR`] in registers, without the sparse part.
    ROSA_LINEAR_SIMD, "rosa_linear_simd", "matmul_simd.wgsl", MatmulParams,
    [read("a").image_if("A_IMAGE"), read("w").image_if("W_IMAGE"), read("u"), read("v"), read("bias"), write("c")],
    needs Subgroup Int64
);
kernel!(
    /// A weight as f32.
    DENSIFY, "densify", "densify.wgsl", DensifyParams, [read("w"), write("out")], needs Int64
);
kernel!(
    /// Adds the entries of S to a dense matrix.
    SPARSE_ADD, "sparse_add", "sparse_add.wgsl", SparseAddParams, [read("coords"), read("s_values"), write("out")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DensifyParams {
    grid: Grid,
    elements: u32,
    w_scales: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SparseAddParams {
    grid: Grid,
    nnz: u32,
    cols: u32,
}

/// Lanes of the device's subgroups if its products should run in registers.
pub(super) fn lanes(caps: &Caps) -> Option<u32> {
    let fits = caps.class == DeviceClass::Software
        && caps.has(Feature::Subgroup)
        && caps.has(Feature::Int64)
        && caps.subgroup_min == caps.subgroup_max
        && LANES.contains(&caps.subgroup_max);
    fits.then_some(caps.subgroup_max)
}

/// Sizes of subgroups that the tiles below are multiples of.
pub(super) const LANES: [u32; 2] = [4, 8];

/// Outputs of a workgroup. Accumulators of 32 × 32 fill the registers four times over, which costs less than loading
/// more; see BENCHMARKS.md.
const SQUARE: Tile = tile(32, 32);
const SMALL: Tile = tile(16, 32);
const NARROW: Tile = tile(64, 8);
const NARROW_16: Tile = tile(32, 16);
const FLAT: Tile = tile(8, 64);
const FLAT_16: Tile = tile(16, 64);

const fn tile(bm: u32, bn: u32) -> Tile {
    // threads hold whole vectors; k is only cut where a product is split
    Tile { bm, bn, bk: 16, tm: bm, tn: bn, unroll: 1, prefetch: 0 }
}

/// The tile for an output of `m × n`. A lane that decodes eight neighbours of a row of W owns eight columns, so tiles are wide.
pub(super) fn choose(layout: Layout, format: Option<WeightFormat>, m: usize, n: usize) -> Tile {
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

/// How a product loads its operands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loads {
    lanes: u32,
    /// Rows of A and of W can be read four elements at a time.
    vec: bool,
    a_image: bool,
    w_image: bool,
}

impl Loads {
    /// Images wherever the device has them and a lane of the tile owns whole texels of the operand. A packed weight is
    /// read word by word.
    pub fn choose(
        (device, lanes): (&Device, u32),
        (layout, tile): (Layout, Tile),
        vec: bool,
        a: &Slice,
        (w, format): (&Slice, WeightFormat),
    ) -> Loads {
        let (a_suits, w_suits) = images(lanes, layout, tile);
        Loads {
            lanes,
            vec,
            a_image: vec && a_suits && device.loads_image(a),
            w_image: vec && (w_suits || format != WeightFormat::F32) && device.loads_image(w),
        }
    }
}

/// Whether the lanes of a tile own whole texels of A and of W.
fn images(lanes: u32, layout: Layout, tile: Tile) -> (bool, bool) {
    let fours = |edge: u32| edge.is_multiple_of(4 * lanes);
    (layout != Layout::Tn || fours(tile.bm), layout == Layout::Nt || fours(tile.bn))
}

pub(super) fn matmul_spec(loads: Loads, layout: Layout, accumulate: bool, pair: bool, tile: Tile) -> KernelSpec {
    let mut consts = consts(loads, layout, accumulate, pair, tile);
    consts.push(("FUSED", 0));
    KernelSpec::new(&MATMUL_SIMD, consts)
}

/// `thin`: rows of U, V, A and B can be read two elements at a time.
pub(super) fn rosa_spec(loads: Loads, v: &RosaVariant, pair: bool, thin: bool) -> KernelSpec {
    let mut consts = consts(loads, v.layout, v.accumulate, pair, v.tile);
    consts.extend([("FUSED", 1), ("WFMT", v.format as u32), ("LOWRANK", v.low_rank.into()), ("BIAS", v.bias.into())]);
    consts.push(("THIN", thin.into()));
    KernelSpec::new(&ROSA_LINEAR_SIMD, consts)
}

fn consts(loads: Loads, layout: Layout, accumulate: bool, pair: bool, tile: Tile) -> Vec<(&'static str, u32)> {
    vec![
        ("SG", loads.lanes),
        ("BM", tile.bm),
        ("BN", tile.bn),
        ("LAYOUT", layout as u32),
        ("VEC", loads.vec.into()),
        ("A_IMAGE", loads.a_image.into()),
        ("W_IMAGE", loads.w_image.into()),
        ("ACCUMULATE", accumulate.into()),
        ("PAIR", pair.into()),
    ]
}

/// W + S as an f32 weight in scratch memory; the length of a row is a multiple of 4.
pub(super) fn merged(device: &Device, w: &Weight, index: &SparseIndex, values: &Tensor) -> Result<Weight> {
    let dense = Weight::empty(device, WeightFormat::F32, w.rows(), w.cols(), "scratch")?;
    let elements = w.rows() * w.cols();
    if w.format() == WeightFormat::F32 {
        device.copy(&w.slice(), &dense.slice())?;
    } else {
        let params = DensifyParams { elements: elements as u32, w_scales: w.scales_at(), ..Default::default() };
        let cost = Cost { flops: 2.0 * elements as f64, bytes: (w.slice().len + dense.slice().len) as f64 };
        let groups = elements.div_ceil(4 * 64) as u64;
        launch(device, &densify_spec(w.format()), &[w.slice(), dense.slice()], &params, groups, cost)?;
    }
    if index.nnz() > 0 {
        let params = SparseAddParams { nnz: index.nnz() as u32, cols: w.cols() as u32, ..Default::default() };
        let cost = Cost { flops: index.nnz() as f64, bytes: 20.0 * index.nnz() as f64 };
        let bindings = [index.coords()?.slice(), values.slice(), dense.slice()];
        launch(device, &sparse_add_spec(), &bindings, &params, index.nnz().div_ceil(64) as u64, cost)?;
    }
    Ok(dense)
}

fn densify_spec(format: WeightFormat) -> KernelSpec {
    KernelSpec::new(&DENSIFY, [("WFMT", format as u32), ("VEC", 1)])
}

fn sparse_add_spec() -> KernelSpec {
    KernelSpec::new(&SPARSE_ADD, [])
}

/// Every specialisation, but for what only touches the store (accumulate, pairs, bias): those take turns.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = vec![sparse_add_spec()];
    all.extend(WeightFormat::ALL.into_iter().filter(|f| *f != WeightFormat::F32).map(densify_spec));
    let tiles = [SQUARE, SMALL, NARROW, NARROW_16, FLAT, FLAT_16];
    // single elements, pairs, and images
    let ways = [(false, false), (true, false), (true, true)];
    for (lanes, tile, (vec, is_image)) in
        LANES.iter().flat_map(|&l| tiles.iter().flat_map(move |&t| ways.map(|v| (l, t, v))))
    {
        let loads = |layout, format| {
            let (a, w) = images(lanes, layout, tile);
            Loads { lanes, vec, a_image: is_image && a, w_image: is_image && (w || format != WeightFormat::F32) }
        };
        let mut turn = 0u32;
        let mut store = || {
            turn += 1;
            [turn & 1, turn & 2, turn & 4].map(|bit| bit != 0)
        };
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let [accumulate, pair, _] = store();
            all.push(matmul_spec(loads(layout, WeightFormat::F32), layout, accumulate, pair, tile));
        }
        for (layout, format) in [Layout::Nt, Layout::Nn].iter().flat_map(|&l| WeightFormat::ALL.map(|f| (l, f))) {
            // of the other formats one tile forward, and the widest backward
            let own = if layout == Layout::Nt { SMALL } else { FLAT_16 };
            if !format.is_in_every_combination() && tile != own {
                continue;
            }
            if format.is_quantised() && (!vec || layout == Layout::Nn && !decodes_in(format, tile)) {
                continue;
            }
            for low_rank in flags {
                let [accumulate, pair, bias] = store();
                let bias = bias && layout == Layout::Nt;
                let variant = RosaVariant {
                    layout,
                    vec: vec.into(),
                    accumulate,
                    format,
                    sparse: false,
                    low_rank,
                    thin4: false,
                    bias,
                    tile,
                };
                all.push(rosa_spec(loads(layout, format), &variant, pair, false));
                if low_rank {
                    all.push(rosa_spec(loads(layout, format), &variant, pair, true));
                }
            }
        }
    }
    all
}

/// Whether [`choose`] gives this tile to a backward product with a quantised weight.
fn decodes_in(format: WeightFormat, tile: Tile) -> bool {
    let wide = [FLAT, FLAT_16].contains(&tile);
    wide || format.unit() < 8 && [SQUARE, SMALL].contains(&tile)
}
