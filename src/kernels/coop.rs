//! Products on matrix units: `shaders/matmul_coop.wgsl`. Operands are rounded to f16 when a tile is loaded into workgroup memory
//! (relative error 2⁻¹¹ each; beyond ±65,504 they become infinite), sums are f32. [`super::precision`] says when they are used.

use super::kernel;
use super::plan::{MatmulParams, ProductPlan, RosaVariant};
use super::problem::Problem;
use super::target::CoopMatrix;
use super::tile::{Layout, Tile, all_on_units};
use crate::device::KernelSpec;
use crate::device::spec::{read, write};
use crate::tensor::WeightFormat;

kernel!(
    /// [`super::matmul::MATMUL`] on matrix units.
    MATMUL_COOP, "matmul_coop", "matmul_coop.wgsl", MatmulParams,
    [read("a").half_if("AFMT"), read("w").half_if("WFMT"), write("c")],
    needs F16 CoopMatrix
);
kernel!(
    /// [`super::matmul::ROSA_LINEAR`] on matrix units.
    ROSA_LINEAR_COOP, "rosa_linear_coop", "matmul_coop.wgsl", MatmulParams,
    [
        read("a").half_if("AFMT"), read("w"), read("s_index"), read("s_values"), read("u"), read("v"), read("bias"),
        write("c"),
    ],
    needs F16 CoopMatrix
);

kernel!(
    /// [`super::matmul::SDDMM_TILE`] on matrix units.
    SDDMM_COOP, "sddmm_coop", "matmul_coop.wgsl", MatmulParams,
    [read("a").half_if("AFMT"), read("w").half_if("WFMT"), read("s_index"), write("c")],
    needs F16 CoopMatrix
);

fn consts((units, tile): (CoopMatrix, Tile), layout: Layout, accumulate: bool, tail: bool) -> Vec<(&'static str, u32)> {
    vec![
        ("FRAG", units.fragment),
        ("LANES", units.lanes),
        ("BM", tile.bm),
        ("BN", tile.bn),
        ("BK", tile.bk),
        ("SM", tile.bm / tile.tm),
        ("SN", tile.bn / tile.tn),
        ("BAND", 8),
        ("LAYOUT", layout as u32),
        ("ACCUMULATE", accumulate.into()),
        ("TAIL", tail.into()),
    ]
}

/// Whether the last tile of k is not whole.
fn tail(k: usize, tile: Tile) -> bool {
    k == 0 || !k.is_multiple_of(tile.bk as usize)
}

fn matmul_spec(on: (CoopMatrix, Tile), layout: Layout, formats: [u32; 2], accumulate: bool, tail: bool) -> KernelSpec {
    let mut consts = consts(on, layout, accumulate, tail);
    consts.extend([("FUSED", 0), ("MASKED", 0), ("AFMT", formats[0]), ("WFMT", formats[1])]);
    KernelSpec::new(&MATMUL_COOP, consts)
}

/// The kernel of a dense product.
pub(super) fn dense_spec(units: CoopMatrix, plan: &ProductPlan, problem: &Problem, accumulate: bool) -> KernelSpec {
    let (formats, k) = (problem.formats.map(|f| f as u32), problem.shape[2]);
    matmul_spec((units, plan.tile), problem.layout, formats, accumulate, tail(k, plan.tile))
}

/// The kernel of a masked product.
pub(super) fn masked_spec(units: CoopMatrix, plan: &ProductPlan, problem: &Problem, accumulate: bool) -> KernelSpec {
    let (formats, k) = (problem.formats.map(|f| f as u32), problem.shape[2]);
    sddmm_spec((units, plan.tile), formats, k, accumulate)
}

fn sddmm_spec(on: (CoopMatrix, Tile), formats: [u32; 2], k: usize, accumulate: bool) -> KernelSpec {
    let mut consts = consts(on, Layout::Tn, accumulate, tail(k, on.1));
    consts.extend([("FUSED", 0), ("MASKED", 1), ("AFMT", formats[0]), ("WFMT", formats[1])]);
    KernelSpec::new(&SDDMM_COOP, consts)
}

pub(super) fn rosa_spec(units: CoopMatrix, v: &RosaVariant, x: u32, k: usize) -> KernelSpec {
    let mut consts = consts((units, v.tile), v.layout, v.accumulate, tail(k, v.tile));
    consts.extend([
        ("FUSED", 1),
        ("MASKED", 0),
        ("AFMT", x),
        ("WFMT", v.format as u32),
        ("SPARSE", v.sparse.into()),
        ("LOWRANK", if v.low_rank && v.thin4 { 2 } else { v.low_rank.into() }),
        ("BIAS", v.bias.into()),
    ]);
    KernelSpec::new(&ROSA_LINEAR_COOP, consts)
}

/// Every specialisation, but for what only touches the store or the end of k (accumulate, bias, tail): those take turns.
pub fn variants() -> Vec<KernelSpec> {
    let mut turn = 0u32;
    let mut turns = || {
        turn += 1;
        [turn & 1, turn & 2, turn & 4].map(|bit| bit != 0)
    };
    let mut all = Vec::new();
    for (units, tile) in CoopMatrix::ALL.iter().flat_map(|&u| all_on_units(u).iter().map(move |&t| (u, t))) {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            for formats in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                let [accumulate, tail, _] = turns();
                all.push(matmul_spec((units, tile), layout, formats, accumulate, tail));
            }
        }
        for (k, accumulate) in [(64, false), (64, true), (8, false), (8, true)] {
            let formats = [[0, 0], [0, 1], [1, 0], [1, 1]];
            all.extend(formats.map(|formats| sddmm_spec((units, tile), formats, k, accumulate)));
        }
        for (layout, format) in [Layout::Nt, Layout::Nn].iter().flat_map(|&l| WeightFormat::ALL.map(|f| (l, f))) {
            let parts = [(false, false, false), (true, true, true), (false, true, false), (false, true, true)];
            let parts = parts.into_iter().chain([(true, false, false), (true, true, false)]);
            // of the other formats only one tile, with an adapter and without
            if !format.is_in_every_combination() && tile != all_on_units(units)[0] {
                continue;
            }
            for (sparse, low_rank, thin4) in parts.take(if format.is_in_every_combination() { 6 } else { 2 }) {
                let [accumulate, tail, bias] = turns();
                let bias = bias && layout == Layout::Nt;
                let variant = RosaVariant { layout, vec: 1, accumulate, format, sparse, low_rank, thin4, bias, tile };
                all.extend([0, 1].map(|x| rosa_spec(units, &variant, x, if tail { 8 } else { 64 })));
            }
        }
    }
    all
}
