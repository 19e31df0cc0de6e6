//! Cross-entropy over rows of logits, and greedy choice: `shaders/cross_entropy.wgsl`, `shaders/argmax.wgsl`.

use super::output::{To, distinct, streaming, vec4};
use super::streaming_plan::{Joined, LOGITS_WORKGROUPS, LogitsWorkgroup, Rows, Words};
use super::target::Target;
use super::{kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Losses of rows; logits are read only.
    CROSS_ENTROPY, "cross_entropy", "cross_entropy.wgsl", CrossEntropyParams,
    [read("logits"), read("targets"), write("nll")]
);
kernel!(
    /// Losses of rows; logits become their gradient.
    CROSS_ENTROPY_GRAD, "cross_entropy_grad", "cross_entropy.wgsl", CrossEntropyParams,
    [write("logits"), read("targets"), write("nll")]
);
kernel!(
    /// The column of each row's largest value.
    ARGMAX, "argmax", "argmax.wgsl", ArgmaxParams, [read("x"), write("best")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct CrossEntropyParams {
    grid: Grid,
    rows: u32,
    vocab: u32,
    stride: u32,
    grad_scale: f32,
    cap: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ArgmaxParams {
    grid: Grid,
    rows: u32,
    cols: u32,
    stride: u32,
}

/// A target that is not supervised: loss 0, gradient 0. Any number outside of the vocabulary does.
pub const UNSUPERVISED: u32 = u32::MAX;

/// What logits mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logits {
    /// Columns that are tokens; those behind are padding.
    pub vocab: usize,
    /// `z = cap·tanh(logit / cap)` (Gemma's final soft cap).
    pub softcap: Option<f32>,
}

impl Logits {
    /// `vocab` tokens without a soft cap.
    pub fn plain(vocab: usize) -> Self {
        Logits { vocab, softcap: None }
    }
}

/// Negative log-likelihoods `[n]` (nats) of targets u32 `[n]` under logits `[n, ≥ vocab]`; a token's log-probability
/// is its negative. A target outside of the vocabulary gives 0.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, meaning: Logits, nll: To<'_>) -> Result<Tensor> {
    run(logits, targets, meaning, None, nll)
}

/// The same, and the logits become `grad_scale · ∂(Σ nll)/∂logits`; padding columns become 0.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn cross_entropy_grad(
    logits: &Tensor,
    targets: &Tensor,
    meaning: Logits,
    grad_scale: f32,
    nll: To<'_>,
) -> Result<Tensor> {
    run(logits, targets, meaning, Some(grad_scale), nll)
}

fn run(logits: &Tensor, targets: &Tensor, meaning: Logits, grad: Option<f32>, nll: To<'_>) -> Result<Tensor> {
    let op = "cross_entropy";
    let (rows, stride) = logits.dims2(op)?;
    targets.expect_shape(op, "targets", &[rows])?;
    if meaning.vocab == 0 || meaning.vocab > stride {
        return Err(Error::shape(op, format!("{} tokens in logits {:?}", meaning.vocab, logits.shape())));
    }
    let device = logits.device();
    let nll = nll.overwritten(device, op, &[rows])?;
    distinct(op, &[targets, logits], &[&nll])?;
    distinct(op, &[targets], &[logits])?;
    let params = CrossEntropyParams {
        rows: rows as u32,
        vocab: meaning.vocab as u32,
        stride: stride as u32,
        grad_scale: grad.unwrap_or_default(),
        cap: meaning.softcap.unwrap_or_default(),
        ..Default::default()
    };
    let vec = vec4(meaning.vocab) && vec4(stride);
    let target = Target::of(device);
    let (workgroup, words) = (LogitsWorkgroup::choose(&target), Words::choose(&target, vec, false));
    plan_log::tell(&Rows(op, rows, meaning.vocab), &Joined(workgroup, words));
    let variant = Variant {
        grad: grad.is_some(),
        softcap: meaning.softcap.is_some(),
        vec,
        pairs: words.pairs,
        workgroup: workgroup.0,
    };
    let bindings = [logits.slice(), targets.slice(), nll.slice()];
    let passes = if grad.is_some() { 4 } else { 2 };
    launch(device, &variant.spec(), &bindings, &params, rows as u64, streaming(passes * logits.len(), 4.0))?;
    Ok(nll)
}

/// What [`argmax_rows`] gives for a row with a logit that is not finite.
pub const NO_TOKEN: u32 = u32::MAX;

/// The token u32 `[n]` with the largest of logits `[n, ≥ vocab]`; of equals the lowest; [`NO_TOKEN`] where one is not finite. A soft
/// cap changes nothing.
///
/// # Errors
/// [`Error::Shape`] if there is no token.
pub fn argmax_rows(logits: &Tensor, vocab: usize, best: To<'_>) -> Result<Tensor> {
    let (rows, stride) = logits.dims2("argmax")?;
    if vocab == 0 || vocab > stride {
        return Err(Error::shape("argmax", format!("{vocab} tokens in logits {:?}", logits.shape())));
    }
    let device = logits.device();
    let best = best.overwritten(device, "argmax", &[rows])?;
    distinct("argmax", &[logits], &[&best])?;
    let params = ArgmaxParams { rows: rows as u32, cols: vocab as u32, stride: stride as u32, ..Default::default() };
    let workgroup = LogitsWorkgroup::choose(&Target::of(device));
    plan_log::tell(&Rows("argmax", rows, vocab), &workgroup);
    let spec = argmax_spec(workgroup.0);
    launch(device, &spec, &[logits.slice(), best.slice()], &params, rows as u64, streaming(logits.len(), 2.0))?;
    Ok(best)
}

struct Variant {
    grad: bool,
    softcap: bool,
    vec: bool,
    pairs: bool,
    workgroup: u32,
}

impl Variant {
    fn spec(&self) -> KernelSpec {
        let kernel = if self.grad { &CROSS_ENTROPY_GRAD } else { &CROSS_ENTROPY };
        let consts = [
            ("GRAD", self.grad.into()),
            ("SOFTCAP", self.softcap.into()),
            ("VEC", self.vec.into()),
            ("PAIRS", self.pairs.into()),
            ("WG", self.workgroup),
        ];
        KernelSpec::new(kernel, consts)
    }
}

fn argmax_spec(workgroup: u32) -> KernelSpec {
    KernelSpec::new(&ARGMAX, [("WG", workgroup)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for workgroup in LOGITS_WORKGROUPS {
        all.push(argmax_spec(workgroup));
        for bits in 0..8u32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            let variant = Variant { grad: bit(0), softcap: bit(1), vec: bit(2), pairs: false, workgroup };
            all.push(variant.spec());
            if variant.vec && workgroup == LOGITS_WORKGROUPS[0] {
                all.push(Variant { pairs: true, ..variant }.spec());
            }
        }
    }
    all
}
