//! Causal grouped-query attention: `shaders/attention*.wgsl`. Memory grows linearly with the sequence.
//!
//! There is neither padding nor a batch dimension: sequences are packed one behind the other, and ranges of rows say who
//! sees whom. On a device whose precision is f16, forward and backward run on matrix units (see
//! [`attention_coop`]). Dimensions: `tokens` query rows, `kv_rows` key and value rows, `heads` query heads of `head_dim` elements,
//! `kv_heads` key-value heads; query head h reads key-value head h / (heads / kv_heads).

use super::attention_coop;
pub use super::attention_decode::{DECODE, KV_STORE, attention_decode, kv_store};
use super::attention_way::{Tile, Way};
use super::elementwise::{add_into, round};
use super::output::{To, pairs};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, Device, DeviceClass, Grid, Kernel, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

kernel!(
    /// Output and log-sum-exp.
    FORWARD, "attention_forward", "attention.wgsl", TileParams,
    [read("q"), read("k"), read("v"), read("kv_start"), read("kv_end"), write("out"), write("lse")]
);
kernel!(
    /// Gradient of the queries.
    BACKWARD_Q, "attention_backward_q", "attention.wgsl", TileParams,
    [read("q"), read("k"), read("v"), read("d_out"), read("stats"), write("dq")]
);
kernel!(
    /// Gradients of keys and values, summed over the query heads that share them.
    BACKWARD_KV, "attention_backward_kv", "attention.wgsl", TileParams,
    [read("q"), read("k"), read("v"), read("d_out"), read("stats"), write("dk"), write("dv")]
);
kernel!(
    /// What both backward passes need of each query and key.
    DELTA, "attention_delta", "attention_delta.wgsl", DeltaParams,
    [
        read("out").half_if("OUT16"), read("d_out"), read("lse"), read("kv_start"), read("kv_end"), read("q_start"), read("q_end"),
        write("stats"),
    ]
);
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct TileParams {
    grid: Grid,
    tokens: u32,
    kv_rows: u32,
    heads: u32,
    kv_heads: u32,
    group: u32,
    blocks: u32,
    scale: f32,
    cap: f32,
    first: u32,
    end: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DeltaParams {
    grid: Grid,
    tokens: u32,
    kv_rows: u32,
    heads: u32,
}

/// The log-sum-exp of a query that sees no key.
pub const EMPTY_LSE: f32 = -1e38;

/// The largest head that the kernels are specialised for, in elements.
pub const MAX_HEAD_DIM: usize = 256;

/// What attention is like, apart from the sizes that the tensors tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    /// Divides `heads`.
    pub kv_heads: usize,
    /// A multiple of 8, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Factor of q·k, before the softcap.
    pub scale: f32,
    /// Gemma 2's `cap · tanh(s / cap)` on scores; positive.
    pub softcap: Option<f32>,
    /// Keys that a query sees at most, where that is known to be fewer than there are (sequence length, window). Only an
    /// estimate of the work, for time budgets and profiles.
    pub span: Option<usize>,
}

/// A range of rows for each row: `start[i] .. end[i]`, both tensors u32 `[rows]`. Ranges may be empty; what lies past the
/// last row is ignored.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    pub start: &'a Tensor,
    pub end: &'a Tensor,
}

/// What the forward read and wrote.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[tokens, heads * head_dim]`
    pub q: &'a Tensor,
    /// `[kv_rows, kv_heads * head_dim]`
    pub k: &'a Tensor,
    /// `[kv_rows, kv_heads * head_dim]`
    pub v: &'a Tensor,
    /// `[tokens, heads * head_dim]`
    pub out: &'a Tensor,
    /// `[tokens, heads]`
    pub lse: &'a Tensor,
}

/// Gradients, in the shapes of what they belong to.
#[derive(Clone, Debug)]
pub struct Gradients {
    pub dq: Tensor,
    pub dk: Tensor,
    pub dv: Tensor,
}

/// The binding of the forward's output.
pub(super) const OUT: usize = 5;

/// The shader's three passes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Pass {
    Forward = 0,
    Query = 1,
    KeyValue = 2,
}

impl Pass {
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::Query, Pass::KeyValue];

    pub fn kernel(self) -> &'static Kernel {
        match self {
            Pass::Forward => &FORWARD,
            Pass::Query => &BACKWARD_Q,
            Pass::KeyValue => &BACKWARD_KV,
        }
    }
}

