//! The sparse adapter on the device: its index, and its gradient at the mask (SDDMM).

use super::matmul::{Layout, masked_product};
use super::sampled::{self, Fours, Sampling};
use super::tuned::{self, Choice};
use super::{coop, kernel, launch};
use crate::csr::CsrPattern;
use crate::device::spec::{read, write};
use crate::device::tiles::{Family, Product, TileId};
use crate::device::{Cost, Device, DeviceClass, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use bytemuck::{Pod, Zeroable};
use std::sync::{Arc, OnceLock};

kernel!(
    /// `dS[e] = Σ_t dY[t, row(e)] · X[t, col(e)]`.
    SAMPLED, "sddmm_sampled", "sddmm_sampled.wgsl", SampledParams,
    [read("dy").image_if("DY_IMAGE"), read("x").image_if("X_IMAGE"), read("coords"), write("ds")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SampledParams {
    grid: Grid,
    tokens: u32,
    rows: u32,
    cols: u32,
    nnz: u32,
}

/// Edge of a bucket, in elements. Tiles of the product kernels are cut along multiples of 4 inside of it.
const BUCKET: usize = 32;

/// Positions of S `[rows, cols]`, bucketed by blocks of 32 × 32 of the weight, inside a bucket by patches of 4 × 4.
/// Values, their gradients and optimiser states lie in this order; CSR is the order of files.
#[derive(Clone)]
pub struct SparseIndex(Arc<Inner>);

struct Inner {
    rows: usize,
    cols: usize,
    nnz: usize,
    positions_at: usize,
    index: Tensor,
    /// What sampled kernels walk along: on a software renderer the first, on GPUs the second. The other one is made
    /// when it is asked for.
    coords: OnceLock<Tensor>,
    fours: OnceLock<Fours>,
    /// For each entry in bucket order, its place in CSR order.
    csr_of: Vec<u32>,
    pattern: CsrPattern,
}

impl SparseIndex {
    /// Uploads a pattern.
    pub fn new(device: &Device, pattern: &CsrPattern) -> Result<SparseIndex> {
        let (rows, cols, nnz) = (pattern.rows, pattern.cols, pattern.nnz());
        let (bucket_rows, bucket_cols) = (rows.div_ceil(BUCKET), cols.div_ceil(BUCKET));
        let key = |row: u32, col: u32| {
            let bucket = (row as u64 / 32) * bucket_cols as u64 + col as u64 / 32;
            let (r, c) = (row % 32, col % 32);
            (bucket << 16) | u64::from(((r / 4 * 8 + c / 4) << 4) | ((r % 4) << 2) | (c % 4))
        };
        let mut order: Vec<(u64, u32)> =
            pattern.entries().enumerate().map(|(i, (r, c))| (key(r, c), i as u32)).collect();
        order.sort_unstable();

        let mut offsets = vec![0u32; bucket_rows * bucket_cols + 1];
        let mut positions = vec![0u32; nnz.div_ceil(2)];
        for (e, &(key, ..)) in order.iter().enumerate() {
            offsets[(key >> 16) as usize + 1] += 1;
            positions[e / 2] |= ((key & 0xffff) as u32) << (16 * (e % 2));
        }
        for b in 1..offsets.len() {
            offsets[b] += offsets[b - 1];
        }
        let positions_at = offsets.len();
        offsets.extend(positions);
        let index = Tensor::from_slice(device, &[offsets.len()], &offsets, "sparse index")?;
        let csr_of = order.iter().map(|o| o.1).collect();
        let (coords, fours) = Default::default();
        let pattern = pattern.clone();
        let inner = Inner { rows, cols, nnz, positions_at, index, coords, fours, csr_of, pattern };
        let index = SparseIndex(Arc::new(inner));
        match device.caps().class {
            DeviceClass::Software => index.coords().map(drop)?,
            _ if Fours::fit(cols) => index.fours().map(drop)?,
            _ => {}
        }
        Ok(index)
    }

    /// Room for `nnz` positions that are not known yet, and none of them: for a device that only counts.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn unknown(device: &Device, rows: usize, cols: usize, nnz: usize) -> Result<SparseIndex> {
        let positions_at = rows.div_ceil(BUCKET) * cols.div_ceil(BUCKET) + 1;
        let index = Tensor::empty(device, &[positions_at + nnz.div_ceil(2)], "sparse index")?;
        let (mut coords, mut fours): (OnceLock<_>, OnceLock<_>) = Default::default();
        match device.caps().class {
            DeviceClass::Software => coords = Tensor::empty(device, &[nnz, 2], "sparse index")?.into(),
            _ if Fours::fit(cols) => fours = Fours::unknown(device, rows, nnz)?.into(),
            _ => {}
        }
        Ok(SparseIndex(Arc::new(Inner {
            rows,
            cols,
            nnz,
            positions_at,
            index,
            coords,
            fours,
            csr_of: Vec::new(),
            pattern: CsrPattern { rows, cols, row_offs: vec![0; rows + 1], col_idx: Vec::new() },
        })))
    }

    pub fn rows(&self) -> usize {
        self.0.rows
    }

    pub fn cols(&self) -> usize {
        self.0.cols
    }

    pub fn nnz(&self) -> usize {
        self.0.nnz
    }

    /// Whether this is the same index, not one like it.
    pub(super) fn is(&self, other: &SparseIndex) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn buckets(&self) -> usize {
        self.0.positions_at - 1
    }

    /// Buckets in a row of buckets.
    pub(super) fn bucket_cols(&self) -> usize {
        self.0.cols.div_ceil(BUCKET)
    }

    /// The word of [`SparseIndex::tensor`] where positions start, behind the buckets' offsets.
    pub(super) fn positions_at(&self) -> usize {
        self.0.positions_at
    }

    /// Offsets of buckets, then positions in them, two a word.
    pub(super) fn tensor(&self) -> &Tensor {
        &self.0.index
    }

    /// (row, column) of each entry in bucket order, `[nnz, 2]`.
    pub(super) fn coords(&self) -> Result<&Tensor> {
        let i = &self.0;
        once(&i.coords, || {
            let of: Vec<(u32, u32)> = i.pattern.entries().collect();
            let coords: Vec<[u32; 2]> = i.csr_of.iter().map(|&at| of[at as usize].into()).collect();
            Tensor::from_slice(i.index.device(), &[i.nnz, 2], &coords, "sparse index")
        })
    }

    /// The entries of each row in fours.
    pub(super) fn fours(&self) -> Result<&Fours> {
        let i = &self.0;
        once(&i.fours, || {
            let of: Vec<(u32, u32)> = i.pattern.entries().collect();
            // the place of each entry in its bucket
            let mut places = vec![0u32; i.nnz];
            let (mut bucket, mut first) = (None, 0);
            for (slot, &at) in i.csr_of.iter().enumerate() {
                let (row, col) = of[at as usize];
                if bucket.replace((row / BUCKET as u32, col / BUCKET as u32)) != bucket {
                    first = slot;
                }
                places[at as usize] = (slot - first) as u32;
            }
            Fours::new(i.index.device(), &i.pattern, &places)
        })
    }

    pub fn pattern(&self) -> &CsrPattern {
        &self.0.pattern
    }

    /// Values in CSR order, from values in bucket order.
    pub fn to_csr_order(&self, values: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; values.len()];
        for (v, &at) in values.iter().zip(&self.0.csr_of) {
            out[at as usize] = *v;
        }
        out
    }

    /// Values in bucket order, from values in CSR order.
    pub fn from_csr_order(&self, values: &[f32]) -> Vec<f32> {
        self.0.csr_of.iter().map(|&at| values[at as usize]).collect()
    }
}

/// How [`sddmm`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SddmmWay {
    /// One dot product an entry.
    Sampled,
    /// Whole tiles of the product, of which the entries are kept.
    Tile,
}

