//! Products on software renderers: `shaders/matmul_simd.wgsl`. One subgroup makes a tile out of registers; the shader
//! says why that is twice as fast there as tiles in workgroup memory.

use super::kernel;
use super::plan::{MatmulParams, ProductPlan, RosaVariant};
use super::problem::Problem;
use super::target::LANES;
use super::tile::registers::{FLAT, FLAT_16, NARROW, NARROW_16, SMALL, SQUARE};
use super::tile::{Layout, Tile};
use crate::device::spec::{read, write};
use crate::device::{Device, KernelSpec, Slice};
use crate::tensor::WeightFormat;

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
    pub fn of(
        device: &Device,
        lanes: u32,
        plan: &ProductPlan,
        problem: &Problem,
        [a, w]: &[Slice; 2],
        format: WeightFormat,
    ) -> Loads {
        let (a_suits, w_suits) = images(lanes, problem.layout, plan.tile);
        let vec = plan.vec4 > 0;
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

/// The kernel of a dense product.
pub(super) fn dense_spec(loads: Loads, plan: &ProductPlan, problem: &Problem, accumulate: bool) -> KernelSpec {
    matmul_spec(loads, problem.layout, accumulate, plan.stores_vec2, plan.tile)
}

fn matmul_spec(loads: Loads, layout: Layout, accumulate: bool, pair: bool, tile: Tile) -> KernelSpec {
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

/// Every specialisation, but for what only touches the store (accumulate, pairs, bias): those take turns.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = Vec::new();
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

/// Whether [`in_registers`](super::tile::in_registers) gives this tile to a backward product with a quantised weight.
fn decodes_in(format: WeightFormat, tile: Tile) -> bool {
    let wide = [FLAT, FLAT_16].contains(&tile);
    wide || format.unit() < 8 && [SQUARE, SMALL].contains(&tile)
}
