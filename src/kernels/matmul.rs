//! Products out of tiles in workgroup memory, which every device can compute: `shaders/matmul.wgsl`.

use super::kernel;
use super::plan::{MatmulParams, ProductPlan, RosaVariant};
use super::problem::Problem;
use super::tile::{DISCRETE, INTEGRATED, Layout, SOFTWARE, Tile};
use crate::device::KernelSpec;
use crate::device::spec::{read, write};
use crate::tensor::WeightFormat;

kernel!(
    /// `C = scale · op(A) · op(B)` on f32 operands.
    MATMUL, "matmul", "matmul.wgsl", MatmulParams, [read("a"), read("b"), write("c")]
);
kernel!(
    /// The product with a frozen weight, its sparse and low-rank adapter and bias in one pass.
    ROSA_LINEAR, "rosa_linear", "matmul.wgsl", MatmulParams,
    [read("a"), read("w"), read("s_index"), read("s_values"), read("u"), read("v"), read("bias"), write("c")]
);
kernel!(
    /// The sparse gradient as a dense product of which the masked entries are kept.
    SDDMM_TILE, "sddmm_tile", "matmul.wgsl", MatmulParams, [read("a"), read("b"), read("s_index"), write("c")]
);
/// The kernel of a dense product.
pub(super) fn dense_spec(plan: &ProductPlan, problem: &Problem, accumulate: bool) -> KernelSpec {
    matmul_spec(problem.layout, plan.vec4, accumulate, plan.tile)
}

/// The kernel of a masked product.
pub(super) fn masked_spec(plan: &ProductPlan, accumulate: bool) -> KernelSpec {
    sddmm_spec(plan.vec4, accumulate, plan.tile)
}

fn sddmm_spec(vec: u32, accumulate: bool, tile: Tile) -> KernelSpec {
    let spec = matmul_spec(Layout::Tn, vec, accumulate, tile);
    let consts = spec.consts.into_iter().filter(|c| c.0 != "MASKED").chain([("MASKED", 1)]).collect::<Vec<_>>();
    KernelSpec::new(&SDDMM_TILE, consts)
}

fn matmul_spec(layout: Layout, vec: u32, accumulate: bool, tile: Tile) -> KernelSpec {
    // a gradient's rows are stored one by one: with whole vectors the same tile is slower (39 instead of 42 TFLOP/s)
    let vec = if layout == Layout::Tn { vec.min(1) } else { vec };
    // of the largest tiles; docs/notes/products.md has what each makes of the others
    let tile = match layout {
        _ if tile.tm != 16 => tile,
        Layout::Nt => Tile { prefetch: 1, ..tile },
        Layout::Nn => Tile { unroll: 4, ..tile },
        Layout::Tn => Tile { prefetch: 2, ..tile },
    };
    let mut consts = tile.consts();
    let accumulate = u32::from(accumulate);
    consts.extend([("LAYOUT", layout as u32), ("VEC", vec), ("ACCUMULATE", accumulate)]);
    consts.extend([("FUSED", 0), ("MASKED", 0)]);
    KernelSpec::new(&MATMUL, consts)
}

pub(super) fn rosa_spec(v: &RosaVariant) -> KernelSpec {
    // of the largest tiles, as above: four steps of k, but where they are slower (docs/notes/products.md, "Plain kernels")
    let as_it_is = v.low_rank && v.vec == 2 && !v.sparse && (v.layout == Layout::Nt || v.format == WeightFormat::F32);
    let unroll = if v.tile.tm == 16 && !as_it_is { 4 } else { v.tile.unroll };
    let mut consts = Tile { unroll, ..v.tile }.consts();
    consts.extend([
        ("LAYOUT", v.layout as u32),
        ("VEC", v.vec),
        ("ACCUMULATE", v.accumulate.into()),
        ("FUSED", 1),
        ("MASKED", 0),
        ("WFMT", v.format as u32),
        ("SPARSE", v.sparse.into()),
        ("LOWRANK", v.low_rank.into()),
        ("BIAS", v.bias.into()),
    ]);
    KernelSpec::new(&ROSA_LINEAR, consts)
}

/// Values of [`RosaVariant::vec`].
const VECS: [u32; 3] = [0, 1, 2];

/// Every specialisation, on every device class.
pub fn variants() -> Vec<KernelSpec> {
    let mut tiles: Vec<Tile> = Vec::new();
    for t in [&DISCRETE, &INTEGRATED, &SOFTWARE] {
        tiles.extend(t.square);
        tiles.extend([t.narrow, t.flat]);
    }
    let flags = [false, true];
    let mut all = Vec::new();
    for &tile in &tiles {
        for (vec, accumulate) in VECS.iter().flat_map(|&v| flags.map(|a| (v, a))) {
            let layouts = [Layout::Nt, Layout::Nn, Layout::Tn].into_iter().filter(|l| vec < 2 || *l != Layout::Tn);
            all.extend(layouts.map(|l| matmul_spec(l, vec, accumulate, tile)));
            if vec < 2 && [&DISCRETE, &INTEGRATED].iter().any(|t| t.square.contains(&tile)) {
                all.push(sddmm_spec(vec, accumulate, tile));
            }
        }
        for layout in [Layout::Nt, Layout::Nn] {
            for format in WeightFormat::ALL.into_iter().filter(|f| f.is_in_every_combination()) {
                for (bits, vec) in (0..16u32).flat_map(|bits| VECS.map(|vec| (bits, vec))) {
                    let bit = |i: u32| bits >> i & 1 == 1;
                    let (accumulate, sparse, low_rank, bias) = (bit(0), bit(1), bit(2), bit(3));
                    if (bias && layout == Layout::Nn) || (format.is_quantised() && vec == 0) {
                        continue;
                    }
                    let variant =
                        RosaVariant { layout, vec, accumulate, format, sparse, low_rank, thin4: false, bias, tile };
                    all.push(rosa_spec(&variant));
                }
            }
        }
    }
    all.extend(few_of_other_formats(&tiles));
    all
}

/// Each of the other formats in each layout, with S and without; the rest takes turns.
fn few_of_other_formats(tiles: &[Tile]) -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for format in WeightFormat::ALL.into_iter().filter(|f| !f.is_in_every_combination()) {
        for (layout, sparse) in [Layout::Nt, Layout::Nn].into_iter().flat_map(|l| [false, true].map(|s| (l, s))) {
            let turn = all.len();
            let (accumulate, low_rank, tile) = (turn % 2 == 1, turn % 4 > 1, tiles[turn % tiles.len()]);
            let (vec, bias) = (1 + turn as u32 / 2 % 2, turn % 8 > 3 && layout == Layout::Nt);
            let v = RosaVariant { layout, vec, accumulate, format, sparse, low_rank, thin4: false, bias, tile };
            all.push(rosa_spec(&v));
        }
    }
    all
}
