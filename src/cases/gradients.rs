//! The rows of the finite differences: each operation that has a backward, with its shapes, formats and variants, and the
//! kernels of both directions. What is computed lies above this layer: `tests/gradients` takes the rows from here and
//! checks every backward against central differences of its forward in f64.
//!
//! `tests/architecture` refuses an operation in `autograd/ops` without a row, and a kernel that is neither in a row nor
//! in [`WITHOUT_BACKWARD`].

use super::attention_reference::Case;
use crate::device::{Feature, Kernel};
use crate::dtype::DType;
use crate::kernels::{
    attention, attention_coop, attention_decode, attention_simd, center, coop, decode, dropout, elementwise,
    elementwise::Activation, embedding, heads, in_weight, loss, low_rank, low_rank_coop, matmul, merged, norm,
    optimizer, parts, reduce, rope, sampled, short_conv, simd, sparse, spmm, topk,
};
use crate::tensor::Element;

/// One row.
pub struct Gradient {
    /// The operation: its file in `autograd/ops`.
    pub op: &'static str,
    /// The kernels that its forward and backward may launch, on any class of device.
    pub kernels: &'static [&'static Kernel],
    pub shape: Shape,
}

/// Sizes and variants; `element`s are what activations are made of. Small: an element of an input costs two forward passes.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// X `[tokens, inn]`, W `[out, inn]` in `dtype`. `every`: each combination of what may be attached, else all of it.
    Linear {
        tokens: usize,
        out: usize,
        inn: usize,
        rank: usize,
        dtype: DType,
        every: bool,
    },
    /// Several adapters on a stacked weight `[out, inn]`, each on rows of its own: first row, rows, rank, scale.
    Blocks {
        tokens: usize,
        out: usize,
        inn: usize,
        blocks: &'static [(usize, usize, usize, f32)],
    },
    /// X `[tokens, hidden]`, head `[vocab, hidden]`.
    Head {
        tokens: usize,
        hidden: usize,
        vocab: usize,
        softcap: Option<f32>,
    },
    Attention(Case),
    /// X `[rows, heads · width]`, normalised over each `width`.
    Norm {
        rows: usize,
        heads: usize,
        width: usize,
        unit_offset: bool,
        /// Of the result.
        element: Element,
    },
    /// a and b `[rows, width]`, added and then normalised.
    AddNorm {
        rows: usize,
        width: usize,
        /// Of the norm.
        y: Element,
        /// Of the gradient of b.
        db: Element,
    },
    Rope {
        heads: usize,
        head_dim: usize,
    },
    /// Queries, keys and values out of `[tokens, (heads + 2 · kv_heads) · head_dim]`.
    Split {
        tokens: usize,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        /// Heads of q and k are normed, by `1 + w` or by `w`.
        unit_offset: Option<bool>,
        /// Of the gradient of the one matrix.
        element: Element,
    },
    /// `both`: gate and up side by side `[rows, 2 · cols]`, else apart.
    Gate {
        rows: usize,
        cols: usize,
        activation: Activation,
        both: bool,
        /// Of the result, and of the gradients of gate and up.
        element: Element,
    },
    /// Rows without their mean.
    Center {
        rows: usize,
        cols: usize,
    },
    /// Rows b, g and x of so many channels, in segments.
    ShortConv {
        segments: &'static [usize],
        channels: usize,
        taps: usize,
    },
    Scale {
        rows: usize,
        cols: usize,
        factor: f32,
    },
    Residual {
        rows: usize,
        cols: usize,
    },
    Bias {
        rows: usize,
        cols: usize,
    },
    /// A table `[vocab, hidden]`, its rows times `scale`.
    Embedding {
        vocab: usize,
        hidden: usize,
        scale: f32,
    },
}

/// Kernels that no gradient passes through, and why.
pub const WITHOUT_BACKWARD: &[(&Kernel, &str)] = &[
    (&attention_decode::DECODE, "generation alone"),
    (&attention_decode::KV_STORE, "generation alone"),
    (&short_conv::SHORT_CONV_CACHED, "generation alone"),
    (&short_conv::SHORT_CONV_STORE, "generation alone"),
    (&loss::ARGMAX, "generation alone"),
    (&optimizer::ADAMW, "behind the gradients"),
    (&optimizer::COUNT, "behind the gradients"),
    (&topk::HISTOGRAM, "masks, behind the gradients"),
    (&topk::MASK, "masks, behind the gradients"),
    (&topk::SCORE, "masks, behind the gradients"),
    (&topk::SELECT, "masks, behind the gradients"),
    (&topk::TIES, "masks, behind the gradients"),
    (&topk::TIES_BEFORE, "masks, behind the gradients"),
    (&in_weight::SPARSE_WRITE_BOTH, "two of sparse_write, behind the optimiser"),
];

