//! Products, and the fused RoSA linear against its composed form.

use super::{DTYPES, Exact, Guarded, Level, Near, Op, Row, Trial, other_dtypes, quick_at, random_pattern, stored};
use crate::csr::CsrPattern;
use crate::device::Precision;
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::coop::{MATMUL_COOP, ROSA_LINEAR_COOP, SDDMM_COOP};
use crate::kernels::decode::{DECODE, DECODE_F32};
use crate::kernels::embedding::COLUMNS;
use crate::kernels::matmul::{MATMUL, ROSA_LINEAR, SDDMM_TILE};
use crate::kernels::merged::{DENSIFY, SPARSE_ADD};
use crate::kernels::parts::SUM_PARTS;
use crate::kernels::product::{Fused, Layout, Out, matmul, operands, rosa_linear};
use crate::kernels::sampled::{SDDMM_ROWS, Sampling, TRANSPOSE};
use crate::kernels::sharded::sharded_linear;
use crate::kernels::simd::{MATMUL_SIMD, ROSA_LINEAR_SIMD};
use crate::kernels::sparse::{SAMPLED, SddmmAlgorithm, SparseIndex, sddmm, sddmm_by, sddmm_sampled};
use crate::kernels::spmm::SPMM;
use crate::tensor::{Element, Weight};

const PRODUCT: Op = Op {
    name: "product",
    kernels: &[&MATMUL, &MATMUL_SIMD, &MATMUL_COOP, &SUM_PARTS],
    why: "a sum of k products: 4√k + 2 units in the last place of the sum of magnitudes; on matrix units each operand is \
          rounded to f16 first, 2⁻¹¹ of it at most, and independent errors of k terms grow as √k",
};
const FUSED: Op = Op {
    name: "rosa_linear",
    kernels: &[
        &ROSA_LINEAR,
        &ROSA_LINEAR_SIMD,
        &ROSA_LINEAR_COOP,
        &DECODE,
        &DECODE_F32,
        &DENSIFY,
        &SPARSE_ADD,
        &SPMM,
        &SUM_PARTS,
        &COLUMNS,
    ],
    why: "a sum of k + rank products, the weight as its format stores it: 4√n + 2 units of the sum of magnitudes",
};
/// Rows of W that are computed in two shards as well: the second one's rows of B begin where a binding may, and where none may.
const IN_SHARDS: [usize; 2] = [160, 130];
const SAMPLED_OP: Op = Op {
    name: "sddmm",
    kernels: &[&SAMPLED, &SDDMM_TILE, &SDDMM_COOP, &SDDMM_ROWS, &TRANSPOSE, &SUM_PARTS],
    why: "a sum over tokens: 4√t + 2 units of the sum of magnitudes; f16 operands as in a product",
};

/// (m, n, k): ones, odd, on and beside every tile's edge, long k (split), tall and flat.
const SIZES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (7, 5, 3),
    (31, 33, 65),
    (33, 31, 7),
    (65, 129, 33),
    (64, 64, 64),
    (128, 136, 48),
    (130, 8, 512),
    (4, 130, 1030),
    (1, 68, 128),
    (12, 16, 700),
    (200, 8, 576),
    (576, 8, 200),
    (8, 576, 200),
    (6104, 184, 40), // on matrix units in tiles of 96 columns
];
const QUICK_SIZES: &[usize] = &[1, 2, 6, 8, 10];

/// Shapes of X and W, the adapter's rank and density.
#[derive(Clone, Copy)]
struct Linear {
    tokens: usize,
    out: usize,
    inn: usize,
    rank: usize,
    density: f64,
}

