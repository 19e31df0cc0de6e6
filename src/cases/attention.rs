//! Attention forward, backward and decode, and the cache's store.

use super::attention_reference::{Case, Data, Uploaded};
use super::{Guarded, Level, Near, Op, Row, Trial, quick_at};
use crate::device::{Device, Precision};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::attention::{
    BACKWARD_KV, BACKWARD_Q, DECODE, DELTA, FORWARD, Gradients, KV_STORE, MAX_HEAD_DIM, Saved, attention_backward,
    attention_decode, attention_forward, kv_store,
};
use crate::kernels::attention_coop::{BACKWARD_KV_COOP, BACKWARD_Q_COOP, FORWARD_COOP};
use crate::kernels::attention_simd::{BACKWARD_KV_SIMD, BACKWARD_Q_SIMD, FORWARD_SIMD};
use crate::tensor::Element;

const FORWARD_OP: Op = Op {
    name: "attention",
    kernels: &[&FORWARD, &FORWARD_COOP, &FORWARD_SIMD],
    why: "scores are sums of head_dim products, their error passes through exp (3 + 2|x| ulp) into each weight; an \
          output moves by Σ weight · error · |value − mean|, and each new maximum rounds once more; on matrix units q, k, \
          v and each weight are rounded to f16 first, 2⁻¹¹ of them at most, and an output in f16 once more",
};
const BACKWARD_OP: Op = Op {
    name: "attention_backward",
    kernels: &[
        &DELTA,
        &BACKWARD_Q,
        &BACKWARD_KV,
        &BACKWARD_Q_COOP,
        &BACKWARD_KV_COOP,
        &BACKWARD_Q_SIMD,
        &BACKWARD_KV_SIMD,
    ],
    why: "a gradient is a sum of p · (dp − delta) · slope; the errors of the three factors add up term by term, then \
          the sum's own rounding; on matrix units every operand of the five products is rounded to f16 first",
};
const DECODE_OP: Op =
    Op { name: "attention_decode", kernels: &[&DECODE], why: "as attention: one row's softmax over its range" };
const STORE_OP: Op = Op { name: "kv_store", kernels: &[&KV_STORE], why: "copies are exact" };

const PLAIN: Case = Case { segments: &[33], heads: 2, kv_heads: 2, head_dim: 16, window: usize::MAX, softcap: None };

/// Every head size that takes another way through the shader, ratios of heads, lengths on and beside the tiles' edges,
/// several segments, windows, softcap.
const CASES: &[Case] = &[
    PLAIN,
    Case { segments: &[1], heads: 3, kv_heads: 1, head_dim: 64, ..PLAIN },
    Case { segments: &[7], heads: 4, kv_heads: 4, head_dim: 8, ..PLAIN },
    Case { segments: &[31], heads: 4, kv_heads: 2, head_dim: 24, ..PLAIN },
    Case { segments: &[65], heads: 4, kv_heads: 1, head_dim: 80, ..PLAIN },
    Case { segments: &[129], heads: 3, kv_heads: 1, head_dim: 64, ..PLAIN },
    Case { segments: &[64], heads: 2, kv_heads: 1, head_dim: 96, ..PLAIN },
    Case { segments: &[40], heads: 2, kv_heads: 2, head_dim: 128, ..PLAIN },
    Case { segments: &[35], heads: 2, kv_heads: 1, head_dim: 256, ..PLAIN },
    Case { segments: &[33], heads: 8, kv_heads: 1, head_dim: 16, ..PLAIN },
    Case { segments: &[5, 1, 37, 19, 3], heads: 6, kv_heads: 2, head_dim: 64, ..PLAIN },
    Case { segments: &[130, 31], window: 9, head_dim: 24, ..PLAIN },
    Case { segments: &[45, 20], window: 32, heads: 4, kv_heads: 2, softcap: Some(5.0), ..PLAIN },
    Case { segments: &[33], head_dim: 256, heads: 2, kv_heads: 1, softcap: Some(1.5), ..PLAIN },
];
const QUICK: &[usize] = &[3, 5, 10, 12];
/// Those of every size of head whose blocks can be measured.
const TILES: &[usize] = &[4, 6, 7, 8, 10];