const LINEAR: &[&Kernel] = &[
    &decode::DECODE,
    &decode::DECODE_F32,
    &matmul::MATMUL,
    &matmul::ROSA_LINEAR,
    &matmul::SDDMM_TILE,
    &parts::SUM_PARTS,
    &simd::MATMUL_SIMD,
    &simd::ROSA_LINEAR_SIMD,
    &merged::DENSIFY,
    &merged::SPARSE_ADD,
    &spmm::SPMM,
    &in_weight::SPARSE_TAKE,
    &in_weight::SPARSE_WRITE,
    &coop::MATMUL_COOP,
    &coop::ROSA_LINEAR_COOP,
    &coop::SDDMM_COOP,
    &sparse::SAMPLED,
    &dropout::DROPOUT,
    &sampled::TRANSPOSE,
    &sampled::SDDMM_ROWS,
    &low_rank::SPREAD,
    &low_rank::GATHER,
    &low_rank::PROJECT,
    &low_rank::GRADIENT,
    &parts::SUM_PARTS_BOTH,
    &low_rank_coop::PROJECT_COOP,
    &low_rank_coop::GRADIENT_COOP,
    &low_rank_coop::GRADIENTS_COOP,
];
const HEAD: &[&Kernel] = &[
    &matmul::MATMUL,
    &matmul::ROSA_LINEAR,
    &parts::SUM_PARTS,
    &simd::MATMUL_SIMD,
    &simd::ROSA_LINEAR_SIMD,
    &merged::DENSIFY,
    &coop::MATMUL_COOP,
    &coop::ROSA_LINEAR_COOP,
    &embedding::GATHER,
    &embedding::SCATTER_ADD,
    &embedding::COLUMNS,
    &loss::CROSS_ENTROPY,
    &loss::CROSS_ENTROPY_GRAD,
    &elementwise::SCALE,
    &elementwise::ROUND,
    &reduce::REDUCE_PARTS,
    &reduce::REDUCE_TOTAL,
];
const ATTENTION: &[&Kernel] = &[
    &attention::FORWARD,
    &attention::DELTA,
    &attention::BACKWARD_Q,
    &attention::BACKWARD_KV,
    &attention_coop::FORWARD_COOP,
    &attention_coop::BACKWARD_Q_COOP,
    &attention_coop::BACKWARD_KV_COOP,
    &attention_simd::FORWARD_SIMD,
    &attention_simd::BACKWARD_Q_SIMD,
    &attention_simd::BACKWARD_KV_SIMD,
    // an output that matrix units read next
    &elementwise::ROUND,
];

const NORM: &[&Kernel] = &[
    &norm::RMSNORM,
    &norm::RMSNORM_BACKWARD,
    &norm::RMSNORM_SIMD,
    &norm::RMSNORM_BACKWARD_SIMD,
    &norm::RMSNORM_WEIGHT,
    &parts::SUM_PARTS,
];
const ADD_NORM: &[&Kernel] = &[
    &norm::ADD_RMSNORM,
    &norm::ADD_RMSNORM_SIMD,
    &norm::RMSNORM_BACKWARD,
    &norm::RMSNORM_BACKWARD_SIMD,
    &norm::RMSNORM_BACKWARD_ROUND,
    &norm::RMSNORM_WEIGHT,
    &parts::SUM_PARTS,
    &elementwise::ROUND,
];
const ROPE: &[&Kernel] = &[&rope::ROPE];
const SPLIT: &[&Kernel] = &[&heads::ROPE_SPLIT, &heads::ROPE_MERGE, &heads::NORM_SPLIT, &heads::NORM_MERGE];
const MLP: &[&Kernel] = &[
    &elementwise::GLU,
    &elementwise::GLU_BACKWARD,
    &elementwise::GLU_BOTH,
    &elementwise::GLU_BOTH_BACKWARD,
    &elementwise::GLU_BOTH_KEPT,
    &elementwise::ADD_INTO,
];
const RESIDUAL: &[&Kernel] =
    &[&elementwise::ADD, &elementwise::ADD_INTO, &elementwise::GLU, &elementwise::GLU_BACKWARD];
const CENTER: &[&Kernel] = &[&center::CENTER];
const SHORT_CONV: &[&Kernel] =
    &[&short_conv::SHORT_CONV, &short_conv::SHORT_CONV_BACKWARD, &short_conv::SHORT_CONV_WEIGHT];
const SCALE: &[&Kernel] = &[&elementwise::SCALE];
const BIAS: &[&Kernel] = &[&parts::SUM_PARTS];
const EMBEDDING: &[&Kernel] = &[&embedding::GATHER, &embedding::SCATTER_ADD];

/// Odd sizes, and such that rows are read four at a time; more inputs than outputs and fewer.
const LINEARS: &[(usize, usize, usize, usize)] = &[(7, 9, 13, 3), (5, 33, 8, 2), (1, 4, 31, 1)];
/// Three adapters; one that covers a part; some that cover all but the last row.
const BLOCKS: &[(usize, usize, usize, f32)] = &[(1, 4, 2, 1.5), (5, 3, 1, -0.5), (10, 2, 3, 2.0)];

