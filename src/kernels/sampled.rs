//! The sparse gradient on GPUs where masks are thin: one dot product an entry, from copies of dY and X whose tokens lie
//! side by side. `shaders/transpose.wgsl`, `shaders/sddmm_rows.wgsl`.
//!
//! An entry reads a row of each copy, nnz · tokens · 2 bytes for f16, where the masked product computes all
//! rows · cols · tokens; entries of a row are taken in fours, which share what they read of dY.

use super::coop;
use super::matmul::Layout;
use super::sparse::SparseIndex;
use super::{kernel, launch};
use crate::csr::CsrPattern;
use crate::device::spec::{read, write};
use crate::device::{Cost, Device, DeviceClass, Grid, KernelSpec, Precision};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `turned[col, t] = x[t, col]` of dY and of X, as f16 or f32; both come as either.
    TRANSPOSE, "transpose", "transpose.wgsl", TransposeParams,
    [read("dy").half_if("DY16"), read("x").half_if("X16"), write("dy_turned"), write("x_turned")]
);
kernel!(
    /// `dS[e] += Σ_t dYᵀ[row(e), t] · Xᵀ[col(e), t]`.
    SDDMM_ROWS, "sddmm_rows", "sddmm_rows.wgsl", RowsParams,
    [read("dyt"), read("xt"), read("rows"), read("entries"), read("s_index"), write("ds")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct TransposeParams {
    grid: Grid,
    first: u32,
    end: u32,
    words: u32,
    dy_groups: u32,
    dy_cols: u32,
    x_cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RowsParams {
    grid: Grid,
    fours: u32,
    steps: u32,
    bucket_cols: u32,
}

/// Bits of an entry that say its place in its bucket; the column is above them.
const PLACE_BITS: u32 = 10;
/// A place of a four that no entry takes.
const NONE: u32 = u32::MAX;

/// The entries of a mask row by row, columns ascending, in fours of one row.
pub(super) struct Fours {
    count: usize,
    /// `[count]` the row of each four.
    rows: Tensor,
    /// `[count, 4]` column · 1024 + place in the bucket, or [`NONE`].
    entries: Tensor,
}

impl Fours {
    /// Whether columns of a matrix this wide can be told from [`NONE`].
    pub fn fit(cols: usize) -> bool {
        cols < 1 << (32 - PLACE_BITS)
    }

    /// Uploads those of `pattern`, whose entries have these places in their buckets.
    pub fn new(device: &Device, pattern: &CsrPattern, places: &[u32]) -> Result<Fours> {
        if !Fours::fit(pattern.cols) {
            return Err(Error::shape("sddmm", format!("a mask with {} columns cannot be sampled", pattern.cols)));
        }
        let (mut rows, mut entries) = (Vec::new(), Vec::new());
        for row in 0..pattern.rows {
            let own = pattern.entries_of(row..row + 1);
            let packed: Vec<u32> = own.clone().map(|i| pattern.col_idx[i] << PLACE_BITS | places[i]).collect();
            for four in packed.chunks(4) {
                rows.push(row as u32);
                entries.extend((0..4).map(|i| four.get(i).copied().unwrap_or(NONE)));
            }
        }
        let count = rows.len();
        let rows = Tensor::from_slice(device, &[count], &rows, "sparse index")?;
        let entries = Tensor::from_slice(device, &[count, 4], &entries, "sparse index")?;
        Ok(Fours { count, rows, entries })
    }

    /// Room for the fours of any mask of `nnz` entries, for a device that only counts.
    pub fn unknown(device: &Device, rows: usize, nnz: usize) -> Result<Fours> {
        let count = (nnz + 3 * rows.min(nnz)) / 4;
        let rows = Tensor::empty(device, &[count], "sparse index")?;
        Ok(Fours { count, rows, entries: Tensor::empty(device, &[count, 4], "sparse index")? })
    }
}

/// How the entries are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// The copies hold f16, else f32.
    pub half: bool,
    /// Threads a four: 8, 16 or 32.
    pub lanes: u32,
    /// Steps of a thread whose loads are in flight together: 1 or 2.
    pub unroll: u32,
    /// Tokens that are copied and sampled at a time, a multiple of 64.
    pub slice: usize,
}

const LANES: [u32; 3] = [8, 16, 32];
const UNROLLS: [u32; 2] = [1, 2];
/// Lengths of the copies' rows are multiples of this: whole tiles of the transposition, whole cache lines.
const TOKENS: usize = 64;
/// Threads of a workgroup.
const THREADS: u32 = 256;
/// Workgroups that fill a large GPU.
const FILL: usize = 256;
/// Bytes of both copies of a slice, about.
const SLICE_BYTES: usize = 128 << 20;

impl Sampling {
    /// What this device should do with so many tokens.
    pub fn choose(device: &Device, tokens: usize, index: &SparseIndex) -> Sampling {
        let half = device.precision() == Precision::F16;
        let slices = (copies_bytes(half, tokens, index) / SLICE_BYTES as f64).ceil().max(1.0) as usize;
        // 16 threads a four were fastest on an H200 but for few tokens, and for few entries, which are spread over more
        let fills = |lanes: u32| (index.nnz() / 4).div_ceil((THREADS / lanes) as usize) >= FILL;
        let lanes = match tokens {
            ..=1024 if fills(8) => 8,
            _ if fills(16) => 16,
            _ => 32,
        };
        Sampling {
            half,
            lanes,
            unroll: if half { 2 } else { 1 },
            slice: tokens.div_ceil(slices).next_multiple_of(TOKENS),
        }
    }

    /// As many tokens at a time, with every number of threads a four and of loads in flight.
    pub(super) fn all(&self) -> impl Iterator<Item = Sampling> {
        LANES.iter().flat_map(|&lanes| UNROLLS.map(|unroll| Sampling { lanes, unroll, ..*self }))
    }

    fn spec(&self) -> KernelSpec {
        KernelSpec::new(&SDDMM_ROWS, [("HALF", self.half.into()), ("LANES", self.lanes), ("UNROLL", self.unroll)])
    }

    fn check(&self) -> Result<()> {
        let known = LANES.contains(&self.lanes) && UNROLLS.contains(&self.unroll);
        if known && self.slice > 0 && self.slice.is_multiple_of(TOKENS) {
            return Ok(());
        }
        Err(Error::shape("sddmm", format!("there is no kernel for {self:?}")))
    }
}

/// Bytes of a token in a copy.
fn element(half: bool) -> usize {
    if half { 2 } else { 4 }
}

fn copies_bytes(half: bool, tokens: usize, index: &SparseIndex) -> f64 {
    (index.rows() + index.cols()) as f64 * row(half, tokens)
}

/// Rates of a class of devices, of which only the ratios matter.
struct Rates {
    /// Operations a second of the masked product, on matrix units and without.
    units: f64,
    plain: f64,
    /// Bytes a second that entries read.
    sampled: f64,
    /// Bytes a second that are read and written to copy dY and X.
    copied: f64,
    /// Seconds of a launch, and of the start of a masked product: its first tile, and the sum of its parts.
    launch: f64,
    start: f64,
}

/// An H200, as BENCHMARKS.md has it.
const DISCRETE: Rates =
    Rates { units: 215e12, plain: 36e12, sampled: 7.5e12, copied: 2.7e12, launch: 4e-6, start: 30e-6 };
/// An estimate for a GPU beside the CPU's memory, with caches that gain less.
const INTEGRATED: Rates =
    Rates { units: 10e12, plain: 4e12, sampled: 0.3e12, copied: 0.15e12, launch: 10e-6, start: 30e-6 };

/// Whether this mask can be sampled here: its columns can be told, and a copy fits into a binding.
pub(super) fn can(device: &Device, tokens: usize, index: &SparseIndex) -> bool {
    let (caps, half) = (device.caps(), device.precision() == Precision::F16);
    let largest = index.rows().max(index.cols()) as f64 * row(half, tokens);
    Fours::fit(index.cols()) && largest <= caps.max_binding.min(caps.max_buffer) as f64
}

/// Whether sampling should take less time than the masked product, by the rates of the device's class; `operands` are the bytes
/// of dY and X.
pub(super) fn pays(device: &Device, tokens: usize, index: &SparseIndex, operands: u64) -> bool {
    let rates = match device.caps().class {
        DeviceClass::Integrated => &INTEGRATED,
        _ => &DISCRETE,
    };
    let half = device.precision() == Precision::F16;
    let (m, n) = (index.rows(), index.cols());
    let units = coop::choose(device, Layout::Tn, (m, n, tokens), [m, n], [0, 0]).is_some();
    let flops = 2.0 * (m * n) as f64 * tokens as f64;
    let tile = rates.start + flops / if units { rates.units } else { rates.plain };

    let copies = copies_bytes(half, tokens, index) + operands as f64;
    // a four reads a row of dY too
    let sampled = 1.25 * index.nnz() as f64 * row(half, tokens) / rates.sampled;
    2.0 * rates.launch + sampled + copies / rates.copied < tile
}

/// Bytes of a row of a copy.
fn row(half: bool, tokens: usize) -> f64 {
    (tokens.next_multiple_of(TOKENS) * element(half)) as f64
}

/// Copies and samples slice by slice. Shapes are the caller's to check; there are entries, and tokens.
pub(super) fn run(sampling: Sampling, dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    sampling.check()?;
    let device = ds.device();
    let (tokens, _) = dy.dims2("sddmm")?;
    let fours = index.fours()?;
    let spec = sampling.spec();
    let mut first = 0;
    while first < tokens {
        let end = (first + sampling.slice).min(tokens);
        let bytes = (end - first).next_multiple_of(TOKENS) * element(sampling.half);
        let [dyt, xt] = turned([dy, x], first..end, sampling.half, bytes / 4)?;
        let params = RowsParams {
            fours: fours.count as u32,
            steps: (bytes / 16) as u32,
            bucket_cols: index.bucket_cols() as u32,
            ..Default::default()
        };
        let bindings =
            [dyt.slice(), xt.slice(), fours.rows.slice(), fours.entries.slice(), index.tensor().slice(), ds.slice()];
        let cost = Cost {
            flops: 2.0 * (index.nnz() * (end - first)) as f64,
            bytes: (index.nnz() + fours.count) as f64 * bytes as f64,
        };
        let groups = fours.count.div_ceil((THREADS / sampling.lanes) as usize) as u64;
        launch(device, &spec, &bindings, &params, groups, cost)?;
        first = end;
    }
    Ok(())
}

/// Some tokens of dY and X `[tokens, cols]` as `[cols, words]`, a row's words filled up with zeros.
fn turned(operands: [&Tensor; 2], tokens: std::ops::Range<usize>, half: bool, words: usize) -> Result<[Tensor; 2]> {
    let [dy, x] = operands;
    if let Some(x) = operands.into_iter().find(|x| x.element() == Element::F16 && !half) {
        return Err(Error::shape("transpose", format!("{x:?} is not turned into f32")));
    }
    let cols = |x: &Tensor| x.dims2("transpose").map(|(_, cols)| cols);
    let (dy_cols, x_cols) = (cols(dy)?, cols(x)?);
    let out = |cols: usize| Tensor::empty(x.device(), &[cols, words], "scratch");
    let (dyt, xt) = (out(dy_cols)?, out(x_cols)?);
    let groups = |cols: usize| cols.div_ceil(64) * (words / 32);
    let params = TransposeParams {
        first: tokens.start as u32,
        end: tokens.end as u32,
        words: words as u32,
        dy_groups: groups(dy_cols) as u32,
        dy_cols: dy_cols as u32,
        x_cols: x_cols as u32,
        ..Default::default()
    };
    let read = (dy.element().bytes() * dy_cols + x.element().bytes() * x_cols) * tokens.len();
    let cost = Cost { flops: 0.0, bytes: (read + 4 * (dyt.len() + xt.len())) as f64 };
    let spec = transpose_spec(half, operands.map(|x| x.element() == Element::F16));
    let bindings = [dy.slice(), x.slice(), dyt.slice(), xt.slice()];
    launch(x.device(), &spec, &bindings, &params, (groups(dy_cols) + groups(x_cols)) as u64, cost)?;
    Ok([dyt, xt])
}

fn transpose_spec(half: bool, [dy16, x16]: [bool; 2]) -> KernelSpec {
    KernelSpec::new(&TRANSPOSE, [("HALF", half.into()), ("DY16", dy16.into()), ("X16", x16.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = Vec::new();
    for half in flags {
        let given = flags.into_iter().flat_map(|dy| flags.map(|x| [dy, x]));
        all.extend(given.filter(|any| half || *any == [false; 2]).map(|given| transpose_spec(half, given)));
        for (lanes, unroll) in LANES.iter().flat_map(|&l| UNROLLS.map(|u| (l, u))) {
            all.push(Sampling { half, lanes, unroll, slice: TOKENS }.spec());
        }
    }
    all
}
