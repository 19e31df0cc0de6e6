//! How a product is computed: by which kernels, in which tiles, where its weight is decoded and its sparse adapter added.
//!
//! [`ProductPlan::choose`] is a function of the device's [`Target`], of the [`Problem`] and of what was measured, and the only
//! place that asks which class a device is of, whether it has matrix units, or how many tokens make something worth while.
//! [`super::product`] carries a plan out.

use super::problem::{Kind, Linear, Problem};
use super::target::{CoopMatrix, Target};
use super::tile::{self, LONG_K, LONGEST_K, Layout, SPLIT_K, Tile, least_splits, splits, tiles};
use super::tuned::{self, Measured};
use crate::device::tiles::{Family, Product};
use crate::device::{DeviceClass, Grid, Precision};
use crate::tensor::{Element, WeightFormat};
use bytemuck::{Pod, Zeroable};
use std::fmt;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Threads, out of tiles in workgroup memory: every device can.
    Tiled,
    /// Subgroups of a software renderer, out of registers.
    Registers { lanes: u32 },
    /// Matrix units.
    CoopMatrix(CoopMatrix),
    /// A library of the backend's (cuBLASLt): no kernel of ours.
    Library,
}

/// Where S is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SparseAt {
    /// There is none, or the weight holds it.
    Nowhere,
    /// To each tile of W, behind its decoding.
    Tile,
    /// To the copy of W in scratch memory.
    Scratch,
    /// To the output, by a sparse product of its own (SpMM).
    Separate,
}

/// How a product is computed. [`fmt::Display`] says it in a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductPlan {
    pub execution: Execution,
    pub tile: Tile,
    /// Parts along k, each of which goes to a copy of the output (split-K), and the length of one.
    pub parts: usize,
    pub k_per_part: usize,
    /// The format that the whole weight is decoded to first; none where each tile decodes its own part.
    pub scratch: Option<WeightFormat>,
    pub sparse: SparseAt,
    /// What is read and written four elements at a time: nothing (0), operands (1), everything (2).
    pub vec4: u32,
    /// Columns of the output can be stored two at a time.
    pub stores_vec2: bool,
    /// Elements of a row of U, V, A and B that can be read at a time: 1, 2 or 4. 0 without a low-rank part.
    pub low_rank_width: u32,
}

/// Fewer rows or columns than this waste most of a tile on matrix units.
pub(super) const COOP_LEAST: usize = 32;
/// Elements of W that a software renderer merges with S (decoded to f32, and S added) in the time in which it multiplies one entry of S
/// by one token: an estimate, see docs/notes/software-renderer.md, "Few rows".
pub(super) const MERGED_PER_ENTRY: f64 = 1.0;
/// Tokens from which on decoding the weight once is faster than in each tile, with S and without; see docs/notes/formats.md.
pub(super) const SCRATCH_TOKENS_SPARSE: usize = 768;
pub(super) const SCRATCH_TOKENS: usize = 2048;
/// The same with formats that are dear to decode, with S or without.
pub(super) const SCRATCH_TOKENS_DEAR: usize = 256;
/// Columns of the output from which on an operand of f32 is rounded to f16 ahead of a library's product: the copy takes the time of some
/// 200 columns on an H200 (6 bytes an element at 4.3 TB/s, two operations an element and column at 600 TFLOP/s).
const ROUNDED_COLUMNS: usize = 512;
/// Bytes of such a copy at most: larger matrices are decoded in tiles.
pub(super) const SCRATCH_BYTES: u64 = 384 << 20;

impl ProductPlan {
    /// The plan for `problem` on a device like `target`.
    pub(super) fn choose(target: &Target, problem: &Problem, measured: Measured<'_>) -> ProductPlan {
        ProductPlan::by(execution(target, problem), target, problem, measured)
    }

