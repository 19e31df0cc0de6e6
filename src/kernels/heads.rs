//! Queries, keys and values out of the rows that one product leaves, and their gradients back into such rows: turned by their
//! positions (`shaders/rope_split.wgsl`), and behind a norm of each head of q and k where the family has those
//! (`shaders/norm_split.wgsl`).

use super::norm::RmsNorm;
use super::output::{To, distinct, halves, streaming, vec4};
use super::rope::{HALVES, LAYOUTS, RopeTable};
use super::streaming_plan::{HeadLanes, Joined, Rows, Words};
use super::target::{self, Target};
use super::{kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Queries, keys and values out of one matrix, queries and keys turned.
    ROPE_SPLIT, "rope_split", "rope_split.wgsl", RopeSplitParams,
    [
        read("angles"), read("at"), read("all"),
        write("q").half_if("OUT16"), write("k").half_if("OUT16"), write("v").half_if("OUT16"),
    ]
);
kernel!(
    /// Their gradients into one matrix, turned back.
    ROPE_MERGE, "rope_merge", "rope_split.wgsl", RopeSplitParams,
    [read("angles"), read("at"), read("q"), read("k"), read("v"), write("merged").half_if("OUT16")]
);
kernel!(
    /// [`ROPE_SPLIT`] with each head of q and k normed before it turns.
    NORM_SPLIT, "norm_split", "norm_split.wgsl", NormSplitParams,
    [
        read("angles"), read("at"), read("all"), read("w"),
        write("q").half_if("OUT16"), write("k").half_if("OUT16"), write("v").half_if("OUT16"),
    ]
);
kernel!(
    /// The gradients of its results into that of its operand.
    NORM_MERGE, "norm_merge", "norm_split.wgsl", NormSplitParams,
    [
        read("angles"), read("at"), read("all"), read("w"), read("q"), read("k"), read("v"),
        write("merged").half_if("OUT16"),
    ]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RopeSplitParams {
    grid: Grid,
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    half: u32,
    positions: u32,
    turned: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct NormSplitParams {
    grid: Grid,
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    half: u32,
    positions: u32,
    gain_stride: u32,
    eps: f32,
    offset: f32,
}

/// How the heads of a matrix lie, and by what they turn.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub table: &'a RopeTable,
    /// u32 `[tokens]`
    pub positions: &'a Tensor,
}

/// Norms of the heads of q and k.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    pub norm: RmsNorm,
    /// `[2, stride]`: in each row the weights of head_dim elements, of q and of k, and perhaps more that is not read.
    pub weights: &'a Tensor,
}

/// q `[tokens, heads · head_dim]`, k and v `[tokens, kv_heads · head_dim]` out of `all`, in whose rows they lie one behind
/// the other; q and k turned. All are f16 if that is asked for, and half a head is a multiple of 4 long.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope_split(all: &Tensor, heads: Heads<'_>, to: [To<'_>; 3]) -> Result<[Tensor; 3]> {
    split("rope_split", all, None, heads, to)
}

/// [`rope_split`] with each head of q and k normed before it turns.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn norm_split(all: &Tensor, norm: HeadNorm<'_>, heads: Heads<'_>, to: [To<'_>; 3]) -> Result<[Tensor; 3]> {
    split("norm_split", all, Some(norm), heads, to)
}

/// The gradient of [`rope_split`]'s operand from those of its results; f16 if that is asked for, and half a head is a multiple
/// of 4 long.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope_merge(parts: [&Tensor; 3], heads: Heads<'_>, to: To<'_>) -> Result<Tensor> {
    merge("rope_merge", parts, None, heads, to)
}

/// The same for [`norm_split`], whose operand was `all`.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn norm_merge(
    parts: [&Tensor; 3],
    all: &Tensor,
    norm: HeadNorm<'_>,
    heads: Heads<'_>,
    to: To<'_>,
) -> Result<Tensor> {
    merge("norm_merge", parts, Some((all, norm)), heads, to)
}

