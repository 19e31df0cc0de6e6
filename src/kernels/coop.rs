//! Products on matrix units: `shaders/matmul_coop.wgsl`. Operands are rounded to f16 on their way into workgroup memory
//! (relative error 2⁻¹¹ each; beyond ±65,504 they become infinite), sums are f32.
//!
//! [`matmul`](super::matmul::matmul) and [`rosa_linear`](super::matmul::rosa_linear) come here by themselves on a device
//! whose precision is [`Precision::F16`]; [`enable`] sets that after a self-test.

use super::matmul::{Fused, Layout, MatmulParams, Out, RosaVariant, rosa_linear};
use super::parts::in_parts;
use super::tile::{LONG_K, Tile, splits};
use super::{attention_coop, kernel, launch, low_rank_coop, tuned};
use crate::device::dry::DryBackend;
use crate::device::spec::{read, write};
use crate::device::tiles::{Family, Product};
use crate::device::{Caps, Cost, Device, Feature, KernelSpec, Precision, Slice};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::{Element, Tensor, Weight, WeightFormat};
use std::collections::HashSet;

kernel!(
    /// [`super::matmul::MATMUL`] on matrix units.
    MATMUL_COOP, "matmul_coop", "matmul_coop.wgsl", MatmulParams,
    [read("a").half_if("AFMT"), read("w").half_if("WFMT"), write("c")],
    needs F16 CoopMatrix
);
kernel!(
    /// [`super::matmul::ROSA_LINEAR`] on matrix units.
    ROSA_LINEAR_COOP, "rosa_linear_coop", "matmul_coop.wgsl", MatmulParams,
    [
        read("a").half_if("AFMT"), read("w"), read("s_index"), read("s_values"), read("u"), read("v"), read("bias"),
        write("c"),
    ],
    needs F16 CoopMatrix
);

kernel!(
    /// [`super::matmul::SDDMM_TILE`] on matrix units.
    SDDMM_COOP, "sddmm_coop", "matmul_coop.wgsl", MatmulParams,
    [read("a").half_if("AFMT"), read("w").half_if("WFMT"), read("s_index"), write("c")],
    needs F16 CoopMatrix
);

/// An operand as it is stored.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// Rounded to f16 on the way, if it is not f16 already.
    Tensor(&'a Tensor),
    /// A matrix in [`WeightFormat::F16`].
    Weight(&'a Weight),
}

impl Operand<'_> {
    fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Operand::Tensor(t) => t.dims2("matmul"),
            Operand::Weight(w) if w.format() == WeightFormat::F16 => Ok((w.rows(), w.cols())),
            Operand::Weight(w) => Err(Error::shape("matmul", format!("an operand in {:?}", w.format()))),
        }
    }

    fn slice(&self) -> Slice {
        match self {
            Operand::Tensor(t) => t.slice(),
            Operand::Weight(w) => Slice { half: true, ..w.slice() },
        }
    }

    fn format(&self) -> u32 {
        match self {
            Operand::Tensor(t) => format(t),
            Operand::Weight(_) => WeightFormat::F16 as u32,
        }
    }
}

/// The shader's number for what a tensor holds.
pub(super) fn format(t: &Tensor) -> u32 {
    match t.element() {
        Element::F32 => WeightFormat::F32 as u32,
        Element::F16 => WeightFormat::F16 as u32,
    }
}

/// How the input of a linear with a weight `[out, inn]`, and the gradient of its output, are best stored: as f16 where this
/// device's matrix units take every product of the linear, all of which round them to f16, forward, backward and that of a
/// dense gradient. The thin products and the sparse gradient read either.
pub fn operands(device: &Device, tokens: usize, out: usize, inn: usize) -> Element {
    let units = device.precision() == Precision::F16 && Units::of(device.caps()).is_some();
    if units { suited(tokens, out, inn) } else { Element::F32 }
}

/// [`operands`] on a device whose products run on matrix units.
pub(crate) fn suited(tokens: usize, out: usize, inn: usize) -> Element {
    let suit = tokens.min(out).min(inn) >= LEAST && [out, inn].iter().all(|l| l % 8 == 0);
    if suit { Element::F16 } else { Element::F32 }
}