/// Rows of a cache, of which queries see these ranges; rows that no query sees hold NaN.
const CACHE_ROWS: usize = 265;
const RANGES: &[(u32, u32)] = &[(0, 1), (200, 265), (1, 130), (131, 138), (138, 138), (263, 900)];
const UNSEEN: std::ops::Range<usize> = 140..200;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &case) in CASES.iter().enumerate() {
        let seed = i as u64;
        let data = move |t: &Trial<'_>| t.data(case, seed);
        let what = case.what();
        let level = quick_at(i, QUICK);
        rows.push(FORWARD_OP.row(level, &what, move |t| forward(t, data(t))));
        rows.push(BACKWARD_OP.row(level, &what, move |t| backward(t, data(t), Element::F32)));
        let half = if QUICK.contains(&i) { level } else { Level::Spare };
        rows.push(BACKWARD_OP.row(half, format!("{what}, out in f16"), move |t| backward(t, data(t), Element::F16)));
        if TILES.contains(&i) {
            let (level, what) = (quick_at(i, &[10]), format!("{what}, in every block"));
            rows.push(FORWARD_OP.row(level, &what, move |t| t.in_every_tile(|t| forward(t, data(t)))));
            rows.push(BACKWARD_OP.row(level, what, move |t| t.in_every_tile(|t| backward(t, data(t), Element::F32))));
        }
        let what = format!("{} rows of a cache of {CACHE_ROWS}, {what}", RANGES.len());
        rows.push(DECODE_OP.row(quick_at(i, QUICK), what, move |t| decode(t, case, seed)));
    }
    every_head(&mut rows);
    // scores far apart and far from zero: what a softmax without its running maximum gets wrong
    let large = || {
        let mut data = Data::new(Case { segments: &[70], head_dim: 64, ..PLAIN }, 90);
        data.q.iter_mut().for_each(|q| *q *= 30.0);
        data
    };
    rows.push(FORWARD_OP.row(Level::Quick, "large scores", move |t| forward(t, large())));
    rows.push(BACKWARD_OP.row(Level::Quick, "large scores", move |t| backward(t, large(), Element::F32)));
    for (what, data) in [("empty ranges", empty_ranges as fn() -> Data), ("fewer queries than keys", few_queries)] {
        rows.push(FORWARD_OP.row(Level::Full, what, move |t| forward(t, data())));
        rows.push(BACKWARD_OP.row(Level::Full, what, move |t| backward(t, data(), Element::F32)));
    }
    for (n, width, cache) in [(1, 8, 1), (7, 24, 31), (33, 136, 65)] {
        let what = format!("[{n}, {width}] into {cache} slots");
        rows.push(STORE_OP.row(Level::Quick, what, move |t| store(t, n, width, cache)));
    }
    rows
}

/// Heads of every size that the kernels take: each is a kernel of its own.
fn every_head(rows: &mut Vec<Row>) {
    for (head_dim, softcap) in (8..=MAX_HEAD_DIM).step_by(8).flat_map(|d| [(d, None), (d, Some(5.0))]) {
        let case = Case { segments: &[21, 13], heads: 2, kv_heads: 1, head_dim, softcap, ..PLAIN };
        let (what, seed) = (case.what(), 300 + head_dim as u64);
        rows.push(FORWARD_OP.row(Level::Spare, &what, move |t| forward(t, t.data(case, seed))));
        for (element, to) in [(Element::F32, ""), (Element::F16, ", out in f16")] {
            let what = format!("{what}{to}");
            rows.push(BACKWARD_OP.row(Level::Spare, what, move |t| backward(t, t.data(case, seed), element)));
        }
        let what = format!("{} rows of a cache of {CACHE_ROWS}, {what}", RANGES.len());
        rows.push(DECODE_OP.row(Level::Spare, what, move |t| decode(t, case, seed)));
    }
}

/// Some queries see nothing, ranges end past the keys, and some keys are seen by nobody.
fn empty_ranges() -> Data {
    let mut data = Data::new(Case { segments: &[41], heads: 4, ..PLAIN }, 91);
    for t in [0, 5, 6, 17, 40] {
        (data.keys.0[t], data.keys.1[t]) = (7, if t == 5 { 3 } else { 7 });
    }
    data.keys.1[39] = 1000;
    for t in 0..41 {
        data.keys.0[t] = data.keys.0[t].max(3);
        data.queries.0[t] = 0;
        data.queries.1[t] = if t < 3 { 0 } else { 1000 };
    }
    data
}

/// A block of queries over many blocks of keys, and keys of other sequences in between.
fn few_queries() -> Data {
    let mut data = Data::new(Case { segments: &[150], heads: 6, ..PLAIN }, 92);
    data.tokens = 3;
    let wide = 3 * data.case.heads * data.case.head_dim;
    data.q.truncate(wide);
    data.d_out.truncate(wide);
    data.keys = (vec![0, 100, 40], vec![150, 101, 99]);
    data.queries = (vec![0; 150], vec![3; 150]);
    data
}

impl Trial<'_> {
    /// Inputs of a case; zeros where only launches are wanted.
    fn data(&self, case: Case, seed: u64) -> Data {
        if self.counts { Data::of(case, |n| vec![0.0; n]) } else { Data::new(case, seed) }
    }
}

/// Whether this device rounds operands to f16.
fn halves(device: &Device) -> bool {
    device.precision() == Precision::F16
}

