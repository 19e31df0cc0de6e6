//! Rotary position embedding: `shaders/rope.wgsl`.
//!
//! Angles come from tables made on the host: WGSL promises sine and cosine only for arguments in [−π, π], and an f32
//! product of a position near 131,072 with a frequency is off by up to 4·10⁻³ radians. In f64 on the host both are
//! exact to an f32's last bit, and a load is cheaper than a sine.

use super::output::{To, Words, distinct, halves, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Device, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Turned copies of the heads.
    ROPE, "rope", "rope.wgsl", RopeParams, [read("cosines"), read("sines"), read("at"), read("x"), write("y").half_if("OUT16")]
);
kernel!(
    /// The heads turned where they lie.
    ROPE_IN_PLACE, "rope_in_place", "rope.wgsl", RopeParams,
    [read("cosines"), read("sines"), read("at"), write("x")]
);

kernel!(
    /// Queries, keys and values out of one matrix, queries and keys turned.
    ROPE_SPLIT, "rope_split", "rope_split.wgsl", RopeSplitParams,
    [
        read("cosines"), read("sines"), read("at"), read("all"),
        write("q").half_if("OUT16"), write("k").half_if("OUT16"), write("v").half_if("OUT16"),
    ]
);
kernel!(
    /// Their gradients into one matrix, turned back.
    ROPE_MERGE, "rope_merge", "rope_split.wgsl", RopeSplitParams,
    [read("cosines"), read("sines"), read("at"), read("q"), read("k"), read("v"), write("all").half_if("OUT16")]
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
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RopeParams {
    grid: Grid,
    tokens: u32,
    heads: u32,
    half: u32,
    positions: u32,
    sign: f32,
}

/// `theta^(−2j / head_dim)` for j in 0..head_dim/2: radians a position.
pub fn inverse_frequencies(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|j| theta.powf(-2.0 * j as f64 / head_dim as f64)).collect()
}

/// Linear scaling: positions count `1 / factor`.
pub fn scale_linear(inv_freq: &mut [f64], factor: f64) {
    inv_freq.iter_mut().for_each(|f| *f /= factor);
}

/// Llama 3's scaling: long waves are stretched by `factor`, short ones kept, those between blended. The bounds are
/// `original` positions over `low_freq_factor` and over `high_freq_factor`.
pub fn scale_llama3(inv_freq: &mut [f64], factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: f64) {
    for f in inv_freq {
        let turns = original * *f / std::f64::consts::TAU;
        let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
        *f = keep * *f + (1.0 - keep) * *f / factor;
    }
}

/// Sines and cosines on the device, for positions from 0.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cosines: Tensor,
    sines: Tensor,
}

impl RopeTable {
    /// Tables `[positions, head_dim / 2]` for `inv_freq [head_dim / 2]`, multiplied by `attention_factor` (1 unless
    /// the scaling says otherwise).
    ///
    /// # Errors
    /// [`Error::Shape`] without positions or frequencies; those of an allocation.
    pub fn new(device: &Device, inv_freq: &[f64], positions: usize, attention_factor: f64) -> Result<RopeTable> {
        if positions == 0 || inv_freq.is_empty() {
            return Err(Error::shape("rope", format!("{positions} positions of {} frequencies", inv_freq.len())));
        }
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let angles = (0..positions).flat_map(|t| inv_freq.iter().map(move |w| t as f64 * w));
            angles.map(|a| (f(a) * attention_factor) as f32).collect()
        };
        let shape = [positions, inv_freq.len()];
        Ok(RopeTable {
            cosines: Tensor::from_slice(device, &shape, &table(f64::cos), "rope tables")?,
            sines: Tensor::from_slice(device, &shape, &table(f64::sin), "rope tables")?,
        })
    }

    /// How many positions the tables hold. Larger ones are read as the last: the caller checks.
    pub fn positions(&self) -> usize {
        self.cosines.shape()[0]
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.cosines.shape()[1]
    }
}

/// Which way heads turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Forward,
    /// The backward: a rotation's transpose turns back.
    Back,
}

/// Turned copies: x `[tokens, heads · head_dim]`, positions u32 `[tokens]`; f16 if that is asked for, and half a head is a
/// multiple of 4 long.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope(x: &Tensor, table: &RopeTable, positions: &Tensor, turn: Turn, to: To<'_>) -> Result<Tensor> {
    let y = to.overwritten(x.device(), "rope", x.shape())?;
    distinct("rope", &[x, positions], &[&y])?;
    run(x, table, positions, turn, Some(&y))?;
    Ok(y)
}

/// Turns x `[tokens, heads · head_dim]` where it lies.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope_in_place(x: &Tensor, table: &RopeTable, positions: &Tensor, turn: Turn) -> Result<()> {
    distinct("rope", &[positions], &[x])?;
    run(x, table, positions, turn, None)
}

