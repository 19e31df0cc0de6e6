//! RMSNorm: `y = x / rms(x) · w`, or `· (1 + w)`; by itself, and behind a residual connection. LayerNorm is the same of rows without
//! their mean.

use super::{add, center};
use crate::autograd::{Param, Tape, Var};
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::elementwise::round;
use crate::kernels::heads::HeadNorm;
use crate::kernels::norm::{RmsNorm, add_rmsnorm_forward, rmsnorm_backward, rmsnorm_backward_round, rmsnorm_forward};
use crate::tensor::{Element, Tensor};

/// A norm's parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`
    pub weight: Param,
    pub eps: f32,
    /// Multiply by `1 + w`.
    pub unit_offset: bool,
    /// Take the mean of the row off before: LayerNorm.
    pub centred: bool,
}

/// The norms of each head of q and of k.
#[derive(Clone, Debug)]
pub struct HeadNorms {
    pub q: Norm,
    pub k: Norm,
    /// `[2, stride]`: the memory in which the weights of both lie, for a kernel that reads them as one operand.
    both: Tensor,
}

impl HeadNorms {
    /// Of norms with the same constants, whose weights move into one piece of memory.
    ///
    /// # Errors
    /// Those of an allocation and of a copy; [`Error::Shape`] where the constants are not the same, or means are taken off.
    pub fn new(mut q: Norm, mut k: Norm) -> Result<HeadNorms> {
        if q.centred || k.centred || q.eps != k.eps || q.unit_offset != k.unit_offset {
            return Err(Error::shape("head norms", "two that one kernel does not make"));
        }
        // each where a binding of f32 may start on any device
        let stride = q.weight.value.len().next_multiple_of(64);
        let both = Tensor::zeros(q.weight.value.device(), &[2, stride], "weights")?;
        for (i, norm) in [&mut q, &mut k].into_iter().enumerate() {
            let weight = both.view(i * stride, norm.weight.value.shape())?;
            both.device().copy(&norm.weight.value.slice(), &weight.slice())?;
            norm.weight.value = weight;
        }
        Ok(HeadNorms { q, k, both })
    }

    /// Whether gradients of the weights are wanted.
    pub fn train(&self) -> bool {
        self.q.weight.grad.is_some() || self.k.weight.grad.is_some()
    }

    pub(super) fn kernel(&self) -> HeadNorm<'_> {
        HeadNorm { norm: RmsNorm { eps: self.q.eps, unit_offset: self.q.unit_offset }, weights: &self.both }
    }
}

/// X `[rows, n · width]` normalised over each `width`: the whole row, or each head of it. `element`: what the result is made of. A backward
/// pass that reads the result makes it again from x.
pub fn rmsnorm(tape: &mut Tape, x: &Var, norm: &Norm, element: Element) -> Result<Var> {
    if norm.centred {
        let x = center(tape, x)?;
        return rmsnorm(tape, &x, &Norm { centred: false, ..norm.clone() }, element);
    }
    let width = norm.weight.value.len();
    let shape = x.value.shape().to_vec();
    let flat = x.value.reshape(&[x.value.len() / width.max(1), width])?;
    let kernel = RmsNorm { eps: norm.eps, unit_offset: norm.unit_offset };
    let (y, rstd) = rmsnorm_forward(&flat, &norm.weight.value, kernel, To::activation(element), To::default())?;
    let y = y.reshape(&shape)?;
    let needed = x.is_tracked() || norm.weight.grad.is_some();
    let again = again(&flat, norm, shape.clone(), element);
    let (id, is_tracked, w) = (x.id(), x.is_tracked(), norm.weight.clone());
    let y = tape.record(y, needed, move |grads, dy| {
        let dy = dy.reshape(flat.shape())?;
        let backward =
            |dx: To<'_>| rmsnorm_backward([&dy, &flat, &w.value, &rstd], kernel, dx, w.grad.as_ref())?.reshape(&shape);
        if !is_tracked {
            return backward(To::default()).map(|_| ());
        }
        grads.accumulate(id, |sum| match sum.map(|s| s.reshape(flat.shape())).transpose()? {
            None => backward(To::default()),
            Some(sum) => backward(To::AddTo(&sum)),
        })
    });
    Ok(y.remade_by(again))
}

/// Makes x `[rows, width]` normalised again, as a tensor of `shape`.
fn again(x: &Tensor, norm: &Norm, shape: Vec<usize>, element: Element) -> impl Fn() -> Result<Tensor> + 'static {
    let (x, w) = (x.clone(), norm.weight.value.clone());
    let kernel = RmsNorm { eps: norm.eps, unit_offset: norm.unit_offset };
    move || rmsnorm_forward(&x, &w, kernel, To::activation(element), To::default())?.0.reshape(&shape)
}

/// `[x, y]` of a and b `[rows, width]`: x = a + b, and y is x normalised. `element`: what y is made of; `db`: what the gradient of b
/// is best made of. x has one gradient, in which what comes for x itself and by way of y is added up once for a and b. A backward
/// pass that reads y makes it again from x.
pub fn add_rmsnorm(tape: &mut Tape, [a, b]: [&Var; 2], norm: &Norm, element: Element, db: Element) -> Result<[Var; 2]> {
    if norm.centred {
        let x = add(tape, a, b)?;
        let y = rmsnorm(tape, &x, norm, element)?;
        return Ok([x, y]);
    }
    let kernel = RmsNorm { eps: norm.eps, unit_offset: norm.unit_offset };
    let to = [To::default(), To::activation(element), To::default()];
    let [x, y, rstd] = add_rmsnorm_forward([&a.value, &b.value], &norm.weight.value, kernel, to)?;
    let needed = a.is_tracked() || b.is_tracked() || norm.weight.grad.is_some();
    let halves = db == Element::F16 && b.is_tracked();
    let again = again(&x, norm, y.shape().to_vec(), element);
    let (a, b, w, sum) = (a.id(), b.id(), norm.weight.clone(), x.clone());
    let [x, y] = tape.record_many([x, y], needed, move |grads, [dx, dy]| {
        let (dx, rounded) = match (dx, dy) {
            (None, None) => return Ok(()),
            (Some(dx), None) if halves => (dx.clone(), Some(round(&dx, To::Half("activations"))?)),
            (Some(dx), None) => (dx, None),
            (dx, Some(dy)) => {
                let dx = dx.map(Tensor::unshared).transpose()?;
                let to = dx.as_ref().map_or(To::default(), To::AddTo);
                let (operands, dw) = ([&dy, &sum, &w.value, &rstd], w.grad.as_ref());
                if halves {
                    let (dx, rounded) = rmsnorm_backward_round(operands, kernel, to, To::Half("activations"), dw)?;
                    (dx, Some(rounded))
                } else {
                    (rmsnorm_backward(operands, kernel, to, dw)?, None)
                }
            }
        };
        grads.add(b, rounded.unwrap_or_else(|| dx.clone()))?;
        grads.add(a, dx)
    });
    Ok([x, y.remade_by(again)])
}