const LINEARS: &[Linear] = &[
    Linear { tokens: 1, out: 1, inn: 1, rank: 1, density: 1.0 },
    Linear { tokens: 7, out: 33, inn: 31, rank: 3, density: 0.2 },
    Linear { tokens: 33, out: 65, inn: 129, rank: 5, density: 0.02 },
    Linear { tokens: 65, out: 96, inn: 64, rank: 8, density: 0.3 },
    Linear { tokens: 130, out: 160, inn: 192, rank: 20, density: 0.011 },
    Linear { tokens: 5, out: 100, inn: 68, rank: 4, density: 1.0 },
    // few rows, to which a software renderer adds S by a product of its own: of one token and of four a thread
    Linear { tokens: 2, out: 130, inn: 68, rank: 4, density: 0.05 },
    Linear { tokens: 9, out: 67, inn: 131, rank: 4, density: 0.03 },
];
const QUICK_LINEARS: &[usize] = &[2, 3, 6, 7];
/// Outputs whose columns fill tiles of 96 better than those of 128; see `kernels/coop.rs`. Of many tokens, for which quantised
/// weights are decoded before the product, and of fewer, where the tile does it.
const NARROW: [(Layout, Linear); 4] = [
    (Layout::Nt, Linear { tokens: 700, out: 1720, inn: 32, rank: 8, density: 0.05 }),
    (Layout::Nn, Linear { tokens: 700, out: 40, inn: 1728, rank: 8, density: 0.05 }),
    (Layout::Nt, Linear { tokens: 6104, out: 184, inn: 32, rank: 8, density: 0.05 }),
    (Layout::Nn, Linear { tokens: 6104, out: 40, inn: 192, rank: 8, density: 0.05 }),
];

/// Many tokens, for which W + S is decoded before the product where it costs, and few outputs of a long k, which is split.
const MANY: Linear = Linear { tokens: 770, out: 36, inn: 64, rank: 4, density: 0.1 };
const LONG: [(Layout, Linear); 2] = [
    (Layout::Nt, Linear { tokens: 70, out: 40, inn: 640, rank: 4, density: 0.05 }),
    (Layout::Nn, Linear { tokens: 70, out: 640, inn: 40, rank: 4, density: 0.05 }),
];

/// Rows of these lengths can be read four elements at a time, as those of real models; X larger than W, and smaller; and sums
/// that are whole tiles, and not.
const ALIGNED: [Linear; 8] = [
    Linear { tokens: 128, out: 64, inn: 64, rank: 8, density: 0.05 },
    Linear { tokens: 32, out: 512, inn: 64, rank: 8, density: 0.01 },
    Linear { tokens: 32, out: 64, inn: 512, rank: 8, density: 0.01 },
    Linear { tokens: 40, out: 72, inn: 40, rank: 8, density: 0.05 },
    Linear { tokens: 40, out: 72, inn: 96, rank: 8, density: 0.05 },
    // too few tokens for matrix units, and rows that cannot be read eight elements at a time, as they want it
    Linear { tokens: 20, out: 64, inn: 64, rank: 8, density: 0.05 },
    Linear { tokens: 128, out: 68, inn: 44, rank: 8, density: 0.05 },
    // a head whose vocabulary is no multiple of four
    Linear { tokens: 128, out: 107, inn: 64, rank: 8, density: 0.05 },
];
const ALIGNED_SIZES: [(usize, usize, usize); 7] =
    [(16, 64, 64), (64, 16, 64), (128, 64, 64), (32, 512, 64), (96, 96, 96), (32, 64, 512), (64, 64, 40)];

/// How a fused linear is made.
#[derive(Clone, Copy)]
struct Form {
    layout: Layout,
    dtype: DType,
    sparse: bool,
    low_rank: bool,
    bias: bool,
    /// Adds to what is there; otherwise it writes.
    accumulate: bool,
    /// The low-rank part lies in columns that can be read four elements at a time.
    aligned: bool,
}

impl Form {
    /// That of most rows: forward with a bias where tokens are odd, backward on top of what is there.
    fn usual(layout: Layout, dtype: DType, c: Linear, sparse: bool, low_rank: bool) -> Form {
        let forward = layout == Layout::Nt;
        let bias = forward && c.tokens % 2 == 1; // without one a long sum can be made in parts
        let aligned = sparse && c.rank.is_multiple_of(4);
        Form { layout, dtype, sparse, low_rank, bias, accumulate: !forward, aligned }
    }
}