fn forward(t: &mut Trial<'_>, mut data: Data) -> Result<()> {
    data.halves = halves(t.device);
    for element in elements(t.device) {
        let up = inputs(t, &mut data, *element)?;
        let (want_out, want_lse) = t.want(|| data.forward());
        let (out, lse) = (t.out_of(*element, up.q.shape())?, t.out(&[data.tokens, data.case.heads])?);
        let to = (To::Into(&out.tensor), To::Into(&lse.tensor));
        attention_forward(&up.q, &up.k, &up.v, up.keys(), &data.shape(), to.0, to.1)?;
        t.compare("out", &out, want_out)?;
        t.compare("lse", &lse, want_lse)?;
    }
    Ok(())
}

/// The inputs on the device; q, k and v made of `element`s, where it takes them so.
fn inputs(t: &Trial<'_>, data: &mut Data, element: Element) -> Result<Uploaded> {
    let mut up = data.upload(t.device)?;
    if halves(t.device) {
        (up.q, data.q) = t.operand(element, up.q.shape(), &data.q)?;
        (up.k, data.k) = t.operand(element, up.k.shape(), &data.k)?;
        (up.v, data.v) = t.operand(element, up.v.shape(), &data.v)?;
    }
    Ok(up)
}

/// What operands and outputs can be made of: matrix units also take and make f16.
fn elements(device: &Device) -> &'static [Element] {
    if halves(device) { &[Element::F32, Element::F16] } else { &[Element::F32] }
}

fn rounded(values: &[Near]) -> Vec<f32> {
    values.iter().map(|v| v.value as f32).collect()
}

/// `element`: what the forward's output is made of, and its operands where that can be.
fn backward(t: &mut Trial<'_>, mut data: Data, element: Element) -> Result<()> {
    data.halves = halves(t.device);
    let up = inputs(t, &mut data, element)?;
    let (out, lse) = t.want(|| data.forward());
    let (mut out, mut lse) = (rounded(&out), rounded(&lse));
    out.resize(data.q.len(), 0.0);
    lse.resize(data.tokens * data.case.heads, 0.0);
    let (t_out, out) = t.operand(element, up.q.shape(), &out)?;
    let t_lse = t.up(&[data.tokens, data.case.heads], &lse)?;
    let saved = Saved { q: &up.q, k: &up.k, v: &up.v, out: &t_out, lse: &t_lse };
    let [dq, dk, dv]: [Guarded; 3] = [t.out(up.q.shape())?, t.out(up.k.shape())?, t.out(up.v.shape())?];
    let to = Gradients { dq: dq.tensor.clone(), dk: dk.tensor.clone(), dv: dv.tensor.clone() };
    attention_backward(saved, &up.d_out, up.keys(), up.queries(), &data.shape(), Some(&to))?;
    let [want_q, want_k, want_v] = t.want(|| data.backward(&out, &lse));
    t.compare("dQ", &dq, want_q)?;
    t.compare("dK", &dk, want_k)?;
    t.compare("dV", &dv, want_v)
}

/// Each row has a range of its own in the cache; what lies outside of all ranges is not read.
fn decode(t: &mut Trial<'_>, case: Case, seed: u64) -> Result<()> {
    let mut data = t.data(Case { segments: &[CACHE_ROWS], ..case }, 200 + seed);
    data.tokens = RANGES.len();
    data.q.truncate(RANGES.len() * case.heads * case.head_dim);
    data.d_out.truncate(data.q.len());
    data.keys = (RANGES.iter().map(|r| r.0).collect(), RANGES.iter().map(|r| r.1).collect());
    let (want, _) = t.want(|| data.forward());
    let width = case.kv_heads * case.head_dim;
    let up = data.upload(t.device)?;
    for unseen in [&mut data.k, &mut data.v] {
        unseen[UNSEEN.start * width..UNSEEN.end * width].fill(f32::NAN);
    }
    up.k.write(&data.k)?;
    up.v.write(&data.v)?;
    let out = t.out(up.q.shape())?;
    attention_decode(&up.q, &up.k, &up.v, up.keys(), &data.shape(), Some(&out.tensor))?;
    t.compare("out", &out, want)
}

fn store(t: &mut Trial<'_>, rows: usize, width: usize, cache_rows: usize) -> Result<()> {
    let (src, old) = (t.random(rows * width), t.random(cache_rows * width));
    // all but the first row's slots are in the cache
    let mut slots: Vec<u32> = (0..cache_rows as u32).collect();
    t.rng.shuffle(&mut slots);
    slots.truncate(rows);
    if rows > 1 {
        slots[0] = cache_rows as u32;
    }
    let mut want = old.clone();
    for (r, &slot) in slots.iter().enumerate().filter(|(_, s)| (**s as usize) < cache_rows) {
        want[slot as usize * width..][..width].copy_from_slice(&src[r * width..][..width]);
    }
    let cache = t.holding(&[cache_rows, width], &old)?;
    kv_store(&t.up(&[rows, width], &src)?, &t.up(&[rows], &slots)?, &cache.tensor)?;
    t.compare_exactly("cache", &cache, &want)
}