    /// The plan for `problem` where it is known what multiplies.
    pub(super) fn by(execution: Execution, target: &Target, problem: &Problem, measured: Measured<'_>) -> ProductPlan {
        let (scratch, sparse) = weight(execution, target, problem);
        let read = [problem.formats[0], scratch.unwrap_or(problem.formats[1])];
        let own = own_tile(execution, target, problem, read);
        let tile = measured_tile(own, (execution, sparse), target, (problem, read), measured);
        let parts = parts(execution, target, problem, tile);
        let k = problem.shape[2];
        let k_per_part = if parts > 1 { k.div_ceil(parts).next_multiple_of(tile.bk as usize) } else { k };
        let low_rank = problem.low_rank();
        let all_vec4 = problem.stores(4) && low_rank.is_none_or(|l| l.is_multiple_of(4));
        ProductPlan {
            execution,
            tile,
            parts: if parts > 1 { k.div_ceil(k_per_part) } else { 1 },
            k_per_part,
            scratch,
            sparse,
            vec4: match problem.reads_vec4() {
                true if all_vec4 && problem.kind != Kind::Masked => 2,
                vec4 => vec4.into(),
            },
            stores_vec2: problem.stores(2),
            low_rank_width: low_rank.map_or(0, |l| [4, 2].into_iter().find(|w| l.is_multiple_of(*w)).unwrap_or(1))
                as u32,
        }
    }

    pub(super) fn params(&self, problem: &Problem, scale: f32) -> MatmulParams {
        let [m, n, k] = problem.shape.map(|l| l as u32);
        let low_rank = problem.low_rank().map_or([0; 3], |l| [l.rank, l.stride, l.column].map(|x| x as u32));
        let [rank, u_stride, u_column] = low_rank;
        MatmulParams {
            m,
            n,
            k,
            c_stride: problem.stride_column.0 as u32,
            c_column: problem.stride_column.1 as u32,
            splits: self.parts as u32,
            k_per_split: self.k_per_part as u32,
            scale: if self.parts == 1 { scale } else { 1.0 },
            rank,
            u_stride,
            u_column,
            ..Default::default()
        }
    }

    /// Workgroups of its launch.
    pub(super) fn groups(&self, problem: &Problem) -> u64 {
        self.tile.groups(problem.shape[0], problem.shape[1]) * self.parts as u64
    }

    /// What specialises a linear's kernel.
    pub(super) fn variant(&self, problem: &Problem, format: WeightFormat, accumulate: bool) -> RosaVariant {
        RosaVariant {
            layout: problem.layout,
            vec: self.vec4,
            accumulate,
            format,
            sparse: self.sparse == SparseAt::Tile,
            low_rank: self.low_rank_width > 0,
            thin4: self.low_rank_width == 4,
            bias: problem.bias(),
            tile: self.tile,
        }
    }
}

/// What should multiply.
fn execution(target: &Target, problem: &Problem) -> Execution {
    if target.has_gemm && suits_library(target, problem) {
        return Execution::Library;
    }
    if let Some(units) = target.used_coop_matrix().filter(|_| suits_coop_matrix(problem)) {
        return Execution::CoopMatrix(units);
    }
    match target.lanes {
        Some(lanes) if suits_registers(problem) => Execution::Registers { lanes },
        _ => Execution::Tiled,
    }
}

/// Matrix units load rows of operands eight elements at a time, and store four.
fn suits_coop_matrix(problem: &Problem) -> bool {
    let [m, n, _] = problem.shape;
    let (stride, column) = problem.stride_column;
    m.min(n) >= COOP_LEAST
        && problem.row_lengths.iter().all(|l| l.is_multiple_of(8))
        && [stride, column].iter().all(|x| x.is_multiple_of(4))
}

/// What the library reads: numbers as the precision wants them.
fn library_format(target: &Target) -> WeightFormat {
    match target.precision {
        Precision::F16 => WeightFormat::F16,
        Precision::F32 => WeightFormat::F32,
    }
}

/// The library adds nothing to W and decodes nothing: a weight that wants either is written to scratch memory before. Rows begin
/// where sixteen bytes do, as its kernels want it.
fn suits_library(target: &Target, problem: &Problem) -> bool {
    let ([m, n, _], (stride, column)) = (problem.shape, problem.stride_column);
    let wanted = library_format(target);
    let row = if wanted == WeightFormat::F16 { 8 } else { 4 };
    let aligned = problem.row_lengths.iter().all(|l| l.is_multiple_of(row))
        && [stride, column].iter().all(|x| x.is_multiple_of(4));
    let weight = match &problem.kind {
        Kind::Masked => false,
        Kind::Dense => problem.formats[1] == wanted,
        Kind::Linear(linear) if problem.formats[1] == wanted => linear.sparse.is_none(),
        Kind::Linear(_) => library_scratch(target, problem).is_some(),
    };
    let rounds = matches!(problem.kind, Kind::Linear(_)) && wanted == WeightFormat::F16 && n >= ROUNDED_COLUMNS;
    let first = problem.formats[0] == wanted || (rounds && problem.formats[0] == WeightFormat::F32);
    m.min(n) >= COOP_LEAST && aligned && first && weight
}