fn split(
    op: &'static str,
    all: &Tensor,
    norm: Option<HeadNorm<'_>>,
    heads: Heads<'_>,
    to: [To<'_>; 3],
) -> Result<[Tensor; 3]> {
    all.expect_shape(op, "q, k and v", &[heads.tokens(), heads.width()])?;
    let [q, k, v] = to;
    let [of_q, of_k, of_v] = heads.widths().map(|width| [heads.tokens(), width]);
    let device = all.device();
    let parts =
        [q.overwritten(device, op, &of_q)?, k.overwritten(device, op, &of_k)?, v.overwritten(device, op, &of_v)?];
    let inputs: Vec<&Tensor> = [all].into_iter().chain(norm.map(|n| n.weights)).collect();
    heads.run(op, false, norm, (&inputs, &parts))?;
    Ok(parts)
}

fn merge(
    op: &'static str,
    parts: [&Tensor; 3],
    norm: Option<(&Tensor, HeadNorm<'_>)>,
    heads: Heads<'_>,
    to: To<'_>,
) -> Result<Tensor> {
    for ((part, name), width) in parts.iter().zip(["q", "k", "v"]).zip(heads.widths()) {
        part.expect_shape(op, name, &[heads.tokens(), width])?;
    }
    let shape = [heads.tokens(), heads.width()];
    if let Some((all, _)) = norm {
        all.expect_shape(op, "q, k and v", &shape)?;
    }
    let merged = to.overwritten(parts[0].device(), op, &shape)?;
    let normed = norm.into_iter().flat_map(|(all, norm)| [all, norm.weights]);
    let inputs: Vec<&Tensor> = normed.chain(parts).collect();
    heads.run(op, true, norm.map(|(_, norm)| norm), (&inputs, std::slice::from_ref(&merged)))?;
    Ok(merged)
}

impl Heads<'_> {
    fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Columns of q, k and v.
    fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.table.head_dim())
    }

    fn width(&self) -> usize {
        self.widths().iter().sum()
    }

    /// Launches a split or a merge; operands in the order of the kernel's bindings, without its first two.
    fn run(
        self,
        op: &'static str,
        merge: bool,
        norm: Option<HeadNorm<'_>>,
        (inputs, outputs): (&[&Tensor], &[Tensor]),
    ) -> Result<()> {
        distinct(op, &[&[self.positions], inputs].concat(), &outputs.iter().collect::<Vec<_>>())?;
        let (device, head_dim) = (self.positions.device(), self.table.head_dim());
        let half = head_dim / 2;
        let vec = self.table.vec4();
        let width = if vec { half } else { 1 };
        let half16 = outputs.iter().try_fold(true, |all, t| Ok::<_, Error>(halves(op, t, width)? && all))?;
        let target = Target::of(device);
        let words = Words::choose(&target, vec, half16);
        let rows = Rows(op, self.tokens(), self.width());
        let slices = inputs.iter().copied().chain(outputs).map(Tensor::slice);
        let bindings: Vec<Slice> = [self.table.slice(), self.positions.slice()].into_iter().chain(slices).collect();
        let params = RopeSplitParams {
            tokens: self.tokens() as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            half: half as u32,
            positions: self.table.positions() as u32,
            turned: self.table.turned() as u32,
            ..Default::default()
        };
        let of_heads = self.tokens() * (self.heads + 2 * self.kv_heads);
        let touched = 2 * of_heads * half;
        let Some(HeadNorm { norm, weights }) = norm else {
            let work = of_heads * if vec { half / 4 } else { half };
            let spec = split_spec(merge, vec, words, self.table.layout());
            plan_log::tell(&rows, &words);
            return launch(device, &spec, &bindings, &params, work.div_ceil(256) as u64, streaming(2 * touched, 1.5));
        };
        let (two, stride) = weights.dims2(op)?;
        if two != 2 || stride < head_dim || (vec && !vec4(stride)) {
            return Err(Error::shape(op, format!("weights {:?} of heads of {head_dim}", weights.shape())));
        }
        if self.table.layout() != HALVES {
            return Err(Error::shape(op, "heads that turn in part, or in neighbours, are normed by another kernel"));
        }
        let params = NormSplitParams {
            tokens: params.tokens,
            heads: params.heads,
            kv_heads: params.kv_heads,
            half: params.half,
            positions: params.positions,
            gain_stride: stride as u32,
            eps: norm.eps,
            offset: if norm.unit_offset { 1.0 } else { 0.0 },
            ..Default::default()
        };
        let lanes = HeadLanes::choose(&target, if vec { half / 4 } else { half }, words);
        plan_log::tell(&rows, &Joined(lanes, words));
        let groups = of_heads.div_ceil((lanes.workgroup / lanes.head) as usize) as u64;
        let cost = streaming(if merge { 3 * touched } else { 2 * touched }, 4.0);
        launch(device, &norm_spec(merge, vec, words, lanes), &bindings, &params, groups, cost)
    }
}

fn split_spec(merge: bool, vec: bool, words: Words, layout: u32) -> KernelSpec {
    let kernel = if merge { &ROPE_MERGE } else { &ROPE_SPLIT };
    KernelSpec::new(kernel, [&consts(merge, vec, words)[..], &[("LAYOUT", layout)]].concat())
}

fn norm_spec(merge: bool, vec: bool, words: Words, lanes: HeadLanes) -> KernelSpec {
    let kernel = if merge { &NORM_MERGE } else { &NORM_SPLIT };
    let dealt = [("LANES", lanes.head), ("WG", lanes.workgroup), ("SUBGROUP", lanes.subgroup.into())];
    KernelSpec::new(kernel, [&consts(merge, vec, words)[..], &dealt].concat())
}

fn consts(merge: bool, vec: bool, words: Words) -> [(&'static str, u32); 4] {
    [("MERGE", merge), ("VEC", vec), ("OUT16", words.half), ("PAIRS", words.pairs)].map(|(name, on)| (name, on.into()))
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let words = |half, pairs| Words { half, pairs };
    let reads = [(false, words(false, false)), (true, words(false, false)), (true, words(true, false))];
    let each = |merge: bool| {
        let splits = reads.into_iter().chain([(true, words(false, true))]);
        let splits = splits.flat_map(move |(vec, w)| LAYOUTS.map(|layout| split_spec(merge, vec, w, layout)));
        let by_threads = reads
            .into_iter()
            .flat_map(move |(vec, w)| HeadLanes::all_of_threads().map(move |lanes| norm_spec(merge, vec, w, lanes)));
        let by_subgroups = target::LANES.map(|l| norm_spec(merge, true, words(false, true), HeadLanes::of_subgroup(l)));
        by_threads.chain(by_subgroups).chain(splits)
    };
    [false, true].into_iter().flat_map(each).collect()
}