/// Outputs of a workgroup and of a subgroup; see BENCHMARKS.md for what was tried.
const LARGE: Tile = tile(128, 128, 32, 64, 64);
/// Rows of 64 halves fill a cache line, which pays where both operands are f16 and lie along k.
const LARGE_DEEP: Tile = tile(128, 128, 64, 32, 64);
/// For widths that leave much of the last large tile empty, 576 among them.
const NARROW: Tile = tile(128, 96, 32, 64, 48);
const MEDIUM: Tile = tile(64, 64, 32, 32, 32);
/// Software renderers compile as long as a tile's text is.
const SMALL: Tile = tile(32, 32, 32, 16, 16);

/// What matrix units are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units {
    /// Edge of a fragment: 8 or 16.
    pub fragment: u32,
    /// Threads of a subgroup.
    pub lanes: u32,
}

impl Units {
    /// NVIDIA's, Apple's, and those of Mesa's software renderer.
    pub const ALL: [Units; 3] =
        [Units { fragment: 16, lanes: 32 }, Units { fragment: 8, lanes: 32 }, Units { fragment: 8, lanes: 8 }];

    /// Those of this device, if the kernels are written for them.
    pub fn of(caps: &Caps) -> Option<Units> {
        let units = Units { fragment: caps.fragment?, lanes: caps.subgroup_min };
        let fits = Units::ALL.contains(&units)
            && caps.has(Feature::CoopMatrix)
            && caps.has(Feature::F16)
            && caps.subgroup_min == caps.subgroup_max
            && caps.max_workgroup_size >= 256
            && caps.max_workgroup_memory >= units.memory();
        fits.then_some(units)
    }

    /// Bytes of workgroup memory that kernels for them may take.
    pub const fn memory(&self) -> u32 {
        if self.fragment == 8 { 32 << 10 } else { 48 << 10 }
    }

    /// The tiles of products on them; each can make every product.
    pub fn tiles(&self) -> &'static [Tile] {
        match self {
            Units { lanes: 8, .. } => &[SMALL],
            Units { fragment: 8, .. } => &[LARGE, MEDIUM],
            _ => &[LARGE, LARGE_DEEP, NARROW, MEDIUM],
        }
    }

    fn pick(&self, layout: Layout, halves: bool, (m, n, k): (usize, usize, usize)) -> Tile {
        // a long k is split, so that few large tiles fill a device too
        let parts = if m.min(n) >= 96 && k >= LONG_K { (k / LONG_K * 16) as u64 } else { 1 };
        match (layout, halves) {
            _ if self.lanes == 8 => SMALL,
            _ if self.fragment == 16 && narrow(m, n) => NARROW,
            _ if LARGE.groups(m, n) * parts < FILL => MEDIUM,
            (Layout::Nt, true) if self.fragment == 16 => LARGE_DEEP,
            _ => LARGE,
        }
    }
}

/// Whether [`NARROW`] leaves fewer columns empty than [`LARGE`], and all of its workgroups are under way at once: one more turn
/// for a few of them would cost more than is saved.
fn narrow(m: usize, n: usize) -> bool {
    let columns = |tile: Tile| n.next_multiple_of(tile.bn as usize);
    (FILL..=ROOM).contains(&NARROW.groups(m, n)) && columns(NARROW) < columns(LARGE)
}

/// Workgroups that a large GPU has under way at once, two a processor.
const ROOM: u64 = 264;
/// Workgroups from which on the large tiles keep a device busy.
pub(super) const FILL: u64 = 96;
/// Fewer rows or columns than this waste most of a tile.
pub(super) const LEAST: usize = 32;

const fn tile(bm: u32, bn: u32, bk: u32, tm: u32, tn: u32) -> Tile {
    Tile { bm, bn, bk, tm, tn, unroll: 1, prefetch: 0 }
}

/// The units and the tile for an output of `m × n`, if the product should run on matrix units. `along` are the lengths along memory
/// of both operands, which are loaded eight at a time; `c` are the stride and first column of the output.
pub(super) fn choose(
    device: &Device,
    layout: Layout,
    (m, n, k): (usize, usize, usize),
    along: [usize; 2],
    c: [usize; 2],
) -> Option<(Units, Tile)> {
    let units = Units::of(device.caps())?;
    let suits = device.precision() == Precision::F16
        && m.min(n) >= LEAST
        && along.iter().all(|l| l % 8 == 0)
        && c.iter().all(|x| x % 4 == 0);
    suits.then(|| (units, units.pick(layout, false, (m, n, k))))
}

