//! Where a sparse adapter's entries are, as kernels read it.

use super::target::Target;
use crate::csr::CsrPattern;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::sync::{Arc, OnceLock};

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
    /// The orders in which sampled kernels visit entries. The one that the device's plans ask for ([`EntryOrder`]) is made with the
    /// index, the other one when it is asked for.
    coords: OnceLock<Tensor>,
    fours: OnceLock<Fours>,
    /// By rows, and by columns; made when they are asked for.
    by_line: [OnceLock<ByLine>; 2],
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
        let (coords, fours, by_line) = Default::default();
        let pattern = pattern.clone();
        let inner = Inner { rows, cols, nnz, positions_at, index, coords, fours, by_line, csr_of, pattern };
        let index = SparseIndex(Arc::new(inner));
        match EntryOrder::choose(&Target::of(device), cols) {
            Some(EntryOrder::Coords) => index.coords().map(drop)?,
            Some(EntryOrder::Fours) => index.fours().map(drop)?,
            None => {}
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
        match EntryOrder::choose(&Target::of(device), cols) {
            Some(EntryOrder::Coords) => coords = Tensor::empty(device, &[nnz, 2], "sparse index")?.into(),
            Some(EntryOrder::Fours) => fours = Fours::unknown(device, rows, nnz)?.into(),
            None => {}
        }
        Ok(SparseIndex(Arc::new(Inner {
            rows,
            cols,
            nnz,
            positions_at,
            index,
            coords,
            fours,
            by_line: Default::default(),
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

    /// The entries row by row, or column by column.
    pub(super) fn by_line(&self, columns: bool) -> Result<&ByLine> {
        let i = &self.0;
        once(&i.by_line[usize::from(columns)], || {
            let (device, lines) = (i.index.device(), if columns { i.cols } else { i.rows });
            if i.csr_of.len() != i.nnz {
                // a device that only counts does not know them
                let entries = Tensor::empty(device, &[i.nnz, 2], "sparse index")?;
                return Ok(ByLine { offsets: Tensor::empty(device, &[lines + 1], "sparse index")?, entries });
            }
            let of: Vec<(u32, u32)> = i.pattern.entries().collect();
            let mut entries: Vec<(u32, [u32; 2])> = Vec::with_capacity(i.nnz);
            for (place, &at) in i.csr_of.iter().enumerate() {
                let (row, col) = of[at as usize];
                let (line, other) = if columns { (col, row) } else { (row, col) };
                entries.push((line, [other, place as u32]));
            }
            entries.sort_unstable();
            let mut offsets = vec![0u32; lines + 1];
            entries.iter().for_each(|(line, _)| offsets[*line as usize + 1] += 1);
            (0..lines).for_each(|l| offsets[l + 1] += offsets[l]);
            let entries: Vec<[u32; 2]> = entries.into_iter().map(|(_, entry)| entry).collect();
            Ok(ByLine {
                offsets: Tensor::from_slice(device, &[lines + 1], &offsets, "sparse index")?,
                entries: Tensor::from_slice(device, &[i.nnz, 2], &entries, "sparse index")?,
            })
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

/// An order in which sampled kernels visit entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryOrder {
    /// One by one: for [`super::sddmm_plan::SddmmPlan::Entries`], and for copies of W + S.
    Coords,
    /// In fours of a row: for [`super::sddmm_plan::SddmmPlan::Rows`].
    Fours,
}

impl EntryOrder {
    /// That of a mask with `cols` columns on a device like `target`; none where tiles of the dense product alone can make dS.
    fn choose(target: &Target, cols: usize) -> Option<EntryOrder> {
        match target.is_software() {
            true => Some(EntryOrder::Coords),
            false => Fours::fit(cols).then_some(EntryOrder::Fours),
        }
    }
}

/// Entries line by line: of rows, or of columns.
pub(super) struct ByLine {
    /// `[lines + 1]` the first entry of each line.
    pub offsets: Tensor,
    /// `[nnz, 2]` (column or row, place of the value), ascending in a line.
    pub entries: Tensor,
}

/// What `cell` holds; made now if it holds nothing.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(there) = cell.get() {
        return Ok(there);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

/// Bits of an entry that say its place in its bucket; the column is above them.
const PLACE_BITS: u32 = 10;
/// A place of a four that no entry takes.
const NONE: u32 = u32::MAX;

/// The entries of a mask row by row, columns ascending, in fours of one row.
pub(super) struct Fours {
    pub count: usize,
    /// `[count]` the row of each four.
    pub rows: Tensor,
    /// `[count, 4]` column · 1024 + place in the bucket, or [`NONE`].
    pub entries: Tensor,
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

    /// (row, column) of each entry, or (column, row), in CSR order.
    fn entries_of(pattern: &CsrPattern, columns: bool) -> impl Iterator<Item = (u32, u32)> {
        pattern.entries().map(move |(row, col)| if columns { (col, row) } else { (row, col) })
    }

    #[test]
    fn the_order_of_entries_is_what_the_devices_plans_read() {
        use crate::device::dry::DryBackend;
        use crate::device::{Caps, DeviceClass, Precision};
        let order = |class, cols| {
            let caps = Caps { class, ..DryBackend::caps_for_tests() };
            EntryOrder::choose(&Target::new(&caps, Precision::F32, false), cols)
        };
        assert_eq!(order(DeviceClass::Software, 1 << 22), Some(EntryOrder::Coords));
        assert_eq!(order(DeviceClass::Discrete, (1 << 22) - 1), Some(EntryOrder::Fours));
        assert_eq!(order(DeviceClass::Integrated, 1 << 22), None);
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

            // row by row and column by column, ascending, with the value of each
            for columns in [false, true] {
                let by_line = index.by_line(columns).unwrap();
                let (offsets, entries): (Vec<u32>, Vec<u32>) =
                    (by_line.offsets.read().unwrap(), by_line.entries.read().unwrap());
                prop_assert_eq!((offsets[0], offsets[offsets.len() - 1] as usize), (0, nnz));
                let found = offsets.windows(2).enumerate().flat_map(|(line, range)| {
                    (range[0]..range[1]).map(move |e| (line as u32, e as usize))
                });
                let found = found.map(|(line, e)| ((line, entries[2 * e]), bucketed[entries[2 * e + 1] as usize]));
                let mut wanted: Vec<((u32, u32), f32)> = entries_of(&pattern, columns).zip(values.iter().copied()).collect();
                wanted.sort_by_key(|(at, _)| *at);
                prop_assert_eq!(found.collect::<Vec<_>>(), wanted);
            }

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
