//! The products of low-rank adapters on matrix units: `shaders/low_rank_coop.wgsl`. Both operands are rounded to f16, sums are
//! f32. [`low_rank`](super::low_rank) comes here by itself on a device whose precision is [`Precision::F16`].

use super::kernel;
use super::low_rank_blocks::{BlocksParams, BothParams};
use super::target::CoopMatrix;
use crate::device::spec::{read, write};
use crate::device::{Kernel, KernelSpec};
use crate::tensor::Element;

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

kernel!(
    /// dB and dA of a linear: two of [`GRADIENT_COOP`].
    GRADIENTS_COOP, "low_rank_gradients_coop", "low_rank_coop.wgsl", BothParams,
    [
        read("d").half_if("X16"), read("thin"), write("out"),
        read("d2").half_if("X16"), read("thin2"), write("out2"),
    ],
    needs F16 CoopMatrix
);

/// Fragments of columns, at most.
const MOST: u32 = 3;
/// Workgroups that keep a large GPU busy: one for each of its processors, and some more.
const FILL: usize = 144;
/// [`Shape::rows`] of the gradient on GPUs; the projection has one fragment of them, and twice as many workgroups. Software
/// renderers compile as long as a kernel's text is.
const ROWS: u32 = 32;

/// Workgroups for one part of the sum, and its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub tiles: usize,
    pub parts: usize,
}

/// What a workgroup does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    units: CoopMatrix,
    gradient: bool,
    /// Whether the wide matrix is f16.
    half: bool,
    /// Whether four columns of the thin matrix are loaded at a time.
    fours: bool,
    /// Fragments of columns.
    columns: u32,
}

impl Shape {
    /// For the products of these blocks with a wide matrix of such elements.
    pub fn of(units: CoopMatrix, wide: Element, p: &BlocksParams, gradient: bool) -> Shape {
        let widest = p.cols.iter().max().copied().unwrap_or(1).max(1);
        // as many pieces as needed, all of one width
        let pieces = widest.div_ceil(MOST * units.fragment);
        let columns = widest.div_ceil(pieces).div_ceil(units.fragment);
        let fours = p.cols.iter().all(|c| c.is_multiple_of(4));
        Shape { units, gradient, half: wide == Element::F16, fours, columns }
    }

    /// Tokens of a workgroup of the projection, features of one of the gradient.
    fn rows(&self) -> u32 {
        if self.gradient && self.units.lanes > 8 { ROWS } else { self.units.fragment }
    }

    /// Subgroups of a workgroup, and their fragments in a piece of the sum: short pieces leave room for more workgroups at once.
    fn subgroups(&self) -> (u32, u32) {
        match (self.gradient, self.units.lanes) {
            (true, 8) => (4, 1),
            (true, _) => (4, 2),
            (false, _) => (8, 1),
        }
    }

    /// The shape in which one launch makes the gradients of `p` and of `other`, with the workgroups of each for one part of the
    /// sum. None where either would keep the GPU busy by itself: then nothing is gained, and the last workgroups run alone.
    pub fn both(self, p: &BlocksParams, other: (Shape, &BlocksParams)) -> Option<(Shape, [usize; 2])> {
        let (other, q) = other;
        // fewer columns in more pieces: pieces read the same features, out of a cache, and more workgroups run at once
        let shape = Shape { columns: self.columns.min(other.columns), ..self };
        let tiles = [shape.tiles(p), shape.tiles(q)];
        let alike = self.gradient && other.gradient && (self.half, self.fours) == (other.half, other.fours);
        (alike && tiles.iter().sum::<usize>() <= FILL).then_some((shape, tiles))
    }

    /// Workgroups for one part of the sum, and its parts.
    pub fn work(&self, p: &BlocksParams) -> Cut {
        let tiles = self.tiles(p);
        Cut { tiles, parts: self.parts(p, tiles) }
    }

    /// Workgroups for one part of the sum.
    pub fn tiles(&self, p: &BlocksParams) -> usize {
        let pieces = |i: usize| p.cols[i].div_ceil(self.columns * self.units.fragment);
        let features = |i: usize| p.end[i] - p.first[i];
        let blocks = 0..p.cols.len();
        if self.gradient {
            return blocks.map(|i| features(i).div_ceil(self.rows()) * pieces(i)).sum::<u32>() as usize;
        }
        (p.tokens.div_ceil(self.rows()) * blocks.map(pieces).sum::<u32>()) as usize
    }

    /// Parts of the sum, where there are so many workgroups without.
    pub fn parts(&self, p: &BlocksParams, tiles: usize) -> usize {
        let (subgroups, steps) = self.subgroups();
        let longest = (0..p.cols.len()).map(|i| p.end[i] - p.first[i]).max().unwrap_or(0);
        let terms = if self.gradient { p.tokens } else { longest };
        let most = (terms / (subgroups * steps * self.units.fragment)) as usize;
        // adding parts up is a launch of its own, and the projection's sums are short: only where it has very few tokens
        let parts = if !self.gradient && tiles >= FILL / 2 { 1 } else { FILL.div_ceil(tiles.max(1)) };
        parts.min(most).clamp(1, 64)
    }

    pub fn spec(&self, rows: bool, accumulate: bool) -> KernelSpec {
        let kernel = if self.gradient { &GRADIENT_COOP } else { &PROJECT_COOP };
        self.spec_of(kernel, rows, accumulate)
    }

    pub fn spec_of_both(&self, accumulate: bool) -> KernelSpec {
        self.spec_of(&GRADIENTS_COOP, false, accumulate)
    }

    fn spec_of(&self, kernel: &'static Kernel, rows: bool, accumulate: bool) -> KernelSpec {
        let flags = [
            ("BOTH", *kernel == GRADIENTS_COOP),
            ("GRADIENT", self.gradient),
            ("ROWS", rows),
            ("X16", self.half),
            ("FOURS", self.fours || (rows && !self.gradient)),
            ("ACCUMULATE", accumulate),
        ];
        let (subgroups, steps) = self.subgroups();
        let sizes = [
            ("FRAG", self.units.fragment),
            ("LANES", self.units.lanes),
            ("SUB", subgroups),
            ("STEPS", steps),
            ("FM", self.rows() / self.units.fragment),
            ("FN", self.columns),
        ];
        KernelSpec::new(kernel, flags.map(|(name, on)| (name, on.into())).into_iter().chain(sizes).collect::<Vec<_>>())
    }
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all = Vec::new();
    let shapes = CoopMatrix::ALL.into_iter().flat_map(|units| (1..=MOST).map(move |columns| (units, columns)));
    for ((units, columns), half) in shapes.flat_map(|s| flags.map(|half| (s, half))) {
        for (fours, along) in flags.into_iter().flat_map(|f| flags.map(|a| (f, a))) {
            let shape = Shape { units, gradient: false, half, fours, columns };
            if fours || !along {
                all.push(shape.spec(along, false));
            }
            let shape = Shape { gradient: true, ..shape };
            all.extend(flags.map(|accumulate| shape.spec(along, accumulate)));
            if !along {
                all.extend(flags.map(|accumulate| shape.spec_of_both(accumulate)));
            }
        }
    }
    all
}