/// Where the entries of a mask lie.
#[derive(Clone, Copy, Debug)]
enum Mask {
    /// Anywhere, some rows and columns favoured.
    Scattered,
    /// Half of the rows are empty, one is full.
    Rows,
    All,
}

/// (tokens, out, in, mask, tokens a slice): one entry; rows of less than a four, of several, of many workgroups; tokens
/// beside 64 and in more than one slice.
const MASKS: &[(usize, usize, usize, Mask, usize)] = &[
    (1, 1, 1, Mask::All, 64),
    (70, 40, 67, Mask::Scattered, 64),
    (65, 33, 131, Mask::Rows, 128),
    (300, 70, 257, Mask::Scattered, 320),
    (129, 5, 330, Mask::All, 64),
    (1030, 130, 65, Mask::Rows, 512),
    (200, 68, 134, Mask::Scattered, 128),
];
const QUICK_MASKS: &[usize] = &[1, 2, 6];

/// Rows of W in the longest sum that a model asks for: the head's input gradient, in shards of so many tokens. llvmpipe
/// ends a thread's loops after 65,535 iterations, silently; a kernel that takes one a token shows it here.
const LONGEST: usize = 1 << 16;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &size) in SIZES.iter().enumerate() {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            for accumulate in [false, true] {
                let (m, n, k) = size;
                let what = format!("{layout:?} {m}x{n}x{k}{}", if accumulate { " +=" } else { "" });
                rows.push(PRODUCT.row(quick_at(i, QUICK_SIZES), what, move |t| product(t, layout, size, accumulate)));
            }
        }
    }
    for dtype in DTYPES {
        for (i, &linear) in LINEARS.iter().enumerate() {
            let Linear { tokens, out, inn, rank, .. } = linear.of(dtype);
            for (layout, bits) in [Layout::Nt, Layout::Nn].into_iter().flat_map(|l| (0..4u32).map(move |b| (l, b))) {
                let (sparse, low_rank) = (bits & 1 == 1, bits & 2 == 2);
                let adapter = [if sparse { " sparse" } else { "" }, if low_rank { " low-rank" } else { "" }].concat();
                let what = format!("{layout:?} {dtype} [{tokens}, {inn}] W [{out}, {inn}] rank {rank}{adapter}");
                let level = quick_at(i, QUICK_LINEARS);
                let linear = linear.of(dtype);
                let form = Form::usual(layout, dtype, linear, sparse, low_rank);
                rows.push(FUSED.row(level, what, move |t| fused(t, form, linear)));
            }
        }
    }
    // of the other formats: decoded in the tile, and before a product of many tokens
    for (dtype, layout) in other_dtypes().flat_map(|d| [Layout::Nt, Layout::Nn].map(|l| (d, l))) {
        for linear in [LINEARS[3].of(dtype), MANY.of(dtype)] {
            let Linear { tokens, out, inn, .. } = linear;
            let what = format!("{layout:?} {dtype} [{tokens}, {inn}] W [{out}, {inn}] sparse low-rank");
            let form = Form::usual(layout, dtype, linear, true, true);
            rows.push(FUSED.row(Level::Quick, what, move |t| fused(t, form, linear)).of(dtype));
        }
        let linear = LINEARS[3].of(dtype);
        let what = format!("{layout:?} {dtype} [{}, {}] W [{}, {1}]", linear.tokens, linear.inn, linear.out);
        let form = Form::usual(layout, dtype, linear, false, false);
        rows.push(FUSED.row(Level::Quick, what, move |t| fused(t, form, linear)).of(dtype));
    }
    let narrow = NARROW.map(|n| (Level::Full, n));
    let many = [Layout::Nt, Layout::Nn].map(|layout| (Level::Quick, (layout, MANY)));
    let others: Vec<_> = narrow.into_iter().chain(many).chain(LONG.map(|n| (Level::Quick, n))).collect();
    for (dtype, (level, (layout, linear))) in DTYPES.into_iter().flat_map(|d| others.iter().map(move |n| (d, *n))) {
        let Linear { tokens, out, inn, .. } = linear.of(dtype);
        let what = format!("{layout:?} {dtype} [{tokens}, {inn}] W [{out}, {inn}] sparse low-rank");
        let linear = linear.of(dtype);
        let form = Form::usual(layout, dtype, linear, true, true);
        rows.push(FUSED.row(level, what, move |t| fused(t, form, linear)));
    }
    for (i, &linear) in LINEARS.iter().enumerate() {
        let what = format!("[{}, {}] x [{}, {}]", linear.tokens, linear.out, linear.tokens, linear.inn);
        let level = quick_at(i, QUICK_LINEARS);
        rows.push(SAMPLED_OP.row(level, what, move |t| sampled(t, linear)));
    }
    for (i, &(tokens, out, inn, mask, slice)) in MASKS.iter().enumerate() {
        let threads = [false, true].into_iter().flat_map(|h| [8, 16, 32].map(|l| (h, l)));
        for (half, lanes, unroll) in threads.flat_map(|(h, l)| [1, 2].map(|u| (h, l, u))) {
            let sampling = Sampling { half, lanes, unroll, slice };
            let what = format!("[{tokens}, {out}] x [{tokens}, {inn}] {mask:?} {sampling:?}");
            let is_quick = lanes == 8 && half == (unroll == 1);
            let level = quick_at(i, if is_quick { QUICK_MASKS } else { &[] });
            let shape = (tokens, out, inn);
            rows.push(SAMPLED_OP.row(level, &what, move |t| explicitly_sampled(t, shape, mask, sampling, false)));
            // what comes as f16 is turned as it is; where rows are of an odd length it comes as f32
            if half && lanes == 8 && unroll == 1 && (out % 2 == 0 || inn % 2 == 0) {
                let what = format!("{what} of f16");
                rows.push(SAMPLED_OP.row(level, what, move |t| explicitly_sampled(t, shape, mask, sampling, true)));
            }
        }
    }
    let what = format!("a sum of {LONGEST} products");
    rows.push(FUSED.row(Level::Quick, format!("Nn F32 {what}"), long_sum));
    rows.push(PRODUCT.row(Level::Full, format!("Tn {what}"), |t| product(t, Layout::Tn, (3, 8, LONGEST), false)));
    // with many tokens the masked product is split along them; its tiles are of 32, 64 and 128
    for (tokens, out, inn) in [(70, 40, 48), (600, 64, 100), (130, 200, 132), (300, 260, 257), (1030, 256, 260)] {
        let linear = Linear { tokens, out, inn, rank: 1, density: 0.02 };
        let level = if tokens == 70 { Level::Quick } else { Level::Full };
        rows.push(SAMPLED_OP.row(level, format!("[{tokens}, {out}] x [{tokens}, {inn}]"), move |t| sampled(t, linear)));
    }
    aligned(&mut rows);
    rows
}