/// How [`DELTA`] reads and writes.
#[derive(Clone, Copy)]
struct DeltaWay {
    /// Threads share a row. A software renderer wants neither that nor barriers.
    shared: bool,
    out16: bool,
    round: bool,
    pairs: bool,
}

impl DeltaWay {
    fn spec(self, head_dim: usize) -> KernelSpec {
        let DeltaWay { shared, out16, round, pairs } = self;
        let flags = [("SHARED", shared), ("OUT16", out16), ("ROUND", round), ("PAIRS", pairs)];
        let consts = [("HEAD_DIM", head_dim as u32)].into_iter().chain(flags.map(|(name, on)| (name, on.into())));
        KernelSpec::new(&DELTA, consts.collect::<Vec<_>>())
    }

    /// Rows of a workgroup.
    fn rows(self, head_dim: usize) -> usize {
        if self.shared { 256 / (head_dim / 8) } else { 64 }
    }
}

/// Every specialisation, on every device class.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for head_dim in (8..=MAX_HEAD_DIM).step_by(8) {
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(DeltaWay { shared: true, out16: a, round: b, pairs: false }.spec(head_dim));
        }
        for pairs in [false, true] {
            all.push(DeltaWay { shared: false, out16: false, round: false, pairs }.spec(head_dim));
        }
        for pass in Pass::ALL {
            let tiles = Tile::all(pass, head_dim);
            all.extend(tiles.iter().flat_map(|t| [false, true].map(|softcap| t.spec(pass, head_dim, softcap))));
        }
    }
    all
}

/// Sizes that fit together, and fit the shaders' 32-bit indices.
pub(super) struct Sizes {
    pub tokens: usize,
    pub kv_rows: usize,
    pub shape: AttentionShape,
}

impl Sizes {
    /// Checks `q` `[tokens, heads * head_dim]`, `k` and `v` `[kv_rows, kv_heads * head_dim]`.
    pub fn check(op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Sizes> {
        let AttentionShape { heads, kv_heads, head_dim, softcap, .. } = *shape;
        if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > MAX_HEAD_DIM {
            let reason = format!("{head_dim} is not a multiple of 8 up to {MAX_HEAD_DIM}, so this model cannot be run");
            return Err(Error::invalid("head_dim", reason));
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::invalid("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads")));
        }
        if softcap.is_some_and(|c| c.is_nan() || c <= 0.0) {
            return Err(Error::invalid("attn_logit_softcapping", "must be positive; leave it out for none"));
        }
        let (tokens, _) = q.dims2(op)?;
        let (kv_rows, _) = k.dims2(op)?;
        q.expect_shape(op, "q", &[tokens, heads * head_dim])?;
        k.expect_shape(op, "k", &[kv_rows, kv_heads * head_dim])?;
        v.expect_shape(op, "v", &[kv_rows, kv_heads * head_dim])?;
        // ranges of query tokens become ranges of rows (token · group + head), and statistics one index for all
        if u32::try_from(q.len().max(k.len()) + kv_rows + 4 * MAX_HEAD_DIM * heads).is_err() {
            return Err(Error::shape(op, format!("q {:?} and k {:?} have too many elements", q.shape(), k.shape())));
        }
        Ok(Sizes { tokens, kv_rows, shape: *shape })
    }

    /// Queries, keys and values as the passes take them: on matrix units copies in f16 of those that are not.
    fn operands(&self, given: [&Tensor; 3]) -> Result<[Tensor; 3]> {
        let wanted = operands(given[0].device(), self.shape.head_dim);
        let [q, k, v] = given.map(|t| match (wanted, t.element()) {
            (Element::F16, Element::F32) => round(t, To::Half("scratch")),
            _ => Ok(t.clone()),
        });
        Ok([q?, k?, v?])
    }

    pub fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// A pass of the backward, in as many launches as it takes; each adds its part of the sums.
    fn backward(&self, pass: Pass, device: &Device, inputs: &[&Tensor], outputs: &[&Tensor]) -> Result<()> {
        let columns = if pass == Pass::KeyValue { self.tokens } else { self.kv_rows };
        let way = Way::choose(pass, device, self);
        let longest = way.longest(pass, device, self);
        for first in (0..columns.max(1)).step_by(longest) {
            let part = first..first.saturating_add(longest).min(columns);
            if first == 0 {
                self.launch((pass, way), device, &[inputs, outputs].concat(), part)?;
                continue;
            }
            let more: Vec<Tensor> =
                outputs.iter().map(|t| Tensor::empty(device, t.shape(), "scratch")).collect::<Result<_>>()?;
            self.launch((pass, way), device, &[inputs, &more.iter().collect::<Vec<_>>()].concat(), part)?;
            outputs.iter().zip(&more).try_for_each(|(sum, part)| add_into(sum, part, 1.0))?;
        }
        Ok(())
    }

    /// Launches a pass over blocks of its rows, which sees only `columns`: keys, or for [`Pass::KeyValue`] tokens.
    fn launch(
        &self,
        (pass, way): (Pass, Way),
        device: &Device,
        bindings: &[&Tensor],
        columns: Range<usize>,
    ) -> Result<()> {
        let s = &self.shape;
        let rows = if pass == Pass::KeyValue { self.kv_rows } else { self.tokens * self.group() };
        let slices: Vec<_> = bindings.iter().map(|t| t.slice()).collect();
        let spec = way.spec(pass, device, s, &slices);
        let blocks = rows.div_ceil(way.rows());
        let params = TileParams {
            tokens: self.tokens as u32,
            kv_rows: self.kv_rows as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            group: self.group() as u32,
            blocks: blocks as u32,
            scale: s.scale,
            cap: s.softcap.unwrap_or(1.0),
            first: columns.start as u32,
            end: columns.end as u32,
            ..Default::default()
        };
        let products = match pass {
            Pass::Forward => 2,
            Pass::Query => 3,
            Pass::KeyValue => 4,
        };
        let groups = (blocks * s.kv_heads) as u64;
        launch(device, &spec, &slices, &params, groups, self.cost(products, bindings))
    }

    /// `products` of scores' size, half of which is masked in a causal range.
    pub fn cost(&self, products: usize, bindings: &[&Tensor]) -> Cost {
        let s = &self.shape;
        let keys = s.span.unwrap_or(self.kv_rows).min(self.kv_rows);
        let scores = self.tokens as f64 * (keys as f64 / 2.0 + 0.5) * s.heads as f64;
        Cost {
            flops: 2.0 * products as f64 * scores * s.head_dim as f64,
            bytes: bindings.iter().map(|t| (t.element().bytes() * t.len()) as f64).sum(),
        }
    }
}

