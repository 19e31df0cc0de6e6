//! AdamW on the device: `shaders/adamw.wgsl`, and the count of steps taken before it: `shaders/adamw_count.wgsl`.
//!
//! The host records a step before anybody knows whether its gradient is finite, so it cannot count the steps that are taken,
//! of which Adam's bias corrections are powers. The device counts them; the host reads the count only to save it.

use super::output::{distinct, groups, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Device, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// One step of AdamW.
    ADAMW, "adamw", "adamw.wgsl", AdamWParams,
    [read("grad"), read("norm"), read("count"), write("param"), write("m"), write("v")]
);
kernel!(
    /// Counts a step that is taken.
    COUNT, "adamw_count", "adamw_count.wgsl", CountParams, [read("loss"), write("norm"), write("count")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct AdamWParams {
    grid: Grid,
    n: u32,
    grad_scale: f32,
    max_norm: f32,
    decay: f32,
    lr: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct CountParams {
    grid: Grid,
    rate1: f32,
    rate2: f32,
}

/// The steps that some parameters have taken, and the bias corrections of the last.
#[derive(Clone)]
pub struct StepCount {
    /// u32 `[3]`: steps, the bits of 1 − β1ᵗ and of √(1 − β2ᵗ).
    words: Tensor,
}

impl StepCount {
    /// At zero.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn new(device: &Device) -> Result<StepCount> {
        Ok(StepCount { words: Tensor::zeros(device, &[3], "optimiser")? })
    }

    /// In words that are there, u32 `[3]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other shape.
    pub fn over(words: &Tensor) -> Result<StepCount> {
        Ok(StepCount { words: words.expect_shape("adamw_count", "count", &[3])?.clone() })
    }

    /// Sets it, in order with what is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] over 2³² − 1.
    pub fn set(&self, steps: u64) -> Result<()> {
        let steps = u32::try_from(steps).map_err(|_| Error::invalid("steps", format!("{steps} are over 2³² − 1")))?;
        self.words.write(&[steps, 0, 0])
    }

    /// Steps taken. Waits for the device.
    ///
    /// # Errors
    /// Those of a read-back.
    pub fn get(&self) -> Result<u64> {
        Ok(self.words.read::<u32>()?.first().copied().unwrap_or_default().into())
    }

    /// Whether `other` is the same count.
    pub fn is_same(&self, other: &StepCount) -> bool {
        self.words.slice().raw.id == other.words.slice().raw.id
    }
}

/// Counts a step in `count`, unless `loss [1]` or `norm [2]` (of all gradients) is not finite; then `norm` is flagged and nothing
/// else changes. Behind it [`adamw_step`] steps the parameters that share the count.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or buffers are shared.
pub fn count_step(count: &StepCount, loss: &Tensor, norm: &Tensor, beta1: f64, beta2: f64) -> Result<()> {
    let op = "adamw_count";
    let loss = loss.expect_shape(op, "loss", &[1])?;
    let norm = norm.expect_shape(op, "norm", &[2])?;
    distinct(op, &[loss], &[norm, &count.words])?;
    // β = 0 has an infinite rate; from 80 on nothing is left of βᵗ in f32
    let rate = |beta: f64| (-beta.ln()).min(80.0) as f32;
    let params = CountParams { rate1: rate(beta1), rate2: rate(beta2), ..Default::default() };
    let bindings = [loss.slice(), norm.slice(), count.words.slice()];
    launch(loss.device(), &count_spec(), &bindings, &params, 1, streaming(4, 1.0))
}

/// A step's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The rate of this step.
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: a parameter shrinks by `lr · weight_decay`.
    pub weight_decay: f64,
    /// Gradients are multiplied by it before anything else.
    pub grad_scale: f32,
    /// Parameters and moments are rounded to bf16 as they are stored, in memory of f32.
    pub bf16: bool,
}

/// Clipping by the global norm, and the guard against gradients that are not finite.
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// `[2]`, as [`sum_of_squares`](super::reduce::sum_of_squares) leaves it, of the gradients before `grad_scale`.
    pub norm: &'a Tensor,
    /// The largest norm after `grad_scale`; infinity clips nothing and keeps the guard.
    pub max_norm: f32,
}

/// Updates `param` and its moments `m` and `v` from `grad`, all of one shape; [`count_step`] has just counted the step in `count`.
/// With `clip`, the gradients are scaled by `min(1, max_norm / (norm + 1e-6))`, and nothing changes if the norm is not finite.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or buffers are shared.
pub fn adamw_step(
    param: &Tensor,
    grad: &Tensor,
    [m, v]: [&Tensor; 2],
    count: &StepCount,
    adamw: &AdamW,
    clip: Option<Clip<'_>>,
) -> Result<()> {
    let op = "adamw";
    for (name, t) in [("grad", grad), ("m", m), ("v", v)] {
        t.expect_shape(op, name, param.shape())?;
    }
    distinct(op, &[grad, &count.words], &[param, m, v])?;
    let mut params = AdamWParams {
        n: param.len() as u32,
        grad_scale: adamw.grad_scale,
        decay: (1.0 - adamw.lr * adamw.weight_decay) as f32,
        lr: adamw.lr as f32,
        one_minus_beta1: (1.0 - adamw.beta1) as f32,
        beta2: adamw.beta2 as f32,
        one_minus_beta2: (1.0 - adamw.beta2) as f32,
        eps: adamw.eps as f32,
        ..Default::default()
    };
    let mut norm = param.device().dummy()?;
    if let Some(clip) = clip {
        norm = clip.norm.expect_shape(op, "norm", &[2])?.slice();
        distinct(op, &[clip.norm], &[param, m, v])?;
        // over 1e-6 the quotient stays finite
        params.max_norm = clip.max_norm.min(1e30);
    }
    let vec = vec4(param.len());
    let bindings = [grad.slice(), norm, count.words.slice(), param.slice(), m.slice(), v.slice()];
    let cost = streaming(7 * param.len(), 2.0);
    launch(param.device(), &spec(clip.is_some(), vec, adamw.bf16), &bindings, &params, groups(param.len(), vec), cost)
}

fn spec(clip: bool, vec: bool, bf16: bool) -> KernelSpec {
    KernelSpec::new(&ADAMW, [("CLIP", clip.into()), ("VEC", vec.into()), ("BF16", bf16.into())])
}

fn count_spec() -> KernelSpec {
    KernelSpec::new(&COUNT, [])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let flags = [false, true];
    let steps = flags.iter().flat_map(|&bf16| flags.map(|vec| (bf16, vec)));
    steps.flat_map(|(bf16, vec)| flags.map(|clip| spec(clip, vec, bf16))).chain([count_spec()]).collect()
}
