//! The thin products of low-rank adapters on matrix units: `shaders/low_rank_coop.wgsl`. Both operands are rounded to f16, sums are
//! f32. [`low_rank`](super::low_rank) comes here by itself on a device whose precision is [`Precision::F16`].

use super::coop::{LEAST, Units};
use super::kernel;
use super::low_rank::{Block, BlocksParams, gradient_blocks, gradient_rows, project_blocks, project_rows};
use super::output::To;
use crate::device::spec::{read, write};
use crate::device::{Device, KernelSpec, Precision};
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::Tensor;

kernel!(
    /// [`super::low_rank::PROJECT`] on matrix units.
    PROJECT_COOP, "low_rank_project_coop", "low_rank_coop.wgsl", BlocksParams,
    [read("d").half_if("X16"), read("thin"), write("out")],
    needs F16 CoopMatrix
);
kernel!(
    /// [`super::low_rank::GRADIENT`] on matrix units.
    GRADIENT_COOP, "low_rank_gradient_coop", "low_rank_coop.wgsl", BlocksParams,
    [read("d").half_if("X16"), read("thin"), write("out")],
    needs F16 CoopMatrix
);

/// Fragments of rows that a subgroup has.
const FRAGMENTS: u32 = 2;
/// Fragments of columns, at most.
const MOST: u32 = 3;
/// Workgroups that keep a large GPU busy: two for each of its processors.
const FILL: usize = 264;

/// What a workgroup does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    units: Units,
    /// Fragments of columns.
    columns: u32,
}

impl Shape {
    /// For the thin products of these blocks, if matrix units should make them.
    pub fn of(device: &Device, p: &BlocksParams) -> Option<Shape> {
        let units = Units::of(device.caps()).filter(|_| device.precision() == Precision::F16)?;
        let suits = p.tokens as usize >= LEAST
            && p.width.is_multiple_of(8)
            && p.first.iter().chain(&p.end).all(|x| x.is_multiple_of(8));
        let widest = p.cols.iter().max().copied().unwrap_or(1).max(1);
        // as many pieces as needed, all of one width
        let pieces = widest.div_ceil(MOST * units.fragment);
        suits.then(|| Shape { units, columns: widest.div_ceil(pieces).div_ceil(units.fragment) })
    }

    /// Tokens of a workgroup of the projection, features of one of the gradient.
    fn rows(&self) -> u32 {
        4 * FRAGMENTS * self.units.fragment
    }

    /// Terms of the sum at a time.
    fn depth(&self) -> u32 {
        4 * self.units.fragment
    }

    fn columns(&self) -> u32 {
        self.columns * self.units.fragment
    }

    /// Tiles of the projection, and parts of its sum.
    pub fn project(&self, p: &BlocksParams) -> (usize, usize) {
        let pieces: u32 = p.cols.iter().map(|c| c.div_ceil(self.columns())).sum();
        let longest = (0..p.end.len()).map(|i| p.end[i] - p.first[i]).max().unwrap_or(0);
        let tiles = (p.tokens.div_ceil(self.rows()) * pieces) as usize;
        (tiles, parts(tiles, longest / (2 * self.depth())))
    }

    /// Tiles of the gradient, and parts of the tokens.
    pub fn gradient(&self, p: &BlocksParams) -> (usize, usize) {
        let of = |i: usize| (p.end[i] - p.first[i]).div_ceil(self.rows()) * p.cols[i].div_ceil(self.columns());
        let tiles = (0..p.end.len()).map(of).sum::<u32>() as usize;
        (tiles, parts(tiles, p.tokens / (2 * self.depth())))
    }

    pub fn project_spec(&self, rows: bool, half: bool) -> KernelSpec {
        self.spec(&PROJECT_COOP, rows, half, false)
    }

    pub fn gradient_spec(&self, rows: bool, half: bool, accumulate: bool) -> KernelSpec {
        self.spec(&GRADIENT_COOP, rows, half, accumulate)
    }

    fn spec(&self, kernel: &'static crate::device::Kernel, rows: bool, half: bool, accumulate: bool) -> KernelSpec {
        let gradient = std::ptr::eq(kernel, &GRADIENT_COOP);
        let flags = [("GRADIENT", gradient), ("ROWS", rows), ("X16", half), ("ACCUMULATE", accumulate)];
        let sizes = [
            ("FRAG", self.units.fragment),
            ("LANES", self.units.lanes),
            ("FM", FRAGMENTS),
            ("FN", self.columns),
            ("BK", self.depth()),
        ];
        KernelSpec::new(kernel, flags.map(|(name, on)| (name, on.into())).into_iter().chain(sizes).collect::<Vec<_>>())
    }
}

/// Into how many parts a sum is cut, so that `tiles` fill a device.
fn parts(tiles: usize, most: u32) -> usize {
    FILL.div_ceil(tiles.max(1)).min(most as usize).clamp(1, 64)
}

/// Compares with the f32 kernels on operands that are exact in f16; says what departs.
pub(super) fn self_test(device: &Device) -> Result<Option<String>> {
    let (tokens, width) = (200, 336);
    let blocks =
        [(0, 200, 12), (200, 136, 20)].map(|(first_row, rows, rank)| Block { first_row, rows, rank, scale: 0.5 });
    let mut rng = Rng::named(1, "thin products");
    let mut up = |shape: &[usize]| -> Result<Tensor> {
        let len: usize = shape.iter().product();
        let sixteenths: Vec<f32> = (0..len).map(|_| (rng.below(33) as f32 - 16.0) / 16.0).collect();
        Tensor::from_slice(device, shape, &sixteenths, "self-test")
    };
    let b: usize = blocks.iter().map(|b| b.rows * b.rank).sum();
    let (d, a, b, thin) = (up(&[tokens, width])?, up(&[32, width])?, up(&[b])?, up(&[tokens, 32])?);
    let run = |precision: Precision| -> Result<Vec<f32>> {
        device.set_precision(precision);
        let (da, db) =
            (Tensor::zeros(device, &[32, width], "self-test")?, Tensor::zeros(device, &[b.len()], "self-test")?);
        let products = || -> Result<[Tensor; 2]> {
            gradient_rows(&thin, &d, &da)?;
            gradient_blocks(&d, &thin, &blocks, &db)?;
            Ok([
                project_rows(&d, &a, 0.5, To::New("self-test"))?,
                project_blocks(&d, &b, &blocks, To::New("self-test"))?,
            ])
        };
        let made = products();
        device.set_precision(Precision::F32);
        let [u, v] = made?;
        let read = [u, v, da, db].iter().map(Tensor::read).collect::<Result<Vec<Vec<f32>>>>()?;
        Ok(read.concat())
    };
    let (want, got) = (run(Precision::F32)?, run(Precision::F16)?);
    // products of sixteenths sum exactly in f32: any departure is an error of the driver
    Ok((0..want.len())
        .find(|&i| got[i] != want[i])
        .map(|i| format!("{} computes {} for {} (a thin product)", device.caps().name, got[i], want[i])))
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let shapes = Units::ALL.into_iter().flat_map(|units| (1..=MOST).map(move |columns| Shape { units, columns }));
    let mut all = Vec::new();
    for (shape, rows, half) in shapes.flat_map(|s| flags.into_iter().flat_map(move |r| flags.map(|h| (s, r, h)))) {
        all.push(shape.project_spec(rows, half));
        all.extend(flags.map(|accumulate| shape.gradient_spec(rows, half, accumulate)));
    }
    all
}