/// The bounds of products on this device.
pub(super) fn bounds(t: &Trial<'_>, want: impl IntoIterator<Item = Exact>) -> Vec<Near> {
    let halves = t.device.precision() == Precision::F16;
    let near = |e: Exact| {
        let rounded = if halves { e.magnitude / 2048.0 * (12.0 / (e.terms as f64).sqrt()).min(3.0) } else { 0.0 };
        Near { value: e.value, bound: e.bound() + rounded }
    };
    t.want(|| want.into_iter().map(near).collect())
}

impl Linear {
    /// Rows of quantised formats are whole blocks.
    fn of(self, dtype: DType) -> Linear {
        Linear { inn: self.inn.next_multiple_of(dtype.block_elements()), ..self }
    }
}

fn reference(layout: Layout, (m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> Vec<Exact> {
    let mut c = vec![Exact::default(); m * n];
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        for l in 0..k {
            let x = if layout == Layout::Tn { a[l * m + i] } else { a[i * k + l] };
            let y = if layout == Layout::Nt { b[j * k + l] } else { b[l * n + j] };
            c[i * n + j].add(f64::from(x) * f64::from(y));
        }
    }
    c
}

fn product(t: &mut Trial<'_>, layout: Layout, size: (usize, usize, usize), accumulate: bool) -> Result<()> {
    let (m, n, k) = size;
    let (a, b, c0) = (t.random(m * k), t.random(n * k), t.random(m * n));
    let (a_shape, b_shape) = match layout {
        Layout::Nt => ([m, k], [n, k]),
        Layout::Nn => ([m, k], [k, n]),
        Layout::Tn => ([k, m], [k, n]),
    };
    let (ta, tb) = (t.up(&a_shape, &a)?, t.up(&b_shape, &b)?);
    let mut want = t.want(|| reference(layout, size, &a, &b));
    let c = if accumulate { t.holding(&[m, n], &c0)? } else { t.out(&[m, n])? };
    let mut out = Out::into(&c.tensor);
    if accumulate {
        // scaled by a power of two, which rounds nothing
        out = Out { scale: 0.5, ..Out::add_to(&c.tensor) };
        for (w, c) in want.iter_mut().zip(&c0) {
            (w.value, w.magnitude) = (0.5 * w.value, 0.5 * w.magnitude);
            w.add(f64::from(*c));
        }
    }
    matmul(layout, &ta, &tb, out)?;
    t.compare("C", &c, bounds(t, want))
}

/// The gradient of a weight, of operands that are f16 where matrix units make it: they round f32 to it anyway.
fn product_of_halves(t: &mut Trial<'_>, (m, n, k): (usize, usize, usize), accumulate: bool) -> Result<()> {
    let kinds = [(Element::F16, Element::F32), (Element::F32, Element::F16), (Element::F16, Element::F16)];
    let (a, b, c0) = (t.random(m * k), t.random(n * k), t.random(m * n));
    let mut want = t.want(|| reference(Layout::Tn, (m, n, k), &a, &b));
    if accumulate {
        want.iter_mut().zip(&c0).for_each(|(w, c)| w.add(f64::from(*c)));
    }
    let halves = operands(t.device, m.min(n), m, n) == Element::F16;
    for (x, y) in if halves { &kinds[..] } else { &[(Element::F32, Element::F32)] } {
        let (ta, tb) = (t.operand(*x, &[k, m], &a)?.0, t.operand(*y, &[k, n], &b)?.0);
        let c = if accumulate { t.holding(&[m, n], &c0)? } else { t.out(&[m, n])? };
        matmul(Layout::Tn, &ta, &tb, if accumulate { Out::add_to(&c.tensor) } else { Out::into(&c.tensor) })?;
        t.compare("C", &c, bounds(t, want.iter().copied()))?;
    }
    Ok(())
}

/// [`ALIGNED`] in every form that a run may ask for.
fn aligned(rows: &mut Vec<Row>) {
    for (dtype, linear) in DType::ALL.iter().flat_map(|d| ALIGNED.map(|l| (*d, l.of(*d)))) {
        for bits in 0..16u32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            let (layout, sparse, low_rank) = (if bit(0) { Layout::Nn } else { Layout::Nt }, bit(1), bit(2));
            let (bias, accumulate) = (!bit(0) && bit(3), bit(0) && bit(3));
            let form = Form { layout, dtype, sparse, low_rank, bias, accumulate, aligned: true };
            let Linear { tokens, out, inn, .. } = linear;
            let mut what = format!("{layout:?} {dtype} aligned [{tokens}, {inn}] W [{out}, {inn}]");
            let parts = [(sparse, " sparse"), (low_rank, " low-rank"), (bias, " bias"), (accumulate, " +=")];
            parts.iter().filter(|p| p.0).for_each(|p| what += p.1);
            rows.push(FUSED.row(Level::Spare, what, move |t| fused(t, form, linear)).of(dtype));
        }
    }
    for (size, layout) in ALIGNED_SIZES.into_iter().flat_map(|s| [Layout::Nt, Layout::Nn, Layout::Tn].map(|l| (s, l))) {
        for accumulate in [false, true] {
            let (m, n, k) = size;
            let what = format!("{layout:?} aligned {m}x{n}x{k}{}", if accumulate { " +=" } else { "" });
            rows.push(PRODUCT.row(Level::Spare, &what, move |t| product(t, layout, size, accumulate)));
            if layout == Layout::Tn {
                let what = format!("{what} of f16");
                rows.push(PRODUCT.row(Level::Spare, what, move |t| product_of_halves(t, size, accumulate)));
            }
        }
    }
    for (tokens, out, inn) in [(1024, 64, 64), (64, 64, 128), (64, 128, 64), (64, 68, 44)] {
        let linear = Linear { tokens, out, inn, rank: 1, density: 0.02 };
        let what = format!("aligned [{tokens}, {out}] x [{tokens}, {inn}]");
        rows.push(SAMPLED_OP.row(Level::Spare, what, move |t| sampled(t, linear)));
    }
}

