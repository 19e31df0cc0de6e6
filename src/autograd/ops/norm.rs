//! RMSNorm: `y = x / rms(x) · w`, or `· (1 + w)`.

use crate::autograd::{Param, Tape, Var};
use crate::error::Result;
use crate::kernels::norm::{rmsnorm_backward, rmsnorm_forward};

/// A norm's parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`
    pub weight: Param,
    pub eps: f32,
    /// Multiply by `1 + w`.
    pub unit_offset: bool,
}

/// X `[rows, n · width]` normalised over each `width`: the whole row, or each head of it.
pub fn rmsnorm(tape: &mut Tape, x: &Var, norm: &Norm) -> Result<Var> {
    let width = norm.weight.value.len();
    let flat = x.value.reshape(&[x.value.len() / width.max(1), width])?;
    let (y, rstd) = rmsnorm_forward(&flat, &norm.weight.value, norm.eps, norm.unit_offset)?;
    let shape = x.value.shape().to_vec();
    let y = y.reshape(&shape)?;
    let needed = x.is_tracked() || norm.weight.grad.is_some();
    let (x, norm) = (x.clone(), norm.clone());
    Ok(tape.record(y, needed, move |grads, dy| {
        let dy = dy.reshape(flat.shape())?;
        let w = &norm.weight;
        let backward = |dx: Option<&crate::tensor::Tensor>| {
            rmsnorm_backward(&dy, &flat, &w.value, &rstd, norm.unit_offset, dx, w.grad.as_ref())
        };
        if !x.is_tracked() {
            return backward(None).map(|_| ());
        }
        grads.accumulate(&x, |sum| {
            let sum = sum.map(|s| s.reshape(flat.shape())).transpose()?;
            backward(sum.as_ref())?.reshape(&shape)
        })
    }))
}
