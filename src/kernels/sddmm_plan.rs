//! How the sparse gradient dS = (dYᵀ·X) at the mask is computed (SDDMM): entry by entry, or by whole tiles of the dense product.

use super::plan;
use super::sparse_index::{Fours, SparseIndex};
use super::target::Target;
use super::tile::Layout;
use super::tuned::{self, Choice, Measured};
use crate::device::tiles::{Family, Product, TileId};
use crate::device::{Device, DeviceClass, Precision};
use crate::error::{Error, Result};
use crate::tensor::WeightFormat;
use std::fmt;

/// A sparse gradient, as far as its plan depends on it.
#[derive(Clone, Copy, Debug)]
pub struct SddmmProblem {
    /// Of the mask.
    pub rows: usize,
    pub cols: usize,
    pub nnz: usize,
    pub tokens: usize,
    /// What dY and X are stored in.
    pub formats: [WeightFormat; 2],
    /// Bytes of dY and X.
    pub bytes: u64,
}

impl SddmmProblem {
    /// Of f32 operands.
    pub(super) fn of(index: &SparseIndex, tokens: usize) -> SddmmProblem {
        let (rows, cols, nnz) = (index.rows(), index.cols(), index.nnz());
        let bytes = (4 * tokens * (rows + cols)) as u64;
        SddmmProblem { rows, cols, nnz, tokens, formats: [WeightFormat::F32; 2], bytes }
    }

    /// Whether there is nothing to add.
    pub(super) fn is_empty(&self) -> bool {
        self.nnz == 0 || self.tokens == 0
    }

    fn copies_bytes(&self, half: bool) -> f64 {
        (self.rows + self.cols) as f64 * row(half, self.tokens)
    }
}

/// How a sparse gradient is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SddmmPlan {
    /// A thread makes an entry's dot product, out of dY and X as they are: for software renderers, where arithmetic is what costs.
    Entries,
    /// Threads share an entry's dot product, out of transposed copies of dY and X.
    Rows(Sampling),
    /// Whole tiles of the dense product, of which the entries are kept.
    Tiles,
}

impl SddmmPlan {
    /// The plan for `problem` on a device like `target`.
    pub(super) fn choose(target: &Target, problem: &SddmmProblem, measured: Measured<'_>) -> SddmmPlan {
        if target.is_software() {
            return SddmmPlan::sampled(target, problem);
        }
        if !can_sample(target, problem) {
            return SddmmPlan::Tiles;
        }
        let sampling = Sampling::of(target, problem);
        let own = if sampling_pays(target, problem) { SddmmPlan::Rows(sampling) } else { SddmmPlan::Tiles };
        let all = || sampling.all().map(SddmmPlan::Rows).chain([SddmmPlan::Tiles]).collect::<Vec<_>>();
        measured.choose(own, all, || {
            let SddmmProblem { rows, cols, tokens, nnz, formats, .. } = *problem;
            let (shape, formats) = ([rows, cols, tokens], formats.map(|f| f as u32));
            let mut product = tuned::product(Family::Sddmm, Layout::Tn as u32, shape, formats);
            product.key.count = nnz;
            Product { key: product.key.rounded(), nnz, accumulate: true, ..product }
        })
    }

    /// The same where it is to be made entry by entry. The kernel for software renderers reads f32 only.
    pub(super) fn sampled(target: &Target, problem: &SddmmProblem) -> SddmmPlan {
        if target.is_software() && problem.formats == [WeightFormat::F32; 2] {
            SddmmPlan::Entries
        } else {
            SddmmPlan::Rows(Sampling::of(target, problem))
        }
    }
}

impl Choice for SddmmPlan {
    fn id(&self) -> TileId {
        match self {
            SddmmPlan::Rows(s) => [1, s.lanes, s.unroll, 0, 0, 0, 0],
            SddmmPlan::Entries | SddmmPlan::Tiles => [0; 7],
        }
    }
}

impl fmt::Display for SddmmProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SddmmProblem { rows, cols, nnz, tokens, formats, .. } = self;
        write!(f, "sddmm {rows}x{cols} {nnz} entries, {tokens} tokens {:?}·{:?}", formats[0], formats[1])
    }
}

impl fmt::Display for SddmmPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SddmmPlan::Entries => f.write_str("entry by entry"),
            SddmmPlan::Tiles => f.write_str("by tiles"),
            SddmmPlan::Rows(s) => write!(
                f,
                "entry by entry of transposed copies in {}, {} threads each, {} tokens at a time",
                if s.half { "F16" } else { "F32" },
                s.lanes,
                s.slice
            ),
        }
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

pub(super) const LANES: [u32; 3] = [8, 16, 32];
pub(super) const UNROLLS: [u32; 2] = [1, 2];
/// Lengths of the copies' rows are multiples of this: whole tiles of the transposition, whole cache lines.
pub(super) const TOKENS: usize = 64;
/// Threads of a workgroup.
pub(super) const THREADS: u32 = 256;
/// Workgroups that fill a large GPU.
const FILL: usize = 256;
/// Bytes of both copies of a slice, about.
const SLICE_BYTES: usize = 128 << 20;

impl Sampling {
    /// What this device should do with so many tokens.
    pub fn choose(device: &Device, tokens: usize, index: &SparseIndex) -> Sampling {
        Sampling::of(&Target::of(device), &SddmmProblem::of(index, tokens))
    }

