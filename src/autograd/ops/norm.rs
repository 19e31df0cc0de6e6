//! RMSNorm: `y = x / rms(x) · w`, or `· (1 + w)`.

use crate::autograd::{Param, Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::norm::{RmsNorm, rmsnorm_backward, rmsnorm_forward};
use crate::tensor::Element;

/// A norm's parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`
    pub weight: Param,
    pub eps: f32,
    /// Multiply by `1 + w`.
    pub unit_offset: bool,
}

/// X `[rows, n · width]` normalised over each `width`: the whole row, or each head of it. `y`: the result's elements.
pub fn rmsnorm(tape: &mut Tape, x: &Var, norm: &Norm, y: Element) -> Result<Var> {
    let width = norm.weight.value.len();
    let shape = x.value.shape().to_vec();
    let flat = x.value.reshape(&[x.value.len() / width.max(1), width])?;
    let kernel = RmsNorm { eps: norm.eps, unit_offset: norm.unit_offset };
    let (y, rstd) = rmsnorm_forward(&flat, &norm.weight.value, kernel, To::activation(y), To::default())?;
    let y = y.reshape(&shape)?;
    let needed = x.is_tracked() || norm.weight.grad.is_some();
    let (x, w) = (x.clone(), norm.weight.clone());
    Ok(tape.record(y, needed, move |grads, dy| {
        let dy = dy.reshape(flat.shape())?;
        let backward =
            |dx: To<'_>| rmsnorm_backward(&dy, &flat, &w.value, &rstd, kernel, dx, w.grad.as_ref())?.reshape(&shape);
        if !x.is_tracked() {
            return backward(To::default()).map(|_| ());
        }
        grads.accumulate(&x, |sum| match sum.map(|s| s.reshape(flat.shape())).transpose()? {
            None => backward(To::default()),
            Some(sum) => backward(To::AddTo(&sum)),
        })
    }))
}