/// What queries, keys and values of such heads are best made of: f16 where they are rounded to it anyway.
pub fn operands(device: &Device, head_dim: usize) -> Element {
    if attention_coop::choose(device, Pass::Forward, head_dim).is_some() { Element::F16 } else { Element::F32 }
}

/// A given output of this shape, or a new one.
pub(super) fn output(
    op: &'static str,
    name: &str,
    given: Option<&Tensor>,
    like: (&Device, &[usize]),
) -> Result<Tensor> {
    match given {
        Some(t) => Ok(t.expect_shape(op, name, like.1)?.clone()),
        None => Tensor::empty(like.0, like.1, "activations"),
    }
}

/// `out [tokens, heads * head_dim]` and the natural log-sum-exp of the scaled (and softcapped) scores `lse [tokens, heads]`
/// for q `[tokens, heads * head_dim]`, k and v `[kv_rows, kv_heads * head_dim]`: query row t sees the key rows `keys[t]`. A
/// query that sees none gets 0 and [`EMPTY_LSE`]. On matrix units `out` may be f16, and so may q, k and v, which are read faster
/// then: see [`operands`]. Key and value rows between the first and the last that nearby queries see
/// must be finite even where no query sees them.
///
/// # Errors
/// [`Error::Invalid`] for heads that the kernels cannot do, and for more keys than a software renderer can; [`Error::Shape`]
/// for tensors that do not fit together.
pub fn attention_forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    keys: Ranges<'_>,
    shape: &AttentionShape,
    out: To<'_>,
    lse: To<'_>,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention_forward";
    let sizes = Sizes::check(OP, q, k, v, shape)?;
    keys.expect_shape(OP, "keys", sizes.tokens)?;
    let device = q.device();
    let out = out.overwritten(device, OP, q.shape())?;
    let lse = lse.overwritten(device, OP, &[sizes.tokens, shape.heads])?;
    let way = Way::choose(Pass::Forward, device, &sizes);
    let most = way.longest(Pass::Forward, device, &sizes);
    if sizes.kv_rows > most {
        let reason = format!(
            "{} tokens at once are more than the {most} that a software renderer can do; lower --batch-size or --seq-len, \
             or use a GPU",
            sizes.kv_rows
        );
        return Err(Error::invalid("attention", reason));
    }
    let [q, k, v] = &sizes.operands([q, k, v])?;
    sizes.launch((Pass::Forward, way), device, &[q, k, v, keys.start, keys.end, &out, &lse], 0..sizes.kv_rows)?;
    Ok((out, lse))
}