    fn of(target: &Target, problem: &SddmmProblem) -> Sampling {
        let half = target.precision == Precision::F16;
        let slices = (problem.copies_bytes(half) / SLICE_BYTES as f64).ceil().max(1.0) as usize;
        // 16 threads a four were fastest on an H200 but for few tokens, and for few entries, which are spread over more
        let fills = |lanes: u32| (problem.nnz / 4).div_ceil((THREADS / lanes) as usize) >= FILL;
        let lanes = match problem.tokens {
            ..=1024 if fills(8) => 8,
            _ if fills(16) => 16,
            _ => 32,
        };
        Sampling {
            half,
            lanes,
            unroll: if half { 2 } else { 1 },
            slice: problem.tokens.div_ceil(slices).next_multiple_of(TOKENS),
        }
    }

    /// As many tokens at a time, with every number of threads a four and of loads in flight.
    fn all(&self) -> impl Iterator<Item = Sampling> {
        LANES.iter().flat_map(|&lanes| UNROLLS.map(|unroll| Sampling { lanes, unroll, ..*self }))
    }

    pub(super) fn check(&self) -> Result<()> {
        let known = LANES.contains(&self.lanes) && UNROLLS.contains(&self.unroll);
        if known && self.slice > 0 && self.slice.is_multiple_of(TOKENS) {
            return Ok(());
        }
        Err(Error::shape("sddmm", format!("there is no kernel for {self:?}")))
    }
}

/// Bytes of a token in a copy.
pub(super) fn element(half: bool) -> usize {
    if half { 2 } else { 4 }
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

/// An H200, as docs/notes/sparse.md has it.
const DISCRETE: Rates =
    Rates { units: 215e12, plain: 36e12, sampled: 7.5e12, copied: 2.7e12, launch: 4e-6, start: 30e-6 };
/// An estimate for a GPU beside the CPU's memory, with caches that gain less.
const INTEGRATED: Rates =
    Rates { units: 10e12, plain: 4e12, sampled: 0.3e12, copied: 0.15e12, launch: 10e-6, start: 30e-6 };

/// Whether this mask can be sampled here: its columns can be told, and a copy fits into a binding.
fn can_sample(target: &Target, problem: &SddmmProblem) -> bool {
    let largest = problem.rows.max(problem.cols) as f64 * row(target.precision == Precision::F16, problem.tokens);
    Fours::fit(problem.cols) && largest <= target.max_bytes as f64
}

/// Whether sampling should take less time than the masked product, by the rates of the device's class.
fn sampling_pays(target: &Target, problem: &SddmmProblem) -> bool {
    let rates = match target.class {
        DeviceClass::Integrated => &INTEGRATED,
        _ => &DISCRETE,
    };
    let half = target.precision == Precision::F16;
    let SddmmProblem { rows, cols, tokens, nnz, .. } = *problem;
    let units = plan::gradient_on_units(target, rows, cols);
    let flops = 2.0 * (rows * cols) as f64 * tokens as f64;
    let tile = rates.start + flops / if units { rates.units } else { rates.plain };

    let copies = problem.copies_bytes(half) + problem.bytes as f64;
    // a four reads a row of dY too
    let sampled = 1.25 * nnz as f64 * row(half, tokens) / rates.sampled;
    2.0 * rates.launch + sampled + copies / rates.copied < tile
}

/// Bytes of a row of a copy.
fn row(half: bool, tokens: usize) -> f64 {
    (tokens.next_multiple_of(TOKENS) * element(half)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::{Caps, Feature};

    #[test]
    fn thin_masks_are_sampled_on_gpus_and_all_masks_on_software_renderers() {
        let caps = DryBackend::caps_for_tests();
        let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let units = Caps { fragment: Some(16), features, max_workgroup_memory: 48 << 10, ..caps.clone() };
        let of = |class| Target::new(&Caps { class, ..caps.clone() }, Precision::F32, false);
        let units = Target::new(&units, Precision::F16, false);
        let (discrete, software) = (of(DeviceClass::Discrete), of(DeviceClass::Software));
        let plan = |target: &Target, nnz: usize, tokens: usize| {
            let (rows, cols, formats) = (4096, 4096, [WeightFormat::F32; 2]);
            let problem = SddmmProblem { rows, cols, nnz, tokens, formats, bytes: (8 * 4096 * tokens) as u64 };
            SddmmPlan::choose(target, &problem, Measured::nothing()).to_string()
        };
        let sampled = |format: &str, lanes: usize, tokens: usize| {
            format!("entry by entry of transposed copies in {format}, {lanes} threads each, {tokens} tokens at a time")
        };
        assert_eq!(plan(&software, 100_000, 256), "entry by entry");
        assert_eq!(plan(&discrete, 100_000, 4096), sampled("F32", 16, 4096));
        assert_eq!(plan(&discrete, 100_000, 1000), sampled("F32", 8, 1024));
        assert_eq!(plan(&units, 3_000, 4096), sampled("F16", 32, 4096));
        assert_eq!(plan(&units, 8_000_000, 4096), "by tiles");
        let narrow = Target { max_bytes: 16 << 20, ..discrete };
        assert_eq!(plan(&narrow, 100_000, 4096), "by tiles", "a copy that no binding holds");
    }
}