/// Whether the products with a weight run on matrix units in both directions, if there are tokens enough.
pub(super) fn takes(w: &Weight) -> bool {
    let (rows, cols) = (w.rows(), w.cols());
    let on_units = |layout, n, k| choose(w.device(), layout, (LEAST, n, k), [k, cols], [n, 0]).is_some();
    on_units(Layout::Nt, rows, cols) && on_units(Layout::Nn, cols, rows)
}

fn consts((units, tile): (Units, Tile), layout: Layout, accumulate: bool, tail: bool) -> Vec<(&'static str, u32)> {
    vec![
        ("FRAG", units.fragment),
        ("LANES", units.lanes),
        ("BM", tile.bm),
        ("BN", tile.bn),
        ("BK", tile.bk),
        ("SM", tile.bm / tile.tm),
        ("SN", tile.bn / tile.tn),
        ("BAND", 8),
        ("LAYOUT", layout as u32),
        ("ACCUMULATE", accumulate.into()),
        ("TAIL", tail.into()),
    ]
}

/// Whether the last tile of k is not whole.
fn tail(k: usize, tile: Tile) -> bool {
    k == 0 || !k.is_multiple_of(tile.bk as usize)
}

fn matmul_spec(on: (Units, Tile), layout: Layout, formats: [u32; 2], accumulate: bool, tail: bool) -> KernelSpec {
    let mut consts = consts(on, layout, accumulate, tail);
    consts.extend([("FUSED", 0), ("MASKED", 0), ("AFMT", formats[0]), ("WFMT", formats[1])]);
    KernelSpec::new(&MATMUL_COOP, consts)
}

/// The masked product of [`super::matmul::masked_product`] on matrix units: dYᵀ·X, of which entries are kept.
pub(super) fn sddmm_spec(on: (Units, Tile), formats: [u32; 2], k: usize, accumulate: bool) -> KernelSpec {
    let mut consts = consts(on, Layout::Tn, accumulate, tail(k, on.1));
    consts.extend([("FUSED", 0), ("MASKED", 1), ("AFMT", formats[0]), ("WFMT", formats[1])]);
    KernelSpec::new(&SDDMM_COOP, consts)
}

pub(super) fn rosa_spec(units: Units, v: &RosaVariant, x: u32, k: usize) -> KernelSpec {
    let mut consts = consts((units, v.tile), v.layout, v.accumulate, tail(k, v.tile));
    consts.extend([
        ("FUSED", 1),
        ("MASKED", 0),
        ("AFMT", x),
        ("WFMT", v.format as u32),
        ("SPARSE", v.sparse.into()),
        ("LOWRANK", if v.low_rank && v.thin4 { 2 } else { v.low_rank.into() }),
        ("BIAS", v.bias.into()),
    ]);
    KernelSpec::new(&ROSA_LINEAR_COOP, consts)
}

/// `C = scale · op(A) · op(B)` on matrix units, whatever the device's precision; shapes as in [`Layout`].
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together, or a length along memory is no multiple of 8;
/// [`Error::Invalid`] on a device without matrix units.
pub fn matmul(layout: Layout, a: Operand<'_>, b: Operand<'_>, device: &Device, out: Out<'_>) -> Result<Tensor> {
    let Some(units) = Units::of(device.caps()) else {
        return Err(Error::invalid("matmul", format!("{} has no matrix units", device.caps().name)));
    };
    let ((a0, a1), (b0, b1)) = (a.dims()?, b.dims()?);
    let (m, n, k, k_b) = match layout {
        Layout::Nt => (a0, b0, a1, b1),
        Layout::Nn => (a0, b1, a1, b0),
        Layout::Tn => (a1, b1, a0, b0),
    };
    let (c, stride, column) = out.tensor(device, "matmul", m, n)?;
    if k != k_b || [a1, b1].iter().any(|l| l % 8 != 0) || [stride, column].iter().any(|x| x % 4 != 0) {
        return Err(Error::shape("matmul", format!("{layout:?} of [{a0}, {a1}] and [{b0}, {b1}] on matrix units")));
    }
    let halves = [&a, &b].iter().all(|o| o.format() == WeightFormat::F16 as u32);
    let own = units.pick(layout, halves, (m, n, k));
    let tile = tuned::choose(
        device,
        own,
        || units.tiles(),
        || {
            let product = tuned::product(Family::MatmulCoop, layout, [m, n, k], [a.format(), b.format()]);
            Product { accumulate: out.accumulate, stride_column: (stride, column), ..product }
        },
    );
    let splits = if stride == n { splits(FILL, tile, m, n, k) } else { 1 };
    let bk = tile.bk as usize;
    let k_per_split = k.div_ceil(splits).next_multiple_of(bk);
    let mut params = MatmulParams::of((m, n, k), (stride, column));
    (params.splits, params.k_per_split) = (splits as u32, k_per_split as u32);
    params.scale = if splits == 1 { out.scale } else { 1.0 };
    let (left, right) = (a.slice(), b.slice());
    let cost =
        Cost { flops: 2.0 * (m * n) as f64 * k as f64, bytes: (left.len + right.len) as f64 + 4.0 * (m * n) as f64 };
    let groups = tile.groups(m, n) * splits as u64;
    let run = |accumulate: bool, to: &Tensor| {
        let spec = matmul_spec((units, tile), layout, [a.format(), b.format()], accumulate, tail(k, tile));
        launch(device, &spec, &[left.clone(), right.clone(), to.slice()], &params, groups, cost)
    };
    in_parts(splits, &c, out.scale, out.accumulate, run)?;
    Ok(c)
}