fn fused(t: &mut Trial<'_>, form: Form, c: Linear) -> Result<()> {
    let Form { layout, dtype, sparse, low_rank, bias: has_bias, accumulate, aligned } = form;
    let Linear { tokens, out: n, inn: k, rank: r, density } = c;
    let (bytes, w) = stored(dtype, &t.random(n * k))?;
    let weight = Weight::upload(t.device, dtype, n, k, &bytes)?;
    let (index, s) = entries(t, n, k, density)?;
    let s_values = t.up(&[s.len()], &index.from_csr_order(&s))?;
    let mut merged: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
    let mut size: Vec<f64> = merged.iter().map(|w| w.abs()).collect();
    if sparse {
        for ((row, col), s) in index.pattern().entries().zip(&s) {
            let at = row as usize * k + col as usize;
            merged[at] += f64::from(*s);
            size[at] += f64::from(s.abs());
        }
    }
    // forward: x [t, k] to y [t, n] with b [n, r]; backward: dy [t, n] to dx [t, k] with a [r, k]
    let forward = layout == Layout::Nt;
    let (cols_in, cols_out) = if forward { (k, n) } else { (n, k) };
    let at = |l: usize, j: usize| if forward { j * k + l } else { l * k + j };
    let factor_at = |l: usize, j: usize| if forward { j * r + l } else { l * k + j };
    // U is some columns of a wider tensor, which can be read four elements at a time, or not
    let (column, wide) = if aligned { (4, r + 8) } else { (2, r + 3) };
    let (x, u) = (t.random(tokens * cols_in), t.random(tokens * wide));
    let (factor, mut start) = (t.random(r * cols_out), t.random(if forward { n } else { tokens * k }));
    if !has_bias && !accumulate {
        start.fill(0.0);
    }
    let want = (0..tokens * cols_out).map(|i| {
        let (row, j) = (i / cols_out, i % cols_out);
        // forward there may be a bias, backward something to add to
        let mut e = Exact::of(f64::from(start[if forward { j } else { i }]));
        for l in 0..cols_in {
            let x = f64::from(x[row * cols_in + l]);
            e.value += x * merged[at(l, j)];
            e.magnitude += x.abs() * size[at(l, j)];
        }
        e.terms += cols_in;
        if low_rank {
            (0..r).for_each(|l| e.add(f64::from(u[row * wide + column + l]) * f64::from(factor[factor_at(l, j)])));
        }
        e
    });
    let want: Vec<Exact> = t.want(|| want.collect());
    let (tx, tu) = (t.up(&[tokens, cols_in], &x)?, t.up(&[tokens, wide], &u)?);
    let factor = t.up(&if forward { [n, r] } else { [r, k] }, &factor)?;
    let bias = if has_bias { Some(t.up(&[n], &start)?) } else { None };
    let fused = Fused {
        sparse: sparse.then_some((&index, &s_values)),
        low_rank: low_rank.then_some((&tu, column, &factor)),
        bias: bias.as_ref(),
    };
    // operands of f16 are what matrix units make of them anyway
    let halves = operands(t.device, tokens, n, k) == Element::F16;
    let halves = if halves { Some(t.operand(Element::F16, &[tokens, cols_in], &x)?.0) } else { None };
    for x in [Some(tx), halves].into_iter().flatten() {
        let shape = [tokens, cols_out];
        let y = if accumulate { t.holding(&shape, &start)? } else { t.out(&shape)? };
        let to = if accumulate { Out::add_to(&y.tensor) } else { Out::into(&y.tensor) };
        rosa_linear(layout, &x, &weight, fused, to)?;
        t.compare(if forward { "Y" } else { "dX" }, &y, bounds(t, want.iter().copied()))?;
    }
    if IN_SHARDS.contains(&n) {
        let upload = |first: usize, rows: usize| {
            let row = bytes.len() / n;
            Ok((first, Weight::upload(t.device, dtype, rows, k, &bytes[first * row..(first + rows) * row])?))
        };
        let shards = [upload(0, n / 2)?, upload(n / 2, n - n / 2)?];
        let shape = [tokens, cols_out];
        let y = if accumulate { t.holding(&shape, &start)? } else { t.out(&shape)? };
        let to = if accumulate { Out::add_to(&y.tensor) } else { Out::into(&y.tensor) };
        sharded_linear(layout, &t.up(&[tokens, cols_in], &x)?, &shards, fused, to)?;
        t.compare("in shards", &y, bounds(t, want.iter().copied()))?;
    }
    Ok(())
}

