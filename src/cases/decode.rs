//! A quantised weight with its sparse adapter as f16.

use super::in_weight::elements;
use super::{Level, Near, Op, Row, Trial, quick_at, random_pattern, stored};
use crate::device::Feature;
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::decode::{DECODE, decode};
use crate::kernels::sparse::SparseIndex;
use crate::tensor::{Element, Weight, WeightFormat};

const DECODE_OP: Op = Op {
    name: "decode",
    kernels: &[&DECODE],
    why: "a block's code times its scale, plus its minimum, rounded to f16, and rounded again as a sum with an entry of S: two units of \
          f16",
};

/// (rows, columns, density): less than a workgroup's part, parts that are not whole, full and empty buckets.
const SIZES: &[(usize, usize, f64)] =
    &[(1, 32, 1.0), (7, 64, 0.5), (33, 160, 0.3), (70, 288, 1.0), (64, 128, 0.0), (257, 512, 0.006)];
const QUICK: &[usize] = &[1, 2];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for dtype in [DType::Q8_0, DType::Q4_1] {
        for (i, &size) in SIZES.iter().enumerate() {
            let what = format!("{dtype} [{}, {}] density {}", size.0, size.1, size.2);
            let level = if (i, dtype) == (2, DType::Q4_1) { Level::Startup } else { quick_at(i, QUICK) };
            rows.push(DECODE_OP.row(level, format!("{what} alone"), move |t| run(t, dtype, size, false)));
            rows.push(DECODE_OP.row(level, what, move |t| run(t, dtype, size, true)));
        }
    }
    rows
}

fn run(t: &mut Trial<'_>, dtype: DType, (n, k, density): (usize, usize, f64), sparse: bool) -> Result<()> {
    // without f16 there are no matrix units, for whose products alone a weight is decoded
    if !t.device.caps().has(Feature::F16) {
        return Ok(());
    }
    let pattern = random_pattern(&mut t.rng, n, k, density)?;
    let (bytes, w) = stored(dtype, &t.random(n * k))?;
    let s = t.random(pattern.nnz());
    let weight = Weight::upload(t.device, dtype, n, k, &bytes)?;
    let index = SparseIndex::new(t.device, &pattern)?;
    let values = t.up(&[s.len()], &index.from_csr_order(&s))?;
    let memory = t.out(&[n * k / 2])?;
    let out = Weight::over(&memory.tensor, WeightFormat::F16, n, k)?;
    decode(&weight, sparse.then_some((&index, &values)), &out)?;
    // a code times its scale may be far larger than what is left with the minimum
    let largest = w.iter().fold(0.0f64, |m, w| m.max(f64::from(w.abs())));
    let rounded = |near: Near| near.stored_as(Element::F16);
    let mut want: Vec<Near> =
        w.iter().map(|w| rounded(Near { value: f64::from(*w), bound: 4.0 * super::EPS * largest })).collect();
    for ((row, col), s) in pattern.entries().zip(&s).filter(|_| sparse) {
        let own = &mut want[row as usize * k + col as usize];
        *own = rounded(Near { value: own.value + f64::from(*s), ..*own });
    }
    match memory.words()? {
        Ok(got) => t.values("W + S", elements(DType::F16, &got).into_iter(), &want),
        Err(fault) => t.fail(f64::INFINITY, format!("W + S: {fault}")),
    }
    Ok(())
}