const PLAIN: Case =
    Case { segments: &[5, 1, 9], heads: 2, kv_heads: 2, head_dim: 8, window: usize::MAX, softcap: None };
const CASES: &[Case] = &[
    PLAIN,
    Case { heads: 4, ..PLAIN },
    Case { heads: 3, kv_heads: 1, head_dim: 16, softcap: Some(2.0), ..PLAIN },
    Case { kv_heads: 1, window: 3, ..PLAIN },
];

/// All rows.
pub fn gradients() -> Vec<Gradient> {
    let mut rows = Vec::new();
    let mut put = |op, kernels, shape| rows.push(Gradient { op, kernels, shape });
    for &(tokens, out, inn, rank) in LINEARS {
        put("linear", LINEAR, Shape::Linear { tokens, out, inn, rank, dtype: DType::F32, every: true });
    }
    for dtype in super::DTYPES {
        put("linear", LINEAR, Shape::Linear { tokens: 5, out: 6, inn: 32, rank: 2, dtype, every: false });
    }
    // every product but the skinny ones large enough for matrix units, with a tile that is not whole
    put("linear", LINEAR, Shape::Linear { tokens: 36, out: 40, inn: 32, rank: 4, dtype: DType::F32, every: false });
    for (out, blocks) in [(13, BLOCKS), (13, &BLOCKS[1..2]), (8, &BLOCKS[..2])] {
        put("linear", LINEAR, Shape::Blocks { tokens: 6, out, inn: 9, blocks });
    }
    for (tokens, hidden, vocab) in [(7, 13, 31), (6, 8, 64), (1, 4, 5)] {
        for softcap in [None, Some(3.0)] {
            put("head", HEAD, Shape::Head { tokens, hidden, vocab, softcap });
        }
    }
    put("head", HEAD, Shape::Head { tokens: 52, hidden: 40, vocab: 48, softcap: None });
    for &case in CASES {
        put("attention", ATTENTION, Shape::Attention(case));
    }
    // the whole row, and each head of it
    for (rows, heads, width) in [(7, 1, 13), (3, 1, 64), (5, 3, 8), (33, 1, 4), (1, 1, 129)] {
        for (unit_offset, element) in [false, true].iter().flat_map(|&u| elements(width).map(move |e| (u, e))) {
            put("norm", NORM, Shape::Norm { rows, heads, width, unit_offset, element });
        }
    }
    for (rows, width) in [(7, 13), (3, 64), (33, 4)] {
        for (y, db) in elements(width).flat_map(|y| elements(width).map(move |db| (y, db))) {
            put("norm", ADD_NORM, Shape::AddNorm { rows, width, y, db });
        }
    }
    for (heads, head_dim) in [(1, 8), (3, 16)] {
        put("rope", ROPE, Shape::Rope { heads, head_dim });
    }
    for (tokens, heads, kv_heads, head_dim) in [(5, 3, 2, 6), (4, 2, 1, 8)] {
        for element in elements(head_dim / 2) {
            for unit_offset in [None, Some(false), Some(true)] {
                put("rope", SPLIT, Shape::Split { tokens, heads, kv_heads, head_dim, unit_offset, element });
            }
        }
    }
    for (rows, cols, both) in [(7, 9, false), (3, 64, false), (3, 5, true), (2, 8, true)] {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            for element in elements(cols) {
                put("mlp", MLP, Shape::Gate { rows, cols, activation, both, element });
            }
        }
    }
    put("center", CENTER, Shape::Center { rows: 5, cols: 7 });
    put("center", CENTER, Shape::Center { rows: 3, cols: 64 });
    for (channels, taps) in [(5, 3), (4, 4), (3, 1)] {
        put("short_conv", SHORT_CONV, Shape::ShortConv { segments: &[5, 1, 2, 7], channels, taps });
    }
    put("scale", SCALE, Shape::Scale { rows: 3, cols: 7, factor: -0.3 });
    put("residual", RESIDUAL, Shape::Residual { rows: 5, cols: 7 });
    for (rows, cols) in [(9, 5), (3, 64)] {
        put("bias", BIAS, Shape::Bias { rows, cols });
    }
    put("embedding", EMBEDDING, Shape::Embedding { vocab: 33, hidden: 12, scale: 1.5 });
    rows
}

/// What can be made of rows of so many numbers.
fn elements(contiguous: usize) -> impl Iterator<Item = Element> {
    let halves = contiguous.is_multiple_of(4);
    [Element::F32, Element::F16].into_iter().take(if halves { 2 } else { 1 })
}

impl Gradient {
    /// Whether a device's matrix units may take a part in it: then its numbers are rounded to f16 on the way.
    pub fn on_units(&self) -> bool {
        self.kernels.iter().any(|k| k.needs.contains(&Feature::CoopMatrix))
    }
}
