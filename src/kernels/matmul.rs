//! Dense products in three layouts, and the fused RoSA linear: `shaders/matmul.wgsl`.

use super::parts::in_parts;
use super::tile::{DISCRETE, INTEGRATED, LONG_K, LONGEST_K, SOFTWARE, SPLIT_K, Tile, least_splits, splits, tiles};
use super::{coop, decode, kernel, launch, simd, tuned};

use crate::device::spec::{read, write};
use crate::device::tiles::{Family, Product};
use crate::device::{Cost, Device, DeviceClass, Grid, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::kernels::sparse::SparseIndex;
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};

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
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct MatmulParams {
    grid: Grid,
    m: u32,
    n: u32,
    k: u32,
    c_stride: u32,
    c_column: u32,
    pub(super) splits: u32,
    pub(super) k_per_split: u32,
    pub(super) scale: f32,
    rank: u32,
    w_scales: u32,
    bucket_cols: u32,
    s_positions: u32,
    w_cols: u32,
    u_stride: u32,
    u_column: u32,
    nnz: u32,
}

impl MatmulParams {
    /// One part along k, unscaled, nothing fused.
    pub(super) fn of((m, n, k): (usize, usize, usize), (stride, column): (usize, usize)) -> Self {
        MatmulParams {
            m: m as u32,
            n: n as u32,
            k: k as u32,
            c_stride: stride as u32,
            c_column: column as u32,
            splits: 1,
            k_per_split: k as u32,
            scale: 1.0,
            ..Default::default()
        }
    }
}

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

/// How the result of a product is written.
#[derive(Clone, Copy)]
pub struct Out<'a> {
    /// Into this tensor instead of a new one.
    pub to: Option<&'a Tensor>,
    /// Add to what is there.
    pub accumulate: bool,
    /// Elements between rows of the output and the first column written, where a part of a wider one is meant.
    pub stride_column: Option<(usize, usize)>,
    pub scale: f32,
    /// Row of the ledger for a new output.
    pub what: &'static str,
}

impl Default for Out<'_> {
    fn default() -> Self {
        Out { to: None, accumulate: false, stride_column: None, scale: 1.0, what: "activations" }
    }
}

impl<'a> Out<'a> {
    /// A new tensor, scaled.
    pub fn scaled(scale: f32) -> Self {
        Out { scale, ..Out::default() }
    }

    /// Adds to `to`.
    pub fn add_to(to: &'a Tensor) -> Self {
        Out { to: Some(to), accumulate: true, ..Out::default() }
    }

    /// Overwrites `to`.
    pub fn into(to: &'a Tensor) -> Self {
        Out { to: Some(to), ..Out::default() }
    }

    pub(super) fn tensor(
        &self,
        device: &Device,
        op: &'static str,
        m: usize,
        n: usize,
    ) -> Result<(Tensor, usize, usize)> {
        let (stride, column) = self.stride_column.unwrap_or((n, 0));
        let c = match self.to {
            None => Tensor::empty(device, &[m, stride], self.what)?,
            Some(c) => c.clone(),
        };
        if c.len() != m * stride || column + n > stride || (self.to.is_none() && self.accumulate) {
            return Err(Error::shape(op, format!("output {:?} for [{m}, {n}]", c.shape())));
        }
        Ok((c, stride, column))
    }
}