/// The same with all that there is to choose.
#[derive(Clone, Copy)]
enum Way {
    Tile,
    Sampled(Sampling),
}

impl Way {
    /// What was measured to be the fastest, or what should be.
    fn choose(dy: &Tensor, x: &Tensor, index: &SparseIndex) -> Result<Way> {
        let (device, (tokens, _)) = (dy.device(), dy.dims2("sddmm")?);
        if !sampled::can(device, tokens, index) {
            return Ok(Way::Tile);
        }
        let sampling = Sampling::choose(device, tokens, index);
        let pays = sampled::pays(device, tokens, index, dy.slice().len + x.slice().len);
        let own = if pays { Way::Sampled(sampling) } else { Way::Tile };
        let all = || sampling.all().map(Way::Sampled).chain([Way::Tile]).collect::<Vec<_>>();
        Ok(tuned::choose(device, own, all, || {
            let shape = [index.rows(), index.cols(), tokens];
            let mut product = tuned::product(Family::Sddmm, Layout::Tn, shape, [dy, x].map(coop::format));
            product.key.count = index.nnz();
            Product { key: product.key.rounded(), nnz: index.nnz(), accumulate: true, ..product }
        }))
    }
}

impl Choice for Way {
    fn id(&self) -> TileId {
        match self {
            Way::Tile => [0; 7],
            Way::Sampled(s) => [1, s.lanes, s.unroll, 0, 0, 0, 0],
        }
    }
}