/// What the weight is written to, with S, for the library to read; none where it is read as it is, or that would not pay.
fn library_scratch(target: &Target, problem: &Problem) -> Option<WeightFormat> {
    let ([tokens, n, k], format, to) = (problem.shape, problem.formats[1], library_format(target));
    let decodes = format != to && (to == WeightFormat::F32 || format.is_quantised());
    let fits = to.bytes((n * k) as u64) <= SCRATCH_BYTES.min(target.max_bytes);
    let pays = tokens >= SCRATCH_TOKENS_DEAR && problem.row_lengths[1].is_multiple_of(8);
    (decodes && fits && pays && !target.separate_sparse).then_some(to)
}

fn suits_registers(problem: &Problem) -> bool {
    let k = problem.shape[2];
    match &problem.kind {
        Kind::Dense => true,
        Kind::Masked => false,
        // that shader does not split k, and takes fewer rounds for it; S cannot be added to a tile that is only in registers, and
        // is written out with W only where rows can be read four elements at a time
        Kind::Linear(linear) => {
            (problem.reads_vec4() || !problem.formats[1].is_quantised())
                && k <= 4 * LONGEST_K
                && linear.sparse.is_none_or(|nnz| problem.reads_vec4() || sparse_product_pays(problem, nnz))
        }
    }
}

/// Whether a copy of the weight in f32 fits into a binding.
fn fits_f32(target: &Target, problem: &Problem) -> bool {
    let [_, n, k] = problem.shape;
    WeightFormat::F32.bytes((n * k) as u64) <= target.max_bytes
}

/// Whether, in registers, a sparse product behind that of the weight costs less than the copy of W + S that would do without it.
fn sparse_product_pays(problem: &Problem, nnz: usize) -> bool {
    let [m, n, k] = problem.shape.map(|l| l as f64);
    MERGED_PER_ENTRY * nnz as f64 * m <= n * k
}

/// What the weight is decoded to before its product, and where S goes.
fn weight(execution: Execution, target: &Target, problem: &Problem) -> (Option<WeightFormat>, SparseAt) {
    let Kind::Linear(linear) = &problem.kind else { return (None, SparseAt::Nowhere) };
    let scratch = match (execution, linear.sparse) {
        (Execution::Registers { .. }, None) => None,
        (Execution::Registers { .. }, Some(nnz)) if sparse_product_pays(problem, nnz) || !fits_f32(target, problem) => {
            return (None, SparseAt::Separate);
        }
        (Execution::Registers { .. }, Some(_)) => Some(WeightFormat::F32),
        (Execution::Library, _) => library_scratch(target, problem),
        _ => scratch_for_tokens(execution, target, problem, linear),
    };
    let sparse = match (linear.sparse, scratch) {
        (None, _) => SparseAt::Nowhere,
        (Some(_), Some(_)) => SparseAt::Scratch,
        (Some(_), None) => SparseAt::Tile,
    };
    (scratch, sparse)
}

/// Each of a GPU's tiles decodes its part of W and adds its entries of S, and so does each of the tiles that make other tokens'
/// outputs; for many tokens that is done once.
fn scratch_for_tokens(
    execution: Execution,
    target: &Target,
    problem: &Problem,
    linear: &Linear,
) -> Option<WeightFormat> {
    let ([tokens, n, k], format) = (problem.shape, problem.formats[1]);
    let on_units = matches!(execution, Execution::CoopMatrix(_));
    let to = if on_units { WeightFormat::F16 } else { WeightFormat::F32 };
    let from = match linear.sparse {
        _ if format.is_dear_to_decode() => SCRATCH_TOKENS_DEAR,
        Some(_) => SCRATCH_TOKENS_SPARSE,
        None => SCRATCH_TOKENS,
    };
    let fits = to.bytes((n * k) as u64) <= SCRATCH_BYTES.min(target.max_bytes);
    // on matrix units f16 weights hold S themselves
    let costs = format.is_quantised() || (!on_units && linear.sparse.is_some() && format != WeightFormat::F32);
    let takes = on_units || !target.is_software();
    let pays = costs && takes && fits && problem.row_lengths[1].is_multiple_of(8) && tokens >= from;
    (pays && !target.separate_sparse).then_some(to)
}