/// Lets products on this device run on its matrix units, if it has any and they compute rightly: a few fused linears
/// and an attention, in both directions, are compared with the f32 kernels first. Says which precision is now set.
///
/// # Errors
/// Those of the device; a wrong result is no error but a warning, and leaves f32.
pub fn enable(device: &Device) -> Result<Precision> {
    device.set_precision(Precision::F32);
    if Units::of(device.caps()).is_none() {
        return Ok(Precision::F32);
    }
    let tested = tested_kernels(device.caps()).and_then(|kernels| {
        // each takes seconds, so not one behind the other
        device.prepare(&kernels, &|| true)?;
        self_tests(device)
    });
    match tested {
        Ok(None) => device.set_precision(Precision::F16),
        Ok(Some(wrong)) => tracing::warn!("matrix units are not used: {wrong}"),
        Err(e @ Error::Kernel { .. }) => tracing::warn!("matrix units are not used: {e}"),
        Err(e) => return Err(e),
    }
    Ok(device.precision())
}

/// Says what departs from the f32 kernels.
type SelfTest = fn(&Device) -> Result<Option<String>>;

const SELF_TESTS: [SelfTest; 3] = [self_test, low_rank_coop::self_test, attention_coop::self_test];

/// What the first test finds that finds anything.
fn self_tests(device: &Device) -> Result<Option<String>> {
    for test in SELF_TESTS {
        if let wrong @ Some(_) = test(device)? {
            return Ok(wrong);
        }
    }
    Ok(None)
}

/// What the self-tests launch, found on a device that only counts; what they find there means nothing.
fn tested_kernels(caps: &Caps) -> Result<Vec<KernelSpec>> {
    let device = Device::new(Box::new(DryBackend::new(caps.clone())));
    device.note_launches(true);
    for test in SELF_TESTS {
        test(&device)?;
    }
    Ok(device.launched_kernels())
}

/// Compares with the f32 kernels on operands that are exact in f16; says what departs.
fn self_test(device: &Device) -> Result<Option<String>> {
    // edges in m and n, a tail in k, and enough outputs for the large tiles of 96 and of 128 columns, where there are both
    let mut seen = HashSet::new();
    for (m, n, k) in [(72, 104, 104), (1304, 1288, 64), (1304, 1400, 64)] {
        let tile = Units::of(device.caps()).map(|units| units.pick(Layout::Nt, false, (m, n, k)));
        if !seen.insert(tile.map(|tile| (tile, tail(k, tile)))) {
            continue;
        }
        for layout in [Layout::Nt, Layout::Nn] {
            let mut rng = Rng::named(1, "matrix units");
            let mut halves =
                |len: usize| -> Vec<f32> { (0..len).map(|_| (rng.below(33) as f32 - 16.0) / 16.0).collect() };
            let x = Tensor::from_slice(device, &[m, k], &halves(m * k), "self-test")?;
            let (rows, cols) = if layout == Layout::Nt { (n, k) } else { (k, n) };
            let bytes: Vec<u8> = halves(rows * cols).iter().flat_map(|v| v.to_le_bytes()).collect();
            let w = Weight::upload(device, DType::F32, rows, cols, &bytes)?;
            let u = Tensor::from_slice(device, &[m, 8], &halves(m * 8), "self-test")?;
            let shape = if layout == Layout::Nt { [n, 8] } else { [8, n] };
            let v = Tensor::from_slice(device, &shape, &halves(n * 8), "self-test")?;
            let run = |precision: Precision| -> Result<Vec<f32>> {
                device.set_precision(precision);
                let fused = Fused { low_rank: Some((&u, 0, &v)), ..Fused::default() };
                let y = rosa_linear(layout, &x, &w, fused, Out::default());
                device.set_precision(Precision::F32);
                y?.read()
            };
            let (want, got) = (run(Precision::F32)?, run(Precision::F16)?);
            // products of sixteenths sum exactly in f32: any departure is an error of the driver
            if let Some(i) = (0..want.len()).find(|&i| got[i] != want[i]) {
                let name = &device.caps().name;
                return Ok(Some(format!("{name} computes {} for {} ({layout:?} {m}x{n}x{k})", got[i], want[i])));
            }
        }
    }
    Ok(None)
}

