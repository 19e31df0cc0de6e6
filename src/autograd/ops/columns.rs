//! Columns of a matrix: what a fused linear gives to each of those that it stands for.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::embedding::{self as kernel, columns_add};
use crate::tensor::Tensor;

/// X `[rows, ≥ first + cols]` to `X[:, first..first + cols]`.
pub fn columns(tape: &mut Tape, x: &Var, first: usize, cols: usize) -> Result<Var> {
    let y = kernel::columns(&x.value, first, cols, To::default())?;
    let x = x.clone();
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| {
        grads.accumulate(&x, |sum| {
            let dx = match sum {
                Some(sum) => sum.clone(),
                None => Tensor::zeros(dy.device(), x.value.shape(), "activations")?,
            };
            columns_add(&dx, first, &dy)?;
            Ok(dx)
        })
    }))
}
