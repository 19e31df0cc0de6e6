//! S in the weight itself: W + S at the mask's positions, so that products run as if there were no S.
//!
//! A tile adds S to W when it is loaded into workgroup memory, in both products of every step; here S is added once whenever the
//! values of S change, and W's own numbers at the mask's positions wait beside it. That wants a weight that can be
//! written where a single number is, and to which writing does nothing that its products would not do anyway:
//!
//! - F32. f32 products get f32(w + s), as a tile has it. Matrix units get it rounded to f16 once, where a tile rounds W first.
//! - F16 where products run on matrix units, which get f16(w + s), as a tile has it. With fewer tokens than those take, W + S
//!   is rounded here and is not in a tile.
//!
//! With BF16, Q8 and Q4 W + S would be rounded, or cannot be written at all; there S is added to each tile, or by [`super::decode`].

use super::pairing::{Paired, Pairing, together};
use super::sparse_index::SparseIndex;
use super::target::Target;
use super::{kernel, launch, plan};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::{AtomicBool, Ordering};

kernel!(
    /// W + S at the mask's positions, or W as it was.
    SPARSE_WRITE, "sparse_write", "sparse_write.wgsl", InWeightParams,
    [read("s_index"), read("s_values"), read("originals"), write("w")]
);
kernel!(
    /// The same of two weights.
    SPARSE_WRITE_BOTH, "sparse_write_both", "sparse_write.wgsl", InWeightParams,
    [
        read("s_index"), read("s_values"), read("originals"), write("w"),
        read("s_index2"), read("s_values2"), read("originals2"), write("w2"),
    ]
);
kernel!(
    /// W's own numbers at the mask's positions.
    SPARSE_TAKE, "sparse_take", "sparse_write.wgsl", InWeightParams,
    [read("s_index"), read("w"), write("originals")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct InWeightParams {
    grid: Grid,
    first: u32,
    parts: [PartParams; 2],
}

/// One weight's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct PartParams {
    buckets: u32,
    bucket_cols: u32,
    s_positions: u32,
    cols: u32,
}

/// Formats that can be written.
const FORMATS: [WeightFormat; 2] = [WeightFormat::F32, WeightFormat::F16];
/// Buckets a workgroup.
const BUCKETS: usize = 8;

/// A sparse adapter that is written into a weight, and what the weight was before.
pub struct InWeight {
    weight: Weight,
    index: SparseIndex,
    /// `[nnz]`
    values: Tensor,
    /// W's numbers at the mask's positions, as the shader lays them.
    originals: Tensor,
    written: AtomicBool,
}

impl InWeight {
    /// Whether S should be written into `weight`. That nobody else reads its memory is the caller's to know.
    pub fn suits(weight: &Weight) -> bool {
        let target = Target::of(weight.device());
        let format = match weight.format() {
            WeightFormat::F32 => true,
            WeightFormat::F16 => plan::runs_on_units(&target, weight.rows(), weight.cols()),
            _ => false,
        };
        format && !target.separate_sparse
    }

    /// Sets W's numbers at the mask's positions aside. The weight is as it was, until [`InWeight::write`].
    ///
    /// # Errors
    /// [`Error::Shape`] if S does not fit the weight, or the weight's format cannot be written.
    pub fn new(weight: &Weight, index: &SparseIndex, values: &Tensor) -> Result<InWeight> {
        let originals = Tensor::empty(weight.device(), &[InWeight::room(weight, index)], "adapter")?;
        InWeight::with_room(weight, index, values, originals)
    }

    /// The words that originals take.
    pub fn room(weight: &Weight, index: &SparseIndex) -> usize {
        match weight.format() {
            WeightFormat::F16 => (index.nnz() + index.buckets()) / 2 + 1,
            _ => index.nnz(),
        }
    }

    /// [`InWeight::new`] with memory for the originals.
    ///
    /// # Errors
    /// As [`InWeight::new`].
    pub fn with_room(weight: &Weight, index: &SparseIndex, values: &Tensor, originals: Tensor) -> Result<InWeight> {
        let (rows, cols, format) = (weight.rows(), weight.cols(), weight.format());
        // two f16 of a word are in one row
        let even = format == WeightFormat::F32 || cols.is_multiple_of(2);
        let fits = (index.rows(), index.cols(), index.nnz()) == (rows, cols, values.len())
            && originals.len() >= InWeight::room(weight, index);
        if !fits || !even || !FORMATS.contains(&format) {
            let s = format!("S [{}, {}] with {} values", index.rows(), index.cols(), values.len());
            return Err(Error::shape("sparse_write", format!("{s} into {format:?} [{rows}, {cols}]")));
        }
        let all = InWeight {
            weight: weight.clone(),
            index: index.clone(),
            values: values.clone(),
            originals,
            written: AtomicBool::new(false),
        };
        let bindings = [all.index.tensor().slice(), all.weight.slice(), all.originals.slice()];
        all.run(&take_spec(format), &bindings)?;
        Ok(all)
    }

    /// Whether this is about this index and these values.
    pub fn is_of(&self, index: &SparseIndex, values: &Tensor) -> bool {
        let (own, other) = (self.values.slice(), values.slice());
        self.index.is(index) && own.raw.id == other.raw.id && own.offset == other.offset
    }

    /// Whether the weight holds S now.
    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    /// Writes W + S with the values as they are now.
    ///
    /// # Errors
    /// Those of a launch.
    pub fn write(&self) -> Result<()> {
        self.put(true)
    }

    /// Writes W as it was, bit for bit.
    ///
    /// # Errors
    /// Those of a launch.
    pub fn restore(&self) -> Result<()> {
        if self.is_written() { self.put(false) } else { Ok(()) }
    }

    fn put(&self, values: bool) -> Result<()> {
        self.run(&write_spec(self.weight.format(), values), &self.bindings())?;
        self.written.store(values, Ordering::Release);
        Ok(())
    }

    fn bindings(&self) -> [Slice; 4] {
        [self.index.tensor().slice(), self.values.slice(), self.originals.slice(), self.weight.slice()]
    }

    fn run(&self, spec: &KernelSpec, bindings: &[Slice]) -> Result<()> {
        if self.index.nnz() == 0 {
            return Ok(());
        }
        let params = InWeightParams { parts: [self.params(), PartParams::default()], ..Default::default() };
        launch(self.weight.device(), spec, bindings, &params, self.groups(), self.cost())
    }

    fn params(&self) -> PartParams {
        PartParams {
            buckets: self.index.buckets() as u32,
            bucket_cols: self.index.bucket_cols() as u32,
            s_positions: self.index.positions_at() as u32,
            cols: self.weight.cols() as u32,
        }
    }

    fn groups(&self) -> u64 {
        self.index.buckets().div_ceil(BUCKETS) as u64
    }

    fn cost(&self) -> Cost {
        // memory moves in sectors of 32 bytes, there and back
        let (buckets, nnz) = (self.index.buckets() as f64, self.index.nnz() as f64);
        Cost { flops: nnz, bytes: 4.0 * buckets + 72.0 * nnz }
    }
}

impl Paired for &InWeight {
    fn goes_with(&self, other: &Self) -> bool {
        let groups = self.groups() + other.groups();
        // a launch binds a buffer either to read or to write, and one of two weights that share one would be both
        let apart = self.weight.slice().raw.id != other.weight.slice().raw.id;
        self.weight.format() == other.weight.format() && apart && u32::try_from(groups).is_ok()
    }

    fn run(&self, other: Option<&Self>) -> Result<()> {
        let Some(other) = other else { return self.write() };
        let params = InWeightParams {
            first: self.groups() as u32,
            parts: [self.params(), other.params()],
            ..Default::default()
        };
        let bindings = [self.bindings(), other.bindings()].concat();
        let (groups, cost) = (self.groups() + other.groups(), together(self.cost(), other.cost()));
        launch(self.weight.device(), &both_spec(self.weight.format()), &bindings, &params, groups, cost)?;
        [self, other].iter().for_each(|w| w.written.store(true, Ordering::Release));
        Ok(())
    }
}

/// [`InWeight::write`] of each, two in a launch where that can be.
///
/// # Errors
/// Those of a launch.
pub fn write_all<'a>(all: impl Iterator<Item = &'a InWeight>) -> Result<()> {
    let mut pairing = Pairing::default();
    for one in all {
        // nothing to launch, and nothing that could share one
        if one.index.nnz() == 0 { one.write()? } else { pairing.add(one)? }
    }
    pairing.finish()
}

fn take_spec(format: WeightFormat) -> KernelSpec {
    KernelSpec::new(&SPARSE_TAKE, [("TAKE", 1), ("VALUES", 0), ("WFMT", format as u32), ("BOTH", 0)])
}

fn write_spec(format: WeightFormat, values: bool) -> KernelSpec {
    KernelSpec::new(&SPARSE_WRITE, [("TAKE", 0), ("VALUES", values.into()), ("WFMT", format as u32), ("BOTH", 0)])
}

fn both_spec(format: WeightFormat) -> KernelSpec {
    KernelSpec::new(&SPARSE_WRITE_BOTH, [("TAKE", 0), ("VALUES", 1), ("WFMT", format as u32), ("BOTH", 1)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    FORMATS.into_iter().flat_map(|f| [take_spec(f), write_spec(f, false), write_spec(f, true), both_spec(f)]).collect()
}
