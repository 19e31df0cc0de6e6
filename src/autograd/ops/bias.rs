//! Biases that train. What adds them is the linear; here is their gradient alone.

use crate::autograd::{Tape, Var};
use crate::kernels::reduce;
use crate::tensor::Tensor;

/// Y `[tokens, out]` as it is; on the way back `Σ dY` over the tokens is added to `grad [out]`.
pub fn bias_gradient(tape: &mut Tape, y: &Var, grad: &Tensor) -> Var {
    let (id, grad) = (y.id(), grad.clone());
    tape.record(y.value.clone(), true, move |grads, dy| {
        reduce::sum_rows(&dy, &grad)?;
        grads.add(id, dy)
    })
}