fn run(x: &Tensor, table: &RopeTable, positions: &Tensor, turn: Turn, y: Option<&Tensor>) -> Result<()> {
    let (tokens, cols) = x.dims2("rope")?;
    let head_dim = table.head_dim();
    positions.expect_shape("rope", "positions", &[tokens])?;
    if !cols.is_multiple_of(head_dim) {
        return Err(Error::shape("rope", format!("x {:?} is no whole number of heads of {head_dim}", x.shape())));
    }
    let (heads, half) = (cols / head_dim, head_dim / 2);
    let params = RopeParams {
        tokens: tokens as u32,
        heads: heads as u32,
        half: half as u32,
        positions: table.positions() as u32,
        sign: if turn == Turn::Forward { 1.0 } else { -1.0 },
        ..Default::default()
    };
    let vec = vec4(half);
    let half16 = y.map_or(Ok(false), |y| halves("rope", y, half))?;
    let mut bindings = vec![table.cosines.slice(), table.sines.slice(), positions.slice(), x.slice()];
    bindings.extend(y.map(Tensor::slice));
    let work = tokens * heads * if vec { half / 4 } else { half };
    let cost = streaming(2 * x.len(), 1.5);
    launch(x.device(), &spec(y.is_none(), vec, half16), &bindings, &params, work.div_ceil(256) as u64, cost)
}

/// q `[tokens, heads · head_dim]`, k and v `[tokens, kv_heads · head_dim]` out of `all`, in whose rows they lie one behind
/// the other; q and k turned by positions u32 `[tokens]`. All are f16 if that is asked for, and half a head is a multiple of 4
/// long.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope_split(
    all: &Tensor,
    table: &RopeTable,
    positions: &Tensor,
    heads: usize,
    kv_heads: usize,
    to: [To<'_>; 3],
) -> Result<[Tensor; 3]> {
    let op = "rope_split";
    let (tokens, head_dim) = (all.dims2(op)?.0, table.head_dim());
    all.expect_shape(op, "q, k and v", &[tokens, (heads + 2 * kv_heads) * head_dim])?;
    let [q, k, v] = to;
    let parts = [
        q.overwritten(all.device(), op, &[tokens, heads * head_dim])?,
        k.overwritten(all.device(), op, &[tokens, kv_heads * head_dim])?,
        v.overwritten(all.device(), op, &[tokens, kv_heads * head_dim])?,
    ];
    let [q, k, v] = &parts;
    distinct(op, &[all, positions], &[q, k, v])?;
    split(false, table, positions, [all, q, k, v], (heads, kv_heads))?;
    Ok(parts)
}

/// The gradient of [`rope_split`]'s operand from those of its results; f16 if that is asked for, and half a head is a multiple
/// of 4 long.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope_merge(
    [q, k, v]: [&Tensor; 3],
    table: &RopeTable,
    positions: &Tensor,
    heads: usize,
    kv_heads: usize,
    to: To<'_>,
) -> Result<Tensor> {
    let op = "rope_merge";
    let (tokens, head_dim) = (q.dims2(op)?.0, table.head_dim());
    q.expect_shape(op, "q", &[tokens, heads * head_dim])?;
    k.expect_shape(op, "k", &[tokens, kv_heads * head_dim])?;
    v.expect_shape(op, "v", k.shape())?;
    let all = to.overwritten(q.device(), op, &[tokens, (heads + 2 * kv_heads) * head_dim])?;
    distinct(op, &[q, k, v, positions], &[&all])?;
    split(true, table, positions, [q, k, v, &all], (heads, kv_heads))?;
    Ok(all)
}

fn split(
    merge: bool,
    table: &RopeTable,
    positions: &Tensor,
    operands: [&Tensor; 4],
    (heads, kv_heads): (usize, usize),
) -> Result<()> {
    let (tokens, half) = (operands[0].dims2("rope_split")?.0, table.head_dim() / 2);
    positions.expect_shape("rope_split", "positions", &[tokens])?;
    let params = RopeSplitParams {
        tokens: tokens as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        half: half as u32,
        positions: table.positions() as u32,
        ..Default::default()
    };
    let vec = vec4(half);
    let mut bindings = vec![table.cosines.slice(), table.sines.slice(), positions.slice()];
    bindings.extend(operands.map(Tensor::slice));
    let work = tokens * (heads + 2 * kv_heads) * half;
    let groups = (if vec { work / 4 } else { work }).div_ceil(256) as u64;
    // the merged matrix, or all of its parts
    let written = if merge { &operands[3..] } else { &operands[1..] };
    let op = if merge { "rope_merge" } else { "rope_split" };
    let half16 = written.iter().try_fold(true, |all, t| Ok::<_, Error>(halves(op, t, half)? && all))?;
    let words = Words::of(positions.device(), vec, half16);
    let spec = split_spec(merge, vec, words);
    launch(positions.device(), &spec, &bindings, &params, groups, streaming(4 * work, 1.5))
}

fn split_spec(merge: bool, vec: bool, words: Words) -> KernelSpec {
    let kernel = if merge { &ROPE_MERGE } else { &ROPE_SPLIT };
    let flags = [("MERGE", merge), ("VEC", vec), ("OUT16", words.half), ("PAIRS", words.pairs)];
    KernelSpec::new(kernel, flags.map(|(name, on)| (name, u32::from(on))))
}

fn spec(in_place: bool, vec: bool, half: bool) -> KernelSpec {
    let kernel = if in_place { &ROPE_IN_PLACE } else { &ROPE };
    KernelSpec::new(kernel, [("INPLACE", in_place.into()), ("VEC", vec.into()), ("OUT16", half.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let plain = Words { half: false, pairs: false };
    let each = |&one: &bool| {
        let both = flags.into_iter().flat_map(move |vec| [spec(one, vec, false), split_spec(one, vec, plain)]);
        both.chain([true, false].map(|pairs| split_spec(one, true, Words { pairs, half: !pairs })))
    };
    flags.iter().flat_map(each).chain([spec(false, true, true)]).collect()
}