/// The tile that the device's class has for the product, whose operands its kernel reads in these formats.
fn own_tile(execution: Execution, target: &Target, problem: &Problem, read: [WeightFormat; 2]) -> Tile {
    let ([m, n, k], layout) = (problem.shape, problem.layout);
    match (execution, problem.kind) {
        (Execution::Library, _) => Tile::choose(target.class, m, n, 0),
        (Execution::Registers { .. }, Kind::Linear(_)) => tile::in_registers(layout, Some(read[1]), m, n),
        (Execution::Registers { .. }, _) => tile::in_registers(layout, None, m, n),
        (Execution::CoopMatrix(units), Kind::Dense) => {
            tile::on_units(units, layout, read == [WeightFormat::F16; 2], problem.shape)
        }
        (Execution::CoopMatrix(units), _) => tile::on_units(units, layout, false, problem.shape),
        (Execution::Tiled, Kind::Masked) => {
            // split along the tokens, a large tile fills the device as a small one would, and loads less
            let square = tiles(target.class).square;
            let fits = |t: &&Tile| m >= 2 * t.bm as usize && n >= 2 * t.bn as usize;
            *square.iter().find(fits).unwrap_or(&square[square.len() - 1])
        }
        (Execution::Tiled, _) => Tile::choose(target.class, m, n, if problem.can_split() { k } else { 0 }),
    }
}

/// The tile that was measured to be the fastest for the product, or its own.
fn measured_tile(
    own: Tile,
    (execution, sparse): (Execution, SparseAt),
    target: &Target,
    (problem, read): (&Problem, [WeightFormat; 2]),
    measured: Measured<'_>,
) -> Tile {
    let (family, all) = match (execution, problem.kind) {
        (_, Kind::Masked) | (Execution::Registers { .. } | Execution::Library, _) => return own,
        (Execution::Tiled, Kind::Dense) => (Family::Matmul, tiles(target.class).square),
        (Execution::Tiled, Kind::Linear(_)) => (Family::RosaLinear, tiles(target.class).square),
        (Execution::CoopMatrix(units), Kind::Dense) => (Family::MatmulCoop, tile::all_on_units(units)),
        (Execution::CoopMatrix(units), Kind::Linear(_)) => (Family::RosaLinearCoop, tile::all_on_units(units)),
    };
    measured.choose(
        own,
        || all,
        || {
            let mut product = tuned::product(family, problem.layout as u32, problem.shape, read.map(|f| f as u32));
            let in_tile = sparse == SparseAt::Tile;
            (product.key.sparse, product.key.low_rank) = (in_tile, problem.low_rank().is_some());
            Product {
                rank: problem.rank(),
                nnz: problem.sparse().filter(|_| in_tile).unwrap_or(0),
                bias: problem.bias(),
                accumulate: problem.accumulate,
                stride_column: problem.stride_column,
                ..product
            }
        },
    )
}

/// Parts of k.
fn parts(execution: Execution, target: &Target, problem: &Problem, tile: Tile) -> usize {
    if !problem.can_split() || execution == Execution::Library {
        return 1;
    }
    let ([m, n, k], class) = (problem.shape, target.class);
    let fill = match (execution, problem.kind) {
        (Execution::CoopMatrix(_), Kind::Dense | Kind::Linear(_)) => tile::units::FILL,
        _ => tiles(class).fill,
    };
    let filling = || splits(fill, tile, m, n, k);
    match (problem.kind, execution) {
        (Kind::Masked, _) | (Kind::Dense, Execution::CoopMatrix(_)) => filling(),
        (Kind::Dense, _) => filling().max(least_splits(class, k)),
        (Kind::Linear(_), Execution::Registers { .. } | Execution::Library) => 1,
        (Kind::Linear(_), _) if class == DeviceClass::Software => least_splits(class, k),
        (Kind::Linear(_), Execution::CoopMatrix(_)) => {
            if k < LONG_K {
                1
            } else {
                filling()
            }
        }
        (Kind::Linear(_), Execution::Tiled) => {
            if k < SPLIT_K {
                1
            } else {
                filling()
            }
        }
    }
}

