//! AdamW on the device: `shaders/adamw.wgsl`.

use super::output::{distinct, groups, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// One step of AdamW.
    ADAMW, "adamw", "adamw.wgsl", AdamWParams,
    [read("grad"), read("norm"), write("param"), write("m"), write("v")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct AdamWParams {
    grid: Grid,
    n: u32,
    grad_scale: f32,
    max_norm: f32,
    decay: f32,
    step_size: f32,
    root_correction: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
}

/// A step's numbers. Bias corrections follow from `step` in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The rate of this step.
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: a parameter shrinks by `lr · weight_decay`.
    pub weight_decay: f64,
    /// Of this tensor, counted from 1.
    pub step: u64,
    /// Gradients are multiplied by it before anything else.
    pub grad_scale: f32,
}

/// Clipping by the global norm, and the guard against gradients that are not finite.
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// `[2]`, as [`sum_of_squares`](super::reduce::sum_of_squares) leaves it, of the gradients before `grad_scale`.
    pub norm: &'a Tensor,
    /// The largest norm after `grad_scale`; infinity clips nothing and keeps the guard.
    pub max_norm: f32,
}

/// Updates `param` and its moments `m` and `v` from `grad`, all of one shape. With `clip`, the gradients are scaled by
/// `min(1, max_norm / (norm + 1e-6))`, and nothing changes if the norm is not finite.
///
/// # Errors
/// [`Error::Shape`] if shapes differ or buffers are shared; [`Error::Invalid`] for step 0, where no correction exists.
pub fn adamw_step(
    param: &Tensor,
    grad: &Tensor,
    m: &Tensor,
    v: &Tensor,
    adamw: &AdamW,
    clip: Option<Clip<'_>>,
) -> Result<()> {
    let op = "adamw";
    for (name, t) in [("grad", grad), ("m", m), ("v", v)] {
        t.expect_shape(op, name, param.shape())?;
    }
    distinct(op, &[grad], &[param, m, v])?;
    if adamw.step == 0 {
        return Err(Error::invalid("adamw", "steps count from 1: the bias correction of step 0 is a division by zero"));
    }
    let correction = |beta: f64| 1.0 - beta.powf(adamw.step as f64);
    let mut params = AdamWParams {
        n: param.len() as u32,
        grad_scale: adamw.grad_scale,
        decay: (1.0 - adamw.lr * adamw.weight_decay) as f32,
        step_size: (adamw.lr / correction(adamw.beta1)) as f32,
        root_correction: correction(adamw.beta2).sqrt() as f32,
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
    let bindings = [grad.slice(), norm, param.slice(), m.slice(), v.slice()];
    let cost = streaming(7 * param.len(), 2.0);
    launch(param.device(), &spec(clip.is_some(), vec), &bindings, &params, groups(param.len(), vec), cost)
}

fn spec(clip: bool, vec: bool) -> KernelSpec {
    KernelSpec::new(&ADAMW, [("CLIP", clip.into()), ("VEC", vec.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    [(false, false), (false, true), (true, false), (true, true)].map(|(clip, vec)| spec(clip, vec)).into()
}