/// `ds [nnz] += Σ_t dY[t, row] · X[t, col]` at the mask: dY `[tokens, rows]`, X `[tokens, cols]`, in the way that should
/// take less time. Software renderers always make the entries: arithmetic is what costs there.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn sddmm(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    if ds.device().caps().class == DeviceClass::Software {
        return sddmm_by(SddmmWay::Sampled, dy, x, index, ds);
    }
    let tokens = fitting(dy, x, index, ds)?;
    if index.nnz() == 0 || tokens == 0 {
        return Ok(());
    }
    match Way::choose(dy, x, index)? {
        Way::Tile => masked_product(dy, x, index, ds),
        Way::Sampled(sampling) => sampled::run(sampling, dy, x, index, ds),
    }
}

/// [`sddmm`] in a way of the caller's choice.
///
/// # Errors
/// As [`sddmm`].
pub fn sddmm_by(way: SddmmWay, dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let tokens = fitting(dy, x, index, ds)?;
    if index.nnz() == 0 || tokens == 0 {
        return Ok(());
    }
    // the kernel for software renderers reads f32
    let by_entry = ds.device().caps().class == DeviceClass::Software
        && [dy, x].iter().all(|operand| operand.element() == Element::F32);
    match way {
        SddmmWay::Tile => masked_product(dy, x, index, ds),
        SddmmWay::Sampled if by_entry => sampled(dy, x, index, ds),
        SddmmWay::Sampled => sddmm_sampled(Sampling::choose(ds.device(), tokens, index), dy, x, index, ds),
    }
}

/// [`sddmm`] by the sampled kernel of GPUs, on any device.
///
/// # Errors
/// As [`sddmm`]; [`Error::Shape`] too where the mask is wider than this kernel's entries can say.
pub fn sddmm_sampled(sampling: Sampling, dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let tokens = fitting(dy, x, index, ds)?;
    if index.nnz() == 0 || tokens == 0 { Ok(()) } else { sampled::run(sampling, dy, x, index, ds) }
}

