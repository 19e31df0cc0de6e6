//! Scores of weights and the mask of the largest: `shaders/score.wgsl`, `shaders/topk_*.wgsl`.
//!
//! A radix select over the bits of |score|: three histograms find the k-th largest value, a count of its equals finds
//! how many of them are taken. Of equals the lower index wins, so a mask is a pure function of its scores.

use super::output::{To, distinct, groups, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// A running mean of gradients or of their squares.
    SCORE, "score", "score.wgsl", ScoreParams, [read("grad"), read("sum"), write("c")]
);
kernel!(
    /// Counts by digit.
    HISTOGRAM, "topk_histogram", "topk_histogram.wgsl", DigitParams,
    [read("scores"), read("state"), write("histogram")]
);
kernel!(
    /// The digit of the k-th largest.
    SELECT, "topk_select", "topk_select.wgsl", DigitParams, [write("histogram"), write("state")]
);
kernel!(
    /// Equals of the k-th largest, by block.
    TIES, "topk_ties", "topk_ties.wgsl", BlockParams, [read("scores"), read("state"), write("ties")]
);
kernel!(
    /// Equals in the blocks before.
    TIES_BEFORE, "topk_ties_before", "topk_ties.wgsl", BlockParams, [write("ties")]
);
kernel!(
    /// The mask.
    MASK, "topk_mask", "topk_mask.wgsl", BlockParams, [read("scores"), read("state"), read("ties"), write("mask")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ScoreParams {
    grid: Grid,
    n: u32,
    seen: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DigitParams {
    grid: Grid,
    n: u32,
    k: u32,
    shift: u32,
    bits: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct BlockParams {
    grid: Grid,
    n: u32,
    blocks: u32,
}

/// As `BINS` and `BLOCK` in `shaders/lib/topk.wgsl`.
const BINS: usize = 2048;
const BLOCK: usize = 8192;
/// (shift, bits) of the digits of a key of 31 bits, from the top.
const DIGITS: [(u32, u32); 3] = [(20, 11), (10, 10), (0, 10)];

/// `score = (score·seen + g) / (seen + 1)` with `g = scale·grad`, squared if `squared`: the mean of `seen` gradients
/// becomes that of one more. With `seen = 0` the score may be uninitialised. Nothing changes where `sum [2]`, as
/// [`sum_and_flag`](super::reduce::sum_and_flag) leaves it of `grad`, is flagged.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn score_accumulate(
    score: &Tensor,
    grad: &Tensor,
    sum: &Tensor,
    seen: u32,
    squared: bool,
    scale: f32,
) -> Result<()> {
    let op = "score_accumulate";
    grad.expect_shape(op, "grad", score.shape())?;
    sum.expect_shape(op, "sum", &[2])?;
    distinct(op, &[grad, sum], &[score])?;
    let n = score.len();
    let params = ScoreParams { n: n as u32, seen, scale, ..Default::default() };
    let spec = score_spec(squared, vec4(n));
    let bindings = [grad.slice(), sum.slice(), score.slice()];
    launch(score.device(), &spec, &bindings, &params, groups(n, vec4(n)), streaming(3 * n, 1.5))
}

/// A mask on the device, and whether its scores could be ranked.
#[derive(Clone, Debug)]
pub struct TopK {
    /// u32 `[⌈n / 32⌉]`: bit `i % 32` of word `i / 32` is entry `i`.
    pub mask: Tensor,
    state: Tensor,
}

impl TopK {
    /// Reads the mask back and waits.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a score was NaN or infinite; `what` names whose scores they are.
    pub fn read(&self, what: &str) -> Result<Vec<u32>> {
        if self.state.read::<u32>()?[2] != 0 {
            return Err(Error::NonFinite { what: what.into(), reason: "its mask's scores are not finite".into() });
        }
        self.mask.read()
    }
}

/// The k entries of `score` (any shape, f32) with the largest magnitude; of equals those with the lower flat index.
///
/// # Errors
/// [`Error::Shape`] if `k` is larger than the number of scores, or these are over 2³¹.
pub fn topk_mask(score: &Tensor, k: usize, mask: To<'_>) -> Result<TopK> {
    let op = "topk";
    let (device, n) = (score.device(), score.len());
    if k > n || n > 1 << 31 {
        return Err(Error::shape(op, format!("{k} of {n} scores (at most 2³¹)")));
    }
    let mask = mask.overwritten(device, op, &[n.div_ceil(32)])?;
    distinct(op, &[score], &[&mask])?;
    let state = Tensor::zeros(device, &[4], "scratch")?;
    if k == 0 {
        mask.clear()?;
        return Ok(TopK { mask, state });
    }
    let histogram = Tensor::zeros(device, &[BINS + 1], "scratch")?;
    for (shift, bits) in DIGITS {
        let params = DigitParams { n: n as u32, k: k as u32, shift, bits, ..Default::default() };
        let bindings = [score.slice(), state.slice(), histogram.slice()];
        // a workgroup counts on its own before it touches the shared histogram: few of them, with much to count
        let workgroups = n.div_ceil(4 * BLOCK).min(1024) as u64;
        launch(device, &plain(&HISTOGRAM), &bindings, &params, workgroups, streaming(n, 4.0))?;
        launch(device, &plain(&SELECT), &[histogram.slice(), state.slice()], &params, 1, streaming(BINS, 1.0))?;
    }
    let blocks = n.div_ceil(BLOCK);
    let ties = Tensor::empty(device, &[blocks], "scratch")?;
    let params = BlockParams { n: n as u32, blocks: blocks as u32, ..Default::default() };
    let bindings = [score.slice(), state.slice(), ties.slice()];
    launch(device, &ties_spec(0), &bindings, &params, blocks as u64, streaming(n, 2.0))?;
    launch(device, &ties_spec(1), &[ties.slice()], &params, 1, streaming(2 * blocks, 1.0))?;
    let bindings = [score.slice(), state.slice(), ties.slice(), mask.slice()];
    launch(device, &plain(&MASK), &bindings, &params, blocks as u64, streaming(n, 4.0))?;
    Ok(TopK { mask, state })
}

/// Flat indices of the bits that are set, ascending.
pub fn bitmask_to_flat(words: &[u32]) -> Vec<u64> {
    let mut flat = Vec::with_capacity(words.iter().map(|w| w.count_ones() as usize).sum());
    for (i, word) in words.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            flat.push(32 * i as u64 + u64::from(rest.trailing_zeros()));
            rest &= rest - 1;
        }
    }
    flat
}

fn score_spec(squared: bool, vec: bool) -> KernelSpec {
    KernelSpec::new(&SCORE, [("SQUARED", squared.into()), ("VEC", vec.into())])
}

fn ties_spec(stage: u32) -> KernelSpec {
    KernelSpec::new([&TIES, &TIES_BEFORE][stage as usize], [("STAGE", stage)])
}

fn plain(kernel: &'static crate::device::Kernel) -> KernelSpec {
    KernelSpec::new(kernel, [])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let mut all: Vec<_> = flags.iter().flat_map(|&squared| flags.map(|vec| score_spec(squared, vec))).collect();
    all.extend([plain(&HISTOGRAM), plain(&SELECT), ties_spec(0), ties_spec(1), plain(&MASK)]);
    all
}
