//! A linear layer that adapters can be attached to.

use crate::autograd::ops::{self, Attachment};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::tensor::{Tensor, Weight};
use std::sync::{Arc, RwLock};

/// A linear layer under its Hugging Face name (`model.layers.0.self_attn.q_proj`).
pub struct Linear {
    name: String,
    inner: RwLock<Inner>,
}

#[derive(Clone)]
struct Inner {
    linear: ops::Linear,
    /// `[out]`, where the bias trains.
    bias_grad: Option<Tensor>,
}

impl Linear {
    pub fn new(name: impl Into<String>, weight: Weight, bias: Option<Tensor>) -> Self {
        let linear = ops::Linear { weight, weight_grad: None, bias, attached: Arc::default() };
        Linear { name: name.into(), inner: RwLock::new(Inner { linear, bias_grad: None }) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn out_features(&self) -> usize {
        self.read(|l| l.linear.weight.rows())
    }

    pub fn in_features(&self) -> usize {
        self.read(|l| l.linear.weight.cols())
    }

    /// W as it stands.
    pub fn weight(&self) -> Weight {
        self.read(|l| l.linear.weight.clone())
    }

    /// `[out]`
    pub fn bias(&self) -> Option<Tensor> {
        self.read(|l| l.linear.bias.clone())
    }

    /// What is attached.
    pub fn attached(&self) -> Arc<Attachment> {
        self.read(|l| l.linear.attached.clone())
    }

    /// Replaces what is attached. Passes that were recorded before keep what they saw.
    pub fn attach(&self, attachment: Attachment) {
        self.write(|l| l.linear.attached = Arc::new(attachment));
    }

    /// Makes W itself train: `weight` replaces it and its gradient is added to `grad`.
    pub fn train_weight(&self, weight: Weight, grad: Option<Tensor>) {
        self.write(|l| (l.linear.weight, l.linear.weight_grad) = (weight, grad));
    }

    /// Makes the bias train, where there is one: its gradient `[out]` is added to `grad`.
    pub fn train_bias(&self, grad: Tensor) {
        self.write(|l| l.bias_grad = Some(grad));
    }

    /// X `[tokens, in]` to Y `[tokens, out]`.
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        tape.enter(|| self.name.as_str());
        let Inner { linear, bias_grad } = self.read(Inner::clone);
        let y = ops::linear(tape, x, linear)?;
        Ok(match bias_grad {
            Some(grad) => ops::bias_gradient(tape, &y, &grad),
            None => y,
        })
    }

    fn read<T>(&self, f: impl FnOnce(&Inner) -> T) -> T {
        f(&self.inner.read().unwrap_or_else(|e| e.into_inner()))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.write().unwrap_or_else(|e| e.into_inner()))
    }
}
