//! Causal grouped-query attention: `shaders/attention*.wgsl`. Memory grows linearly with the sequence.
//!
//! There is neither padding nor a batch dimension: sequences are packed one behind the other, and ranges of rows say who
//! sees whom. On a device whose precision is f16, forward and backward run on matrix units (see
//! [`attention_coop`]). Dimensions: `tokens` query rows, `kv_rows` key and value rows, `heads` query heads of `head_dim` elements,
//! `kv_heads` key-value heads; query head h reads key-value head h / (heads / kv_heads).

pub use super::attention_decode::{DECODE, KV_STORE, attention_decode, kv_store};
use super::attention_plan::{AttentionPlan, DeltaPlan, PassProblem};
pub use super::attention_shape::{AttentionShape, EMPTY_LSE, MAX_HEAD_DIM, Ranges};
use super::attention_shape::{OUT, Pass, Sizes, TileParams, output};
pub use super::attention_tiled::{BACKWARD_KV, BACKWARD_Q, FORWARD};
use super::elementwise::{add_into, round};
use super::output::To;
use super::streaming_plan::Rows;
use super::target::Target;
use super::tuned::Measured;
use super::{attention_coop, attention_plan, attention_simd, kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Cost, Device, Grid, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

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
pub struct DeltaParams {
    grid: Grid,
    tokens: u32,
    kv_rows: u32,
    heads: u32,
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

/// How [`DELTA`] reads and writes.
#[derive(Clone, Copy)]
struct DeltaForm {
    /// Threads share a row.
    shared: bool,
    out16: bool,
    round: bool,
    pairs: bool,
}

impl DeltaForm {
    fn spec(self, head_dim: usize) -> KernelSpec {
        let DeltaForm { shared, out16, round, pairs } = self;
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
            all.push(DeltaForm { shared: true, out16: a, round: b, pairs: false }.spec(head_dim));
        }
        for pairs in [false, true] {
            all.push(DeltaForm { shared: false, out16: false, round: false, pairs }.spec(head_dim));
        }
    }
    all
}

/// What queries, keys and values are best stored in: f16 where they are rounded to it anyway.
pub fn operands(device: &Device) -> Element {
    attention_plan::operands(&Target::of(device))
}

/// Queries, keys and values as the passes take them: on matrix units copies in f16 of those that are not.
fn as_operands(given: [&Tensor; 3]) -> Result<[Tensor; 3]> {
    let wanted = operands(given[0].device());
    let [q, k, v] = given.map(|t| match (wanted, t.element()) {
        (Element::F16, Element::F32) => round(t, To::Half("scratch")),
        _ => Ok(t.clone()),
    });
    Ok([q?, k?, v?])
}

/// The plan of a pass on this device, and how many keys (or tokens) one launch may go over.
fn choose(pass: Pass, device: &Device, sizes: &Sizes) -> (AttentionPlan, usize) {
    let target = Target::of(device);
    let plan = AttentionPlan::choose(&target, pass, sizes, Measured::on(device));
    plan_log::tell(&PassProblem(pass, sizes), &plan);
    (plan, plan.longest(&target, pass, sizes))
}

/// A pass of the backward, in as many launches as it takes; each adds its part of the sums.
fn run_backward(sizes: &Sizes, pass: Pass, device: &Device, inputs: &[&Tensor], outputs: &[&Tensor]) -> Result<()> {
    let columns = if pass == Pass::KeyValue { sizes.tokens } else { sizes.kv_rows };
    let (plan, longest) = choose(pass, device, sizes);
    for first in (0..columns.max(1)).step_by(longest) {
        let part = first..first.saturating_add(longest).min(columns);
        if first == 0 {
            run_pass(sizes, (pass, plan), device, &[inputs, outputs].concat(), part)?;
            continue;
        }
        let more: Vec<Tensor> =
            outputs.iter().map(|t| Tensor::empty(device, t.shape(), "scratch")).collect::<Result<_>>()?;
        run_pass(sizes, (pass, plan), device, &[inputs, &more.iter().collect::<Vec<_>>()].concat(), part)?;
        outputs.iter().zip(&more).try_for_each(|(sum, part)| add_into(sum, part, 1.0))?;
    }
    Ok(())
}

/// Launches a pass over blocks of its rows, which sees only `columns`: keys, or for [`Pass::KeyValue`] tokens.
fn run_pass(
    sizes: &Sizes,
    (pass, plan): (Pass, AttentionPlan),
    device: &Device,
    bindings: &[&Tensor],
    columns: Range<usize>,
) -> Result<()> {
    let s = &sizes.shape;
    let rows = if pass == Pass::KeyValue { sizes.kv_rows } else { sizes.tokens * sizes.group() };
    let slices: Vec<_> = bindings.iter().map(|t| t.slice()).collect();
    let spec = spec(&plan, pass, device, s, &slices);
    let blocks = rows.div_ceil(plan.rows());
    let params = TileParams::new(sizes, blocks, columns);
    let products = match pass {
        Pass::Forward => 2,
        Pass::Query => 3,
        Pass::KeyValue => 4,
    };
    let groups = (blocks * s.kv_heads) as u64;
    launch(device, &spec, &slices, &params, groups, sizes.cost(products, bindings))
}

/// The kernel that reads and writes `bindings`.
fn spec(plan: &AttentionPlan, pass: Pass, device: &Device, shape: &AttentionShape, bindings: &[Slice]) -> KernelSpec {
    let (head_dim, softcap) = (shape.head_dim, shape.softcap.is_some());
    match *plan {
        AttentionPlan::CoopMatrix(block) => {
            let out16 = pass == Pass::Forward && bindings[OUT].half;
            attention_coop::spec(block, pass, head_dim, softcap, out16)
        }
        AttentionPlan::Registers(block) => {
            let images = attention_simd::loads_images(device, pass, bindings);
            attention_simd::spec(block, pass, head_dim, softcap, images)
        }
        AttentionPlan::Tiled(tile) => tile.spec(pass, head_dim, softcap),
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
    let (plan, most) = choose(Pass::Forward, device, &sizes);
    if sizes.kv_rows > most {
        let reason = format!(
            "{} tokens at once are more than the {most} that a software renderer can do; lower ⟨batch_size⟩ or ⟨seq_len⟩, \
             or use a GPU",
            sizes.kv_rows
        );
        return Err(Error::invalid("attention", reason));
    }
    let [q, k, v] = &as_operands([q, k, v])?;
    run_pass(&sizes, (Pass::Forward, plan), device, &[q, k, v, keys.start, keys.end, &out, &lse], 0..sizes.kv_rows)?;
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
    let on_units = operands(device) == Element::F16;
    let stats = delta(&sizes, saved, d_out, keys, queries, on_units)?;
    let [q, k, v] = &as_operands([q, k, v])?;
    let inputs: &[&Tensor] = if on_units { &[q, k, v, &stats] } else { &[q, k, v, d_out, &stats] };
    run_backward(&sizes, Pass::Query, device, inputs, &[&gradients.dq])?;
    run_backward(&sizes, Pass::KeyValue, device, inputs, &[&gradients.dk, &gradients.dv])?;
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
    let plan = DeltaPlan::choose(&Target::of(device), out16 || round);
    plan_log::tell(&Rows("attention_delta", rows, sizes.shape.head_dim), &plan);
    let form = DeltaForm { shared: plan.shared, out16, round, pairs: plan.words.pairs };
    let (spec, groups) = (form.spec(sizes.shape.head_dim), rows.div_ceil(form.rows(sizes.shape.head_dim)));
    launch(device, &spec, &bindings.map(Tensor::slice), &params, groups as u64, cost)?;
    Ok(stats)
}