/// Gradients of [`attention_forward`]. `d_out [tokens, heads * head_dim]`; `keys` as in the forward; `queries` says for each
/// key row the query rows among which are all that see it (in a packed causal sequence: itself up to the end of its
/// segment). Whether a query sees a key is decided by `keys` alone.
///
/// # Errors
/// As [`attention_forward`].
pub fn attention_backward(
    saved: Saved<'_>,
    d_out: &Tensor,
    keys: Ranges<'_>,
    queries: Ranges<'_>,
    shape: &AttentionShape,
    to: Option<&Gradients>,
) -> Result<Gradients> {
    const OP: &str = "attention_backward";
    let Saved { q, k, v, out, lse } = saved;
    let sizes = Sizes::check(OP, q, k, v, shape)?;
    keys.expect_shape(OP, "keys", sizes.tokens)?;
    queries.expect_shape(OP, "queries", sizes.kv_rows)?;
    out.expect_shape(OP, "out", q.shape())?;
    d_out.expect_shape(OP, "d_out", q.shape())?;
    lse.expect_shape(OP, "lse", &[sizes.tokens, shape.heads])?;
    let device = q.device();
    let gradients = Gradients {
        dq: output(OP, "dq", to.map(|t| &t.dq), (device, q.shape()))?,
        dk: output(OP, "dk", to.map(|t| &t.dk), (device, k.shape()))?,
        dv: output(OP, "dv", to.map(|t| &t.dv), (device, k.shape()))?,
    };
    let on_units = operands(device, shape.head_dim) == Element::F16;
    let stats = delta(&sizes, saved, d_out, keys, queries, on_units)?;
    let [q, k, v] = &sizes.operands([q, k, v])?;
    let inputs: &[&Tensor] = if on_units { &[q, k, v, &stats] } else { &[q, k, v, d_out, &stats] };
    sizes.backward(Pass::Query, device, inputs, &[&gradients.dq])?;
    sizes.backward(Pass::KeyValue, device, inputs, &[&gradients.dk, &gradients.dv])?;
    Ok(gradients)
}

/// Statistics `[tokens * heads + kv_rows, 4]` u32, with `round` and dO in f16 behind them; see `shaders/attention_delta.wgsl`.
fn delta(
    sizes: &Sizes,
    saved: Saved<'_>,
    d_out: &Tensor,
    keys: Ranges<'_>,
    queries: Ranges<'_>,
    round: bool,
) -> Result<Tensor> {
    let device = d_out.device();
    let rows = sizes.tokens * sizes.shape.heads + sizes.kv_rows;
    let stats = Tensor::empty(device, &[rows + if round { d_out.len() / 8 } else { 0 }, 4], "scratch")?;
    let params = DeltaParams {
        tokens: sizes.tokens as u32,
        kv_rows: sizes.kv_rows as u32,
        heads: sizes.shape.heads as u32,
        ..Default::default()
    };
    let bindings = [saved.out, d_out, saved.lse, keys.start, keys.end, queries.start, queries.end, &stats];
    let cost = Cost {
        flops: 2.0 * d_out.len() as f64,
        bytes: (saved.out.element().bytes() * saved.out.len() + 4 * (d_out.len() + stats.len())) as f64,
    };
    let out16 = saved.out.element() == Element::F16;
    let shared = out16 || round || device.caps().class != DeviceClass::Software;
    let way = DeltaWay { shared, out16, round, pairs: pairs(device, !shared) };
    let (spec, groups) = (way.spec(sizes.shape.head_dim), rows.div_ceil(way.rows(sizes.shape.head_dim)));
    launch(device, &spec, &bindings.map(Tensor::slice), &params, groups as u64, cost)?;
    Ok(stats)
}

impl Ranges<'_> {
    pub(super) fn expect_shape(&self, op: &'static str, name: &str, rows: usize) -> Result<()> {
        self.start.expect_shape(op, &format!("{name}.start"), &[rows])?;
        self.end.expect_shape(op, &format!("{name}.end"), &[rows])?;
        Ok(())
    }
}
