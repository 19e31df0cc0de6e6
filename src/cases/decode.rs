//! A weight with its sparse adapter in a plain format.

use super::in_weight::elements;
use super::{DTYPES, Near, Op, Row, Trial, other_dtypes, quick_at, random_pattern, stored};
use crate::device::Feature;
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::decode::{DECODE, DECODE_F32, decode};
use crate::kernels::sparse::SparseIndex;
use crate::tensor::{Element, Weight, WeightFormat};

const DECODE_OP: Op = Op {
    name: "decode",
    kernels: &[&DECODE, &DECODE_F32],
    why: "a block's code times its scale, plus its minimum, and the sum with an entry of S; to f16, each is rounded once more: two units \
          of f16",
};

/// (rows, columns, density): less than a workgroup's part, parts that are not whole, full and empty buckets.
const SIZES: &[(usize, usize, f64)] =
    &[(1, 32, 1.0), (7, 64, 0.5), (33, 160, 0.3), (70, 288, 1.0), (64, 128, 0.0), (257, 512, 0.006)];
const QUICK: &[usize] = &[1, 2];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let to_half = [DType::Q8_0, DType::Q4_1].map(|dtype| (dtype, Element::F16));
    let to_float = [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_1].map(|dtype| (dtype, Element::F32));
    let both = |dtype| [Element::F16, Element::F32].map(|to| (dtype, to));
    for (dtype, to) in to_half.into_iter().chain(to_float).chain(other_dtypes().flat_map(both)) {
        let (most, block) = (if DTYPES.contains(&dtype) { SIZES.len() } else { 3 }, dtype.block_elements());
        for (i, &(n, k, density)) in SIZES.iter().enumerate().take(most) {
            let size = (n, k.next_multiple_of(block), density);
            let to_what = if to == Element::F16 { "f16" } else { "f32" };
            let what = format!("{dtype} to {to_what} [{}, {}] density {}", size.0, size.1, size.2);
            let level = quick_at(i, QUICK);
            let alone = format!("{what} alone");
            rows.push(DECODE_OP.row(level, alone, move |t| run(t, (dtype, to), size, false)).of(dtype));
            rows.push(DECODE_OP.row(level, what, move |t| run(t, (dtype, to), size, true)).of(dtype));
        }
    }
    rows
}

fn run(
    t: &mut Trial<'_>,
    (dtype, to): (DType, Element),
    (n, k, density): (usize, usize, f64),
    sparse: bool,
) -> Result<()> {
    // without f16 there are no matrix units, for whose products alone a weight is decoded to it
    if to == Element::F16 && !t.device.caps().has(Feature::F16) {
        return Ok(());
    }
    let pattern = random_pattern(&mut t.rng, n, k, density)?;
    let (bytes, w) = stored(dtype, &t.random(n * k))?;
    let s = t.random(pattern.nnz());
    let weight = Weight::upload(t.device, dtype, n, k, &bytes)?;
    let index = SparseIndex::new(t.device, &pattern)?;
    let values = t.up(&[s.len()], &index.from_csr_order(&s))?;
    let (words, format) = if to == Element::F16 { (n * k / 2, WeightFormat::F16) } else { (n * k, WeightFormat::F32) };
    let memory = t.out(&[words])?;
    let out = Weight::over(&memory.tensor, format, n, k)?;
    decode(&weight, sparse.then_some((&index, &values)), &out)?;
    // a code times its scale may be far larger than what is left with the minimum
    let largest = w.iter().fold(0.0f64, |m, w| m.max(f64::from(w.abs())));
    let rounded = |near: Near| near.stored_as(to);
    let mut want: Vec<Near> =
        w.iter().map(|w| rounded(Near { value: f64::from(*w), bound: 4.0 * super::EPS * largest })).collect();
    for ((row, col), s) in pattern.entries().zip(&s).filter(|_| sparse) {
        let own = &mut want[row as usize * k + col as usize];
        let value = own.value + f64::from(*s);
        *own = rounded(Near { value, bound: own.bound + super::EPS * value.abs() });
    }
    match memory.words()? {
        Ok(got) => t.values(
            "W + S",
            elements(if to == Element::F16 { DType::F16 } else { DType::F32 }, &got).into_iter(),
            &want,
        ),
        Err(fault) => t.fail(f64::INFINITY, format!("W + S: {fault}")),
    }
    Ok(())
}