/// How the input of a linear with a weight `[out, inn]`, and the gradient of its output, are best stored: as f16 where this
/// device's matrix units take every product of the linear, all of which round them to f16, forward, backward and that of a
/// dense gradient. The low-rank products and the sparse gradient read either.
pub(super) fn operands(target: &Target, tokens: usize, out: usize, inn: usize) -> Element {
    if target.used_coop_matrix().is_some() { operands_on_units(tokens, out, inn) } else { Element::F32 }
}

/// [`operands`] on a device whose products run on matrix units.
pub(crate) fn operands_on_units(tokens: usize, out: usize, inn: usize) -> Element {
    let suit = tokens.min(out).min(inn) >= COOP_LEAST && [out, inn].iter().all(|l| l % 8 == 0);
    if suit { Element::F16 } else { Element::F32 }
}

/// Whether the products with a weight `[rows, cols]` run on matrix units in both directions, if there are tokens enough.
pub(super) fn runs_on_units(target: &Target, rows: usize, cols: usize) -> bool {
    let suits = |layout, n, k| {
        suits_coop_matrix(&Problem {
            layout,
            shape: [COOP_LEAST, n, k],
            row_lengths: [k, cols],
            formats: [WeightFormat::F32; 2],
            stride_column: (n, 0),
            accumulate: false,
            kind: Kind::Dense,
        })
    };
    target.used_coop_matrix().is_some() && suits(Layout::Nt, rows, cols) && suits(Layout::Nn, cols, rows)
}

/// Whether dYᵀ·X `[rows, cols]` runs on matrix units.
pub(super) fn gradient_on_units(target: &Target, rows: usize, cols: usize) -> bool {
    let aligned = [rows, cols].iter().all(|l| l.is_multiple_of(8));
    target.used_coop_matrix().is_some() && rows.min(cols) >= COOP_LEAST && aligned
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Execution::Tiled => f.write_str("workgroup memory"),
            Execution::Registers { lanes } => write!(f, "registers of {lanes} lanes"),
            Execution::CoopMatrix(units) => write!(f, "matrix units {0}x{0}", units.fragment),
            Execution::Library => f.write_str("a library"),
        }
    }
}

impl fmt::Display for ProductPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { bm, bn, bk, .. } = self.tile;
        write!(f, "{}", self.execution)?;
        if self.execution != Execution::Library {
            write!(f, ", tile {bm}x{bn}x{bk}")?;
        }
        if self.parts > 1 {
            write!(f, ", k in {} parts of {}", self.parts, self.k_per_part)?;
        }
        match self.scratch {
            Some(format) => write!(f, ", W to scratch {format:?}")?,
            None if self.execution == Execution::Library => {}
            None => f.write_str(", W in the tile")?,
        }
        match self.sparse {
            SparseAt::Nowhere => {}
            SparseAt::Tile => f.write_str(", S in the tile")?,
            SparseAt::Scratch => f.write_str(", S in the scratch copy")?,
            SparseAt::Separate => f.write_str(", S by a product of its own")?,
        }
        match (self.low_rank_width, self.execution) {
            (0, _) => {}
            (_, Execution::Library) => return f.write_str(", low rank before it"),
            (width, _) => write!(f, ", low rank fused by {width}")?,
        }
        if self.execution == Execution::Library {
            return Ok(());
        }
        write!(f, ", loads {}", if self.vec4 > 0 { "vec4" } else { "scalars" })
    }
}

/// What the kernels of products are told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct MatmulParams {
    grid: Grid,
    m: u32,
    n: u32,
    k: u32,
    c_stride: u32,
    c_column: u32,
    splits: u32,
    k_per_split: u32,
    scale: f32,
    rank: u32,
    pub(super) w_scales: u32,
    pub(super) bucket_cols: u32,
    pub(super) s_positions: u32,
    pub(super) w_cols: u32,
    u_stride: u32,
    u_column: u32,
    pub(super) nnz: u32,
}

/// What specialises a fused linear.
pub(super) struct RosaVariant {
    pub layout: Layout,
    /// What is read and written four elements at a time: nothing (0), operands (1), everything (2).
    pub vec: u32,
    pub accumulate: bool,
    pub format: WeightFormat,
    pub sparse: bool,
    pub low_rank: bool,
    /// Rows of U, V, A and B can be read four elements at a time.
    pub thin4: bool,
    pub bias: bool,
    pub tile: Tile,
}