/// A random S: its index and its values in CSR order.
fn entries(t: &mut Trial<'_>, rows: usize, cols: usize, density: f64) -> Result<(SparseIndex, Vec<f32>)> {
    let pattern = random_pattern(&mut t.rng, rows, cols, density)?;
    let values = t.random(pattern.nnz());
    Ok((SparseIndex::new(t.device, &pattern)?, values))
}

fn sampled(t: &mut Trial<'_>, c: Linear) -> Result<()> {
    let Linear { tokens, out: n, inn: k, density, .. } = c;
    let (index, start) = entries(t, n, k, density)?;
    let (dy, x) = (t.random(tokens * n), t.random(tokens * k));
    let (t_dy, t_x) = (t.up(&[tokens, n], &dy)?, t.up(&[tokens, k], &x)?);
    let ds = t.holding(&[start.len()], &index.from_csr_order(&start))?;
    sddmm(&t_dy, &t_x, &index, &ds.tensor)?;
    let want = bounds(t, t.want(|| masked_reference(&index, &start, (&dy, n), (&x, k))));
    compare_entries(t, &ds, &index, &want)?;
    if t.device.precision() == Precision::F16 {
        // on matrix units too where it would not pay
        let ds = t.holding(&[start.len()], &index.from_csr_order(&start))?;
        sddmm_by(SddmmAlgorithm::Tile, &t_dy, &t_x, &index, &ds.tensor)?;
        compare_entries(t, &ds, &index, &want)?;
    }
    // operands of f16 are what matrix units make of them anyway
    if operands(t.device, tokens, n, k) == Element::F16 {
        let halves = [t.operand(Element::F16, &[tokens, n], &dy)?.0, t.operand(Element::F16, &[tokens, k], &x)?.0];
        for (dy, x) in [(&halves[0], &t_x), (&t_dy, &halves[1]), (&halves[0], &halves[1])] {
            for way in [SddmmAlgorithm::Tile, SddmmAlgorithm::Sampled] {
                let ds = t.holding(&[start.len()], &index.from_csr_order(&start))?;
                sddmm_by(way, dy, x, &index, &ds.tensor)?;
                compare_entries(t, &ds, &index, &want)?;
            }
        }
    }
    Ok(())
}