/// The tokens of operands that fit together.
fn fitting(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<usize> {
    let (tokens, rows) = dy.dims2("sddmm")?;
    let (tokens_x, cols) = x.dims2("sddmm")?;
    if tokens == tokens_x && (rows, cols) == (index.rows(), index.cols()) && ds.len() == index.nnz() {
        return Ok(tokens);
    }
    let (rows, cols) = (index.rows(), index.cols());
    Err(Error::shape(
        "sddmm",
        format!("dY {:?}, X {:?}, mask [{rows}, {cols}], dS {:?}", dy.shape(), x.shape(), ds.shape()),
    ))
}

/// What `cell` holds; made now if it holds nothing.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(there) = cell.get() {
        return Ok(there);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

/// One dot product an entry. Shapes are the caller's to check.
fn sampled(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let ((tokens, rows), (_, cols)) = (dy.dims2("sddmm")?, x.dims2("sddmm")?);
    let params = SampledParams {
        tokens: tokens as u32,
        rows: rows as u32,
        cols: cols as u32,
        nnz: index.nnz() as u32,
        ..Default::default()
    };
    let work = index.nnz() as f64 * tokens as f64;
    let cost = Cost { flops: 2.0 * work, bytes: 8.0 * work };
    let bindings = [dy.slice(), x.slice(), index.coords()?.slice(), ds.slice()];
    let spec = sampled_spec([&bindings[0], &bindings[1]].map(|operand| ds.device().loads_image(operand)));
    launch(ds.device(), &spec, &bindings, &params, index.nnz().div_ceil(SAMPLED_ENTRIES) as u64, cost)
}

/// Entries a workgroup.
const SAMPLED_ENTRIES: usize = 64;

/// `images`: dY and X.
fn sampled_spec(images: [bool; 2]) -> KernelSpec {
    let [dy, x] = images.map(u32::from);
    KernelSpec::new(&SAMPLED, [("ENTRIES", SAMPLED_ENTRIES as u32), ("DY_IMAGE", dy), ("X_IMAGE", x)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    flags.iter().flat_map(|&dy| flags.map(|x| sampled_spec([dy, x]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceOptions;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn device() -> &'static Device {
        static DEVICE: OnceLock<Device> = OnceLock::new();
        DEVICE.get_or_init(|| Device::open(&DeviceOptions::from_env(None)).expect("a device"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_bucketed_index_holds_the_pattern(
            rows in 1usize..150, cols in 1usize..150, density in 0.0f64..0.3, seed: u64,
        ) {
            let rng = &mut Rng::new(seed, 0);
            let flat: Vec<u64> = (0..(rows * cols) as u64).filter(|_| rng.uniform() < density).collect();
            let pattern = CsrPattern::from_flat(rows, cols, &flat).unwrap();
            let index = SparseIndex::new(device(), &pattern).unwrap();
            let nnz = pattern.nnz();
            prop_assert_eq!((index.rows(), index.cols(), index.nnz(), index.pattern()), (rows, cols, nnz, &pattern));

            // values there and back, and each where its position says
            let values: Vec<f32> = (0..nnz).map(|i| i as f32).collect();
            let bucketed = index.from_csr_order(&values);
            prop_assert_eq!(&index.to_csr_order(&bucketed), &values);
            let entries: Vec<(u32, u32)> = pattern.entries().collect();
            let coords: Vec<u32> = index.coords().unwrap().read().unwrap();
            let places: Vec<(u32, u32)> = coords.chunks(2).map(|c| (c[0], c[1])).collect();
            let wanted: Vec<(u32, u32)> = bucketed.iter().map(|v| entries[*v as usize]).collect();
            prop_assert_eq!(&places, &wanted);

            // buckets in their order, each with its own entries, by patches of 4 x 4
            let words: Vec<u32> = index.tensor().read().unwrap();
            let (offsets, positions) = words.split_at(index.positions_at());
            prop_assert_eq!(offsets.len(), rows.div_ceil(32) * index.bucket_cols() + 1);
            prop_assert_eq!((offsets[0], offsets[offsets.len() - 1] as usize), (0, nnz));
            let mut last = None;
            for (bucket, range) in offsets.windows(2).enumerate() {
                prop_assert!(range[0] <= range[1]);
                for e in range[0]..range[1] {
                    let position = positions[e as usize / 2] >> (16 * (e % 2)) & 0xffff;
                    let (patch, r, c) = (position >> 4, position >> 2 & 3, position & 3);
                    let row = bucket / index.bucket_cols() * 32 + (patch / 8 * 4 + r) as usize;
                    let col = bucket % index.bucket_cols() * 32 + (patch % 8 * 4 + c) as usize;
                    prop_assert_eq!(places[e as usize], (row as u32, col as u32));
                    prop_assert!(last < Some((bucket, position)), "ascending, so none twice");
                    last = Some((bucket, position));
                }
            }
        }
    }
}
