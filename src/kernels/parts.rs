//! Sums of parts: `shaders/sum_parts.wgsl`. A product with fewer tiles than a GPU has room for cuts its sum over k into parts,
//! each of which goes to a copy of the result; the copies are added up in order, so that results repeat.

use super::output::distinct;
use super::pairing::{Paired, Pairing, together};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec};
use crate::error::Result;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Sums the copies of C that a product split along k leaves.
    SUM_PARTS, "sum_parts", "sum_parts.wgsl", SumPartsParams, [read("parts"), write("c")]
);
kernel!(
    /// Two such sums.
    SUM_PARTS_BOTH, "sum_parts_both", "sum_parts.wgsl", SumPartsParams,
    [read("parts"), write("c"), read("parts2"), write("c2")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SumPartsParams {
    grid: Grid,
    first: u32,
    sums: [SumParams; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct SumParams {
    n: u32,
    parts: u32,
    scale: f32,
}

/// `c (+)= scale · Σ parts`.
struct Sum {
    /// Any shape of `count · c.len()` elements.
    parts: Tensor,
    count: usize,
    c: Tensor,
    scale: f32,
}

impl Sum {
    fn params(&self) -> SumParams {
        SumParams { n: self.c.len() as u32, parts: self.count as u32, scale: self.scale }
    }

    fn groups(&self) -> u64 {
        self.c.len().div_ceil(256) as u64
    }

    fn cost(&self) -> Cost {
        Cost { flops: self.parts.len() as f64, bytes: 4.0 * (self.parts.len() + self.c.len()) as f64 }
    }

    /// Writes what it belongs to, or adds to it.
    fn run_alone(&self, accumulate: bool) -> Result<()> {
        let params = SumPartsParams { sums: [self.params(), SumParams::default()], ..Default::default() };
        let bindings = [self.parts.slice(), self.c.slice()];
        launch(self.c.device(), &spec(false, accumulate), &bindings, &params, self.groups(), self.cost())
    }
}

impl Paired for Sum {
    fn goes_with(&self, other: &Sum) -> bool {
        // an element has one writer
        distinct("sum_parts", &[], &[&self.c, &other.c]).is_ok()
    }

    /// Adds to what they belong to.
    fn run(&self, other: Option<&Sum>) -> Result<()> {
        let Some(other) = other else { return self.run_alone(true) };
        let params =
            SumPartsParams { first: self.groups() as u32, sums: [self.params(), other.params()], ..Default::default() };
        let bindings = [self, other].map(|s| [s.parts.slice(), s.c.slice()]).concat();
        let (groups, cost) = (self.groups() + other.groups(), together(self.cost(), other.cost()));
        launch(self.c.device(), &spec(true, true), &bindings, &params, groups, cost)
    }
}

/// Sums that are wanted later than their parts are there: two share a launch. Results are there after [`Sums::finish`].
#[derive(Default)]
#[must_use]
pub struct Sums(Pairing<Sum>);

impl Sums {
    /// Computes what is left.
    ///
    /// # Errors
    /// Those of a launch.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// Runs a product whose sum is cut into `parts`: straight into `c`, to which it may add, or each part into a copy of its own,
/// which are then summed in order. `run` is told whether to add, and where to; it scales only a product of one part.
pub(super) fn in_parts(
    parts: usize,
    c: &Tensor,
    scale: f32,
    accumulate: bool,
    run: impl FnOnce(bool, &Tensor) -> Result<()>,
) -> Result<()> {
    let sums = copies(parts, [c], scale, accumulate, |accumulate, [c]| run(accumulate, c))?;
    sums.into_iter().flatten().try_for_each(|sum| sum.run_alone(accumulate))
}

/// [`in_parts`] of products in one launch, which adds to each `c`, perhaps not before `sums` are finished.
pub(super) fn in_parts_later<const N: usize>(
    parts: usize,
    c: [&Tensor; N],
    sums: &mut Sums,
    run: impl FnOnce(bool, [&Tensor; N]) -> Result<()>,
) -> Result<()> {
    copies(parts, c, 1.0, true, run)?.into_iter().flatten().try_for_each(|sum| sums.0.add(sum))
}

fn copies<const N: usize>(
    parts: usize,
    c: [&Tensor; N],
    scale: f32,
    accumulate: bool,
    run: impl FnOnce(bool, [&Tensor; N]) -> Result<()>,
) -> Result<Option<Vec<Sum>>> {
    if parts == 1 {
        return run(accumulate, c).map(|()| None);
    }
    let sum = |c: &Tensor| -> Result<Sum> {
        let copies = Tensor::empty(c.device(), &[parts, c.len()], "scratch")?;
        Ok(Sum { parts: copies, count: parts, c: c.clone(), scale })
    };
    let sums = c.into_iter().map(sum).collect::<Result<Vec<_>>>()?;
    let mut copies = c;
    copies.iter_mut().zip(&sums).for_each(|(copy, sum)| *copy = &sum.parts);
    run(false, copies)?;
    Ok(Some(sums))
}

/// `c (+)= scale · Σ parts` of `count` copies one behind the other, in order, so the result repeats.
pub(super) fn sum_parts(parts: &Tensor, count: usize, c: &Tensor, scale: f32, accumulate: bool) -> Result<()> {
    Sum { parts: parts.clone(), count, c: c.clone(), scale }.run_alone(accumulate)
}

fn spec(both: bool, accumulate: bool) -> KernelSpec {
    let kernel = if both { &SUM_PARTS_BOTH } else { &SUM_PARTS };
    KernelSpec::new(kernel, [("BOTH", both.into()), ("ACCUMULATE", accumulate.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    vec![spec(false, false), spec(false, true), spec(true, true)]
}