/// By the sampled kernel of GPUs. Operands are halves where the kernel makes halves of them: only the sum rounds.
fn explicitly_sampled(
    t: &mut Trial<'_>,
    (tokens, n, k): (usize, usize, usize),
    mask: Mask,
    sampling: Sampling,
    as_halves: bool,
) -> Result<()> {
    let pattern = match mask {
        Mask::Scattered => random_pattern(&mut t.rng, n, k, 0.03)?,
        Mask::All => random_pattern(&mut t.rng, n, k, 1.0)?,
        Mask::Rows => {
            let flat: Vec<u64> = (0..(n * k) as u64)
                .filter(|at| {
                    let row = at / k as u64;
                    row == 3 || row % 2 == 1 && t.rng.uniform() < 0.05
                })
                .collect();
            CsrPattern::from_flat(n, k, &flat)?
        }
    };
    let index = SparseIndex::new(t.device, &pattern)?;
    let start = t.random(pattern.nnz());
    let mut values = |len: usize| -> Result<Vec<f32>> {
        let all = t.random(len);
        if sampling.half { Ok(stored(DType::F16, &all)?.1) } else { Ok(all) }
    };
    let (dy, x) = (values(tokens * n)?, values(tokens * k)?);
    let element = |cols: usize| if as_halves && cols.is_multiple_of(2) { Element::F16 } else { Element::F32 };
    let (t_dy, _) = t.operand(element(n), &[tokens, n], &dy)?;
    let (t_x, _) = t.operand(element(k), &[tokens, k], &x)?;
    let ds = t.holding(&[start.len()], &index.from_csr_order(&start))?;
    sddmm_sampled(sampling, &t_dy, &t_x, &index, &ds.tensor)?;
    let want = t.want(|| masked_reference(&index, &start, (&dy, n), (&x, k)));
    let want: Vec<Near> = want.into_iter().map(Near::from).collect();
    compare_entries(t, &ds, &index, &want)
}