/// `C = scale · op(A) · op(B)`, f32. Shapes as in [`Layout`].
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn matmul(layout: Layout, a: &Tensor, b: &Tensor, out: Out<'_>) -> Result<Tensor> {
    let (a0, a1) = a.dims2("matmul")?;
    let (b0, b1) = b.dims2("matmul")?;
    let (m, n, k, k_b) = match layout {
        Layout::Nt => (a0, b0, a1, b1),
        Layout::Nn => (a0, b1, a1, b0),
        Layout::Tn => (a1, b1, a0, b0),
    };
    if k != k_b {
        return Err(Error::shape("matmul", format!("{layout:?} of {:?} and {:?}", a.shape(), b.shape())));
    }
    let device = a.device();
    let (c, stride, column) = out.tensor(device, "matmul", m, n)?;
    if coop::choose(device, layout, (m, n, k), [a1, b1], [stride, column]).is_some() {
        let out = Out { to: Some(&c), ..out };
        return coop::matmul(layout, coop::Operand::Tensor(a), coop::Operand::Tensor(b), device, out);
    }
    let class = device.caps().class;
    let lanes = simd::lanes(device.caps());
    let tile = match lanes {
        Some(_) => simd::choose(layout, None, m, n),
        None => tuned::choose(
            device,
            Tile::choose(class, m, n, if stride == n { k } else { 0 }),
            || tiles(class).square,
            || {
                let product = tuned::product(Family::Matmul, layout, [m, n, k], [0, 0]);
                Product { accumulate: out.accumulate, stride_column: (stride, column), ..product }
            },
        ),
    };
    let vec = a1.is_multiple_of(4) && b1.is_multiple_of(4);
    let splits = if stride == n { splits(tiles(class).fill, tile, m, n, k).max(least_splits(class, k)) } else { 1 };
    let k_per_split = k.div_ceil(splits).next_multiple_of(tile.bk as usize);
    let params = MatmulParams {
        splits: splits as u32,
        k_per_split: k_per_split as u32,
        scale: if splits == 1 { out.scale } else { 1.0 },
        ..MatmulParams::of((m, n, k), (stride, column))
    };
    let cost = Cost { flops: 2.0 * (m * n) as f64 * k as f64, bytes: 4.0 * (a.len() + b.len() + m * n) as f64 };
    let groups = tile.groups(m, n) * splits as u64;
    let run = |accumulate: bool, to: &Tensor| {
        let spec = match lanes {
            Some(lanes) => {
                let w = (&b.slice(), WeightFormat::F32);
                let loads = simd::Loads::choose((device, lanes), (layout, tile), vec, &a.slice(), w);
                simd::matmul_spec(loads, layout, accumulate, even(n, stride, column), tile)
            }
            None => matmul_spec(layout, fours(vec, [n, stride, column]), accumulate, tile),
        };
        launch(device, &spec, &[a.slice(), b.slice(), to.slice()], &params, groups, cost)
    };
    in_parts(splits, &c, out.scale, out.accumulate, run)?;
    Ok(c)
}

/// Whether columns of the output can be stored two at a time.
fn even(n: usize, stride: usize, column: usize) -> bool {
    [n, stride, column].iter().all(|x| x % 2 == 0)
}

/// The shader's VEC: whether operands are read four elements at a time, and whether the rest is too.
fn fours(operands: bool, others: impl IntoIterator<Item = usize>) -> u32 {
    let others = others.into_iter().all(|x| x.is_multiple_of(4));
    if operands && others { 2 } else { operands.into() }
}

/// Whether rows of U, V, A and B can be read two elements at a time.
fn low_rank_even(p: &MatmulParams) -> bool {
    p.rank > 0 && [p.rank, p.u_stride, p.u_column].iter().all(|x| x % 2 == 0)
}

/// `ds [nnz] += (dYᵀ·X)` at the mask, by whole tiles: dY `[tokens, rows]`, X `[tokens, cols]`. Shapes are the caller's
/// to check.
pub(super) fn masked_product(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let device = dy.device();
    let class = device.caps().class;
    let (tokens, _) = dy.dims2("sddmm")?;
    let (m, n) = (index.rows(), index.cols());
    let units = coop::choose(device, Layout::Tn, (m, n, tokens), [m, n], [0, 0]);
    // split along the tokens, a large tile fills the device as a small one would, and loads less
    let square = tiles(class).square;
    let fits = |t: &&Tile| m >= 2 * t.bm as usize && n >= 2 * t.bn as usize;
    let tile = units.map_or(*square.iter().find(fits).unwrap_or(&square[square.len() - 1]), |u| u.1);
    let splits = splits(tiles(class).fill, tile, m, n, tokens);
    let params = MatmulParams {
        m: m as u32,
        n: n as u32,
        k: tokens as u32,
        splits: splits as u32,
        k_per_split: tokens.div_ceil(splits).next_multiple_of(tile.bk as usize) as u32,
        scale: 1.0,
        bucket_cols: index.bucket_cols() as u32,
        s_positions: index.positions_at() as u32,
        nnz: index.nnz() as u32,
        ..Default::default()
    };
    let cost = Cost { flops: 2.0 * (m * n) as f64 * tokens as f64, bytes: (dy.slice().len + x.slice().len) as f64 };
    let vec = m.is_multiple_of(4) && n.is_multiple_of(4);
    let run = |accumulate: bool, to: &Tensor| {
        let bindings = [dy.slice(), x.slice(), index.tensor().slice(), to.slice()];
        let spec = match units {
            Some(on) => coop::sddmm_spec(on, [coop::format(dy), coop::format(x)], tokens, accumulate),
            None => sddmm_spec(vec.into(), accumulate, tile),
        };
        launch(device, &spec, &bindings, &params, tile.groups(m, n) * splits as u64, cost)
    };
    in_parts(splits, ds, 1.0, true, run)
}

fn sddmm_spec(vec: u32, accumulate: bool, tile: Tile) -> KernelSpec {
    let spec = matmul_spec(Layout::Tn, vec, accumulate, tile);
    let consts = spec.consts.into_iter().filter(|c| c.0 != "MASKED").chain([("MASKED", 1)]).collect::<Vec<_>>();
    KernelSpec::new(&SDDMM_TILE, consts)
}

