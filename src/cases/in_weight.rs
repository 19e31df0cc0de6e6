//! A sparse adapter that is written into its weight, and taken out again.

use super::{Guarded, Level, Near, Op, Row, Trial, quick_at, random_pattern, stored};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::in_weight::{InWeight, SPARSE_TAKE, SPARSE_WRITE, SPARSE_WRITE_BOTH, write_all};
use crate::kernels::sparse::SparseIndex;
use crate::tensor::{Tensor, Weight, WeightFormat};
use half::f16;

const SPARSE_WRITE_OP: Op = Op {
    name: "sparse_write",
    kernels: &[&SPARSE_TAKE, &SPARSE_WRITE, &SPARSE_WRITE_BOTH],
    why: "one sum in f32 is exact; for f16 it is rounded once, to a neighbour that is the driver's to choose, so one unit of \
          f16; what is not in the mask, and all of W afterwards, is as it was bit for bit",
};

/// (rows, columns, density): one word; fewer than a bucket; buckets that are not whole, full ones, most of them empty.
/// Columns are even where two elements share a word.
const SIZES: &[(usize, usize, f64)] =
    &[(1, 2, 1.0), (7, 6, 0.5), (33, 66, 0.3), (70, 130, 1.0), (129, 100, 0.02), (257, 516, 0.006)];
const QUICK_SIZES: &[usize] = &[1, 2, 3];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for dtype in [DType::F32, DType::F16] {
        rows.push(SPARSE_WRITE_OP.row(Level::Quick, format!("{dtype} two at a time"), move |t| together(t, dtype)));
        for (i, &(n, k, density)) in SIZES.iter().enumerate() {
            // rows of f32 may have odd lengths
            let k = if dtype == DType::F32 { k - 1 } else { k };
            let what = format!("{dtype} [{n}, {k}] density {density}");
            let level = quick_at(i, QUICK_SIZES);
            rows.push(SPARSE_WRITE_OP.row(level, what, move |t| there_and_back(t, dtype, (n, k), density)));
        }
    }
    rows
}

/// A weight with its sparse adapter.
struct Held {
    dtype: DType,
    /// W, rounded as it is stored, and its words.
    w: Vec<f32>,
    words: Vec<f32>,
    memory: Guarded,
    places: Vec<usize>,
    index: SparseIndex,
    values: Tensor,
    originals: Guarded,
    all: InWeight,
}

impl Held {
    fn new(t: &mut Trial<'_>, dtype: DType, (n, k): (usize, usize), density: f64) -> Result<Held> {
        let pattern = random_pattern(&mut t.rng, n, k, density)?;
        let places: Vec<usize> = pattern.entries().map(|(row, col)| row as usize * k + col as usize).collect();
        let mut w = t.random(n * k);
        if let Some(&first) = places.first() {
            w[first] = -0.0; // of which a sum with 0 would make 0
        }
        let (mut bytes, w) = stored(dtype, &w)?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let words: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let memory = t.holding(&[words.len()], &words)?;
        let weight = Weight::over(&memory.tensor, WeightFormat::of(dtype), n, k)?;

        let index = SparseIndex::new(t.device, &pattern)?;
        let values = t.up(&[places.len()], &vec![0.0f32; places.len()])?;
        let room = InWeight::room(&weight, &index);
        let originals = t.holding(&[room], &vec![0.0; room])?;
        let all = InWeight::with_room(&weight, &index, &values, originals.tensor.clone())?;
        Ok(Held { dtype, w, words, memory, places, index, values, originals, all })
    }

    /// Compares the weight with W + S for these values, in the order of rows.
    fn compare(&self, t: &mut Trial<'_>, name: &str, s: &[f32]) -> Result<()> {
        let mut want: Vec<Near> = self.w.iter().map(|w| Near::exactly(*w)).collect();
        for (&at, s) in self.places.iter().zip(s) {
            let sum = self.w[at] + s;
            want[at] = match self.dtype {
                DType::F32 => Near::exactly(sum),
                _ => Near { value: f16::from_f32(sum).into(), bound: f64::from(sum.abs()) / 1024.0 + 1e-7 },
            };
        }
        match self.memory.words()? {
            Ok(got) => t.values(name, elements(self.dtype, &got).into_iter(), &want),
            Err(fault) => t.fail(f64::INFINITY, format!("{name}: {fault}")),
        }
        Ok(())
    }

    /// Whether the weight is as it was.
    fn unchanged(&self, t: &mut Trial<'_>, name: &str) -> Result<()> {
        match self.memory.words()? {
            Ok(got) => {
                let want: Vec<Near> = self.words.iter().map(|w| Near::exactly(w.to_bits())).collect();
                t.values(name, got.iter().map(|w| f64::from(*w)), &want);
            }
            Err(fault) => t.fail(f64::INFINITY, format!("{name}: {fault}")),
        }
        Ok(())
    }
}

fn there_and_back(t: &mut Trial<'_>, dtype: DType, size: (usize, usize), density: f64) -> Result<()> {
    let held = Held::new(t, dtype, size, density)?;
    held.unchanged(t, "W before")?;
    if dtype == DType::F32 {
        let own: Vec<f32> = held.places.iter().map(|&at| held.w[at]).collect();
        t.compare_exactly("originals", &held.originals, &held.index.from_csr_order(&own))?;
    } else if let Err(fault) = held.originals.words()? {
        t.fail(f64::INFINITY, format!("originals: {fault}"));
    }
    for name in ["W + S", "W + another S"] {
        let s = t.random(held.places.len());
        held.values.write(&held.index.from_csr_order(&s))?;
        held.all.write()?;
        held.compare(t, name, &s)?;
    }
    held.all.restore()?;
    held.unchanged(t, "W afterwards")
}

/// Several weights, of which two at a time share a launch.
fn together(t: &mut Trial<'_>, dtype: DType) -> Result<()> {
    let sizes = [((33, 66), 0.3), ((7, 6), 0.0), ((70, 130), 0.05), ((129, 100), 0.02)];
    let held: Vec<Held> = sizes.into_iter().map(|(size, d)| Held::new(t, dtype, size, d)).collect::<Result<_>>()?;
    let s: Vec<Vec<f32>> = held.iter().map(|h| t.random(h.places.len())).collect();
    for (h, s) in held.iter().zip(&s) {
        h.values.write(&h.index.from_csr_order(s))?;
    }
    write_all(held.iter().map(|h| &h.all))?;
    for (i, (h, s)) in held.iter().zip(&s).enumerate() {
        h.compare(t, &format!("W + S of weight {i}"), s)?;
        h.all.restore()?;
        h.unchanged(t, &format!("weight {i} afterwards"))?;
    }
    Ok(())
}

/// The elements in words of a weight.
pub(super) fn elements(dtype: DType, words: &[u32]) -> Vec<f64> {
    let both = |w: &u32| [*w as u16, (w >> 16) as u16].map(|h| f64::from(f16::from_bits(h)));
    match dtype {
        DType::F32 => words.iter().map(|w| f64::from(f32::from_bits(*w))).collect(),
        _ => words.iter().flat_map(both).collect(),
    }
}
