//! AdamW (Loshchilov & Hutter 2019) over blocks, with torch's order of operations. The gradient's norm stays on the
//! device: it clips there, and a step whose loss or gradient is not finite changes nothing, as under torch's `GradScaler`: it
//! does not count in the bias corrections either. The run goes on behind it: the next step has the next rows, and the
//! learning rate of its own place in the schedule.

use super::{Block, Group, Rates};
use crate::error::Result;
use crate::kernels::optimizer::{self, Clip, StepCount, adamw_step, count_step};
use crate::kernels::reduce::sum_of_squares;
use crate::tensor::Tensor;

/// What stays the same over a run.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// 0: no clipping.
    pub max_grad_norm: f64,
    /// Adapters, and their moments, are rounded to bf16 after each step. The weights of a model that trains as a whole are not.
    pub bf16_adapters: bool,
}

impl Default for AdamW {
    /// PyTorch's betas and epsilon; no decay, no clipping.
    fn default() -> Self {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 0.0, bf16_adapters: false }
    }
}

impl AdamW {
    /// Writes the squared norm of the gradients of all blocks that train to `norm_sq` `[2]`, steps those blocks, and
    /// clears their gradients. These, and so the norm, are `loss_scale` times what they should be. Where the norm or the
    /// `loss` `[1]` is not finite, `norm_sq[1]` becomes 1 and the step is skipped: parameters, moments and counts keep their
    /// bits.
    pub fn step(&self, blocks: &[Block], rates: Rates, loss_scale: f32, loss: &Tensor, norm_sq: &Tensor) -> Result<()> {
        self.norm(blocks, rates, norm_sq)?;
        let mut counted: Vec<&StepCount> = Vec::new();
        for block in blocks {
            let Some(lr) = rates.get(block.group) else { continue };
            if !counted.iter().any(|count| count.is_same(&block.steps)) {
                count_step(&block.steps, loss, norm_sq, self.beta1, self.beta2)?;
                counted.push(&block.steps);
            }
            let step = optimizer::AdamW {
                lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: self.weight_decay,
                grad_scale: loss_scale.recip(),
                bf16: self.bf16_adapters && block.group != Group::Weights,
            };
            let max_norm = if self.max_grad_norm > 0.0 { self.max_grad_norm as f32 } else { f32::INFINITY };
            let clip = Some(Clip { norm: norm_sq, max_norm });
            adamw_step(&block.value, &block.grad, [&block.m, &block.v], &block.steps, &step, clip)?;
            block.grad.clear()?;
        }
        Ok(())
    }

    /// The first half of [`AdamW::step`]: the squared norm alone.
    pub fn norm(&self, blocks: &[Block], rates: Rates, norm_sq: &Tensor) -> Result<()> {
        norm_sq.clear()?;
        let grads: Vec<&Tensor> = blocks.iter().filter(|b| rates.has(b.group)).map(|b| &b.grad).collect();
        if grads.is_empty() { Ok(()) } else { sum_of_squares(&grads, norm_sq) }
    }
}