fn matmul_spec(layout: Layout, vec: u32, accumulate: bool, tile: Tile) -> KernelSpec {
    // a gradient's rows are stored one by one: with whole vectors the same tile is slower (39 instead of 42 TFLOP/s)
    let vec = if layout == Layout::Tn { vec.min(1) } else { vec };
    // of the largest tiles; BENCHMARKS.md has what each makes of the others
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

/// The adapter's part in a fused linear.
#[derive(Clone, Copy, Default)]
pub struct Fused<'a> {
    /// Index and values of S `[out, in]`.
    pub sparse: Option<(&'a SparseIndex, &'a Tensor)>,
    /// Forward: U `[tokens, ≥ rank]` (already scaled by s) and B `[out, rank]`. Backward: V `[tokens, ≥ rank]` and A
    /// `[rank, in]`. The number is the first column of U or V that belongs to this linear.
    pub low_rank: Option<(&'a Tensor, usize, &'a Tensor)>,
    /// `[out]`; forward only.
    pub bias: Option<&'a Tensor>,
}

/// Forward `Y = X·(W+S)ᵀ + U·Bᵀ + bias` (`Nt`: X `[tokens, in]` to Y `[tokens, out]`) or backward
/// `dX = dY·(W+S) + V·A` (`Nn`: dY `[tokens, out]` to dX `[tokens, in]`) in one kernel.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rosa_linear(layout: Layout, x: &Tensor, w: &Weight, fused: Fused<'_>, out: Out<'_>) -> Result<Tensor> {
    let device = x.device();
    let (m, k) = x.dims2("rosa_linear")?;
    let (n, k_w) = match layout {
        Layout::Nt => (w.rows(), w.cols()),
        Layout::Nn => (w.cols(), w.rows()),
        Layout::Tn => return Err(Error::shape("rosa_linear", "there is no weight gradient of a frozen weight")),
    };
    let refuse = |what: String| Err(Error::shape("rosa_linear", what));
    if k != k_w {
        return refuse(format!("{layout:?} of x {:?} and W [{}, {}]", x.shape(), w.rows(), w.cols()));
    }
    if let Some((index, values)) = fused.sparse {
        let s = (index.rows(), index.cols(), index.nnz());
        if s != (w.rows(), w.cols(), values.len()) {
            return refuse(format!("S [{}, {}] on W [{}, {}]", s.0, s.1, w.rows(), w.cols()));
        }
    }
    let (c, stride, column) = out.tensor(device, "rosa_linear", m, n)?;
    let vec = k.is_multiple_of(4) && w.cols().is_multiple_of(4);
    // in registers S cannot be added on the way, and writing W + S out pays only for a good many rows
    let units = coop::choose(device, layout, (m, n, k), [k, w.cols()], [stride, column]);
    let lanes = simd::lanes(device.caps())
        .filter(|_| units.is_none())
        .filter(|_| vec || !w.format().is_quantised())
        .filter(|_| k <= 4 * LONGEST_K) // that shader does not split k, and takes fewer rounds for it
        .filter(|_| fused.sparse.is_none() || (vec && m > 16));
    let merged = match fused.sparse {
        Some((index, values)) if lanes.is_some() => Some(simd::merged(device, w, index, values)?),
        sparse => decode::pays(w, sparse, m, units.is_some()).map(|to| decode::decoded(w, sparse, to)).transpose()?,
    };
    let (w, sparse) = merged.as_ref().map_or((w, fused.sparse), |merged| (merged, None));
    let can_split = fused.bias.is_none() && stride == n;
    let tile = match (lanes, units) {
        (Some(_), _) => simd::choose(layout, Some(w.format()), m, n),
        (None, Some((_, tile))) => tile,
        (None, None) => Tile::choose(device.caps().class, m, n, if can_split { k } else { 0 }),
    };
    let dummy = device.dummy()?;
    let mut params = MatmulParams {
        scale: out.scale,
        w_scales: w.scales_at(),
        w_cols: w.cols() as u32,
        ..MatmulParams::of((m, n, k), (stride, column))
    };
    let (mut s_index, mut s_values) = (dummy.clone(), dummy.clone());
    if let Some((index, values)) = sparse {
        params.bucket_cols = index.bucket_cols() as u32;
        params.s_positions = index.positions_at() as u32;
        (s_index, s_values) = (index.tensor().slice(), values.slice());
    }
    let (mut u_slice, mut v_slice) = (dummy.clone(), dummy.clone());
    if let Some((u, column, v)) = fused.low_rank {
        let (u_rows, u_stride) = u.dims2("rosa_linear")?;
        let (v0, v1) = v.dims2("rosa_linear")?;
        let (rank, v_n) = if layout == Layout::Nt { (v1, v0) } else { (v0, v1) };
        if u_rows != m || v_n != n || column + rank > u_stride {
            return refuse(format!("low-rank {:?} at {column} and {:?} for [{m}, {n}]", u.shape(), v.shape()));
        }
        (params.rank, params.u_stride, params.u_column) = (rank as u32, u_stride as u32, column as u32);
        (u_slice, v_slice) = (u.slice(), v.slice());
    }
    let mut bias_slice = dummy.clone();
    if let Some(bias) = fused.bias {
        bias_slice = bias.expect_shape("rosa_linear", "bias", &[n])?.slice();
    }
    // none in registers
    let (family, others) = match units {
        Some((units, _)) => (Family::RosaLinearCoop, units.tiles()),
        None => (Family::RosaLinear, if lanes.is_some() { &[][..] } else { tiles(device.caps().class).square }),
    };
    let tile = tuned::choose(
        device,
        tile,
        || others,
        || {
            let formats = [coop::format(x), w.format() as u32];
            let mut product = tuned::product(family, layout, [m, n, k], formats);
            (product.key.sparse, product.key.low_rank) = (sparse.is_some(), fused.low_rank.is_some());
            let nnz = sparse.map_or(0, |(index, _)| index.nnz());
            let (rank, bias, accumulate) = (params.rank as usize, fused.bias.is_some(), out.accumulate);
            Product { rank, nnz, bias, accumulate, stride_column: (stride, column), ..product }
        },
    );
    let thin = [params.rank, params.u_stride, params.u_column].map(|x| x as usize);
    let variant = RosaVariant {
        layout,
        vec: fours(vec, [n, stride, column].into_iter().chain(thin)),
        accumulate: out.accumulate,
        format: w.format(),
        sparse: sparse.is_some(),
        low_rank: fused.low_rank.is_some(),
        thin4: thin.iter().all(|x| x.is_multiple_of(4)),
        bias: fused.bias.is_some(),
        tile,
    };
    let cost = Cost {
        flops: 2.0 * (m * n) as f64 * (k + params.rank as usize) as f64,
        bytes: (x.slice().len + w.slice().len) as f64 + 4.0 * c.len() as f64,
    };
    let groups = tile.groups(m, n);
    if let Some(lanes) = lanes {
        let thin = low_rank_even(&params);
        let from = (&w.slice(), w.format());
        let loads = simd::Loads::choose((device, lanes), (layout, tile), vec, &x.slice(), from);
        let spec = simd::rosa_spec(loads, &variant, even(n, stride, column), thin);
        let bindings = [x.slice(), w.slice(), u_slice, v_slice, bias_slice, c.slice()];
        launch(device, &spec, &bindings, &params, groups, cost)?;
        return Ok(c);
    }
    let run = |variant: &RosaVariant, params: &MatmulParams, to: Slice| {
        let bindings = [&s_index, &s_values, &u_slice, &v_slice, &bias_slice].map(Slice::clone);
        let [s_index, s_values, u, v, bias] = bindings;
        let spec = match units {
            Some((units, _)) => coop::rosa_spec(units, variant, coop::format(x), k),
            None => rosa_spec(variant),
        };
        let bindings = [x.slice(), w.slice(), s_index, s_values, u, v, bias, to];
        launch(device, &spec, &bindings, params, groups * u64::from(params.splits), cost)
    };
    let splits = match (device.caps().class, units) {
        (DeviceClass::Software, _) => least_splits(DeviceClass::Software, k),
        (_, Some(_)) if k < LONG_K => 1,
        (_, None) if k < SPLIT_K => 1,
        (_, Some(_)) => splits(coop::FILL, tile, m, n, k),
        (class, None) => splits(tiles(class).fill, tile, m, n, k),
    };
    let mut parts = 1;
    if splits > 1 && can_split {
        let k_per_split = k.div_ceil(splits).next_multiple_of(tile.bk as usize);
        parts = k.div_ceil(k_per_split);
        (params.splits, params.k_per_split) = (parts as u32, k_per_split as u32);
    }
    if parts > 1 {
        params.scale = 1.0;
    }
    in_parts(parts, &c, out.scale, out.accumulate, |accumulate, to| {
        run(&RosaVariant { accumulate, ..variant }, &params, to.slice())
    })?;
    Ok(c)
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

fn rosa_spec(v: &RosaVariant) -> KernelSpec {
    // of the largest tiles, as above: four steps of k, but where they are slower (BENCHMARKS.md, "Plain kernels")
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

/// What [`fours`] says.
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