/// Every specialisation, but for what only touches the store or the end of k (accumulate, bias, tail): those take turns.
pub fn variants() -> Vec<KernelSpec> {
    let mut turn = 0u32;
    let mut turns = || {
        turn += 1;
        [turn & 1, turn & 2, turn & 4].map(|bit| bit != 0)
    };
    let mut all = Vec::new();
    for (units, tile) in Units::ALL.iter().flat_map(|&u| u.tiles().iter().map(move |&t| (u, t))) {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            for formats in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                let [accumulate, tail, _] = turns();
                all.push(matmul_spec((units, tile), layout, formats, accumulate, tail));
            }
        }
        for (k, accumulate) in [(64, false), (64, true), (8, false), (8, true)] {
            let formats = [[0, 0], [0, 1], [1, 0], [1, 1]];
            all.extend(formats.map(|formats| sddmm_spec((units, tile), formats, k, accumulate)));
        }
        for (layout, format) in [Layout::Nt, Layout::Nn].iter().flat_map(|&l| WeightFormat::ALL.map(|f| (l, f))) {
            let parts = [(false, false, false), (true, true, true), (false, true, false), (false, true, true)];
            let parts = parts.into_iter().chain([(true, false, false), (true, true, false)]);
            // of the other formats only one tile, with an adapter and without
            if !format.is_in_every_combination() && tile != units.tiles()[0] {
                continue;
            }
            for (sparse, low_rank, thin4) in parts.take(if format.is_in_every_combination() { 6 } else { 2 }) {
                let [accumulate, tail, bias] = turns();
                let bias = bias && layout == Layout::Nt;
                let variant = RosaVariant { layout, vec: 1, accumulate, format, sparse, low_rank, thin4, bias, tile };
                all.extend([0, 1].map(|x| rosa_spec(units, &variant, x, if tail { 8 } else { 64 })));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tile_follows_from_what_fills_a_device_and_its_last_columns() {
        let [nvidia, apple, mesa] = Units::ALL;
        let pick = |units: Units, m, n| units.pick(Layout::Nn, false, (m, n, 576));
        for (m, n, tile) in [
            (4096, 576, NARROW), // 192 workgroups, no column to spare
            (4096, 960, LARGE),  // 320 of them, more than are under way at once
            (4096, 768, LARGE),  // neither has a column to spare
            (2048, 576, NARROW), // 96, where the large tile would have 80
            (1024, 576, MEDIUM), // too few of either
            (4096, 3072, LARGE),
            (1304, 1288, NARROW), // as the self-test has it
            (1304, 1400, LARGE),
        ] {
            assert_eq!(pick(nvidia, m, n), tile, "{m} x {n}");
        }
        assert_eq!((pick(apple, 4096, 576), pick(mesa, 4096, 576)), (LARGE, SMALL));
    }

    #[test]
    fn all_that_the_self_tests_launch_is_known_before() {
        let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let memory = 48 << 10;
        let caps = Caps { fragment: Some(16), features, max_workgroup_memory: memory, ..DryBackend::caps_for_tests() };
        assert!(Units::of(&caps).is_some());
        let kernels = tested_kernels(&caps).unwrap();
        let of = |kernel: &str| kernels.iter().filter(|spec| spec.kernel.name == kernel).count();
        assert!(of("rosa_linear_coop") >= 2, "{kernels:?}");
        let attention = |spec: &KernelSpec| {
            spec.kernel.name.starts_with("attention_") && spec.kernel.needs.contains(&Feature::CoopMatrix)
        };
        assert!(kernels.iter().any(attention), "{kernels:?}");
        assert_eq!(kernels.iter().collect::<HashSet<_>>().len(), kernels.len());
    }
}