/// `start` and the sum over tokens for each entry, in CSR order. Operands with the lengths of their rows.
fn masked_reference(index: &SparseIndex, start: &[f32], dy: (&[f32], usize), x: (&[f32], usize)) -> Vec<Exact> {
    let tokens = dy.0.len() / dy.1;
    let entries = index.pattern().entries().zip(start);
    entries
        .map(|((row, col), start)| {
            let (row, col) = (row as usize, col as usize);
            let terms = (0..tokens).map(|l| f64::from(dy.0[l * dy.1 + row]) * f64::from(x.0[l * x.1 + col]));
            Exact::sum(terms.chain([f64::from(*start)]))
        })
        .collect()
}

fn compare_entries(t: &mut Trial<'_>, ds: &Guarded, index: &SparseIndex, want: &[Near]) -> Result<()> {
    // the reference in bucket order, through places instead of values
    let places: Vec<f32> = (0..want.len()).map(|i| i as f32).collect();
    let want: Vec<Near> = t.want(|| index.from_csr_order(&places).into_iter().map(|i| want[i as usize]).collect());
    t.compare("dS", ds, want)
}

fn long_sum(t: &mut Trial<'_>) -> Result<()> {
    let (m, n, k) = (3, 8, LONGEST);
    let (a, b) = (t.random(m * k), t.random(n * k));
    let weight = Weight::from_tensor(&t.up(&[k, n], &b)?)?;
    let c = t.out(&[m, n])?;
    rosa_linear(Layout::Nn, &t.up(&[m, k], &a)?, &weight, Fused::default(), Out::into(&c.tensor))?;
    t.compare("C", &c, bounds(t, t.want(|| reference(Layout::Nn, (m, n, k), &a, &b))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::WeightFormat;

    #[test]
    fn every_format_has_rows() {
        for format in WeightFormat::ALL {
            assert!(DType::ALL.iter().any(|d| WeightFormat::of(*d) == format), "{format:?}");
        }
        let rows = rows();
        for (dtype, layout) in DType::ALL.iter().flat_map(|d| ["Nt", "Nn"].map(|l| (d, l))) {
            let name = format!("{layout} {dtype} ");
            assert!(rows.iter().any(|r| r.what.starts_with(&name) && r.level == Level::Quick), "{name}");
        }
    }
}
