//! Trainable tensors.

use crate::tensor::Tensor;

/// A tensor that may train. Its gradient buffer, of the same shape, exists while it does.
#[derive(Clone, Debug)]
pub struct Param {
    pub value: Tensor,
    /// Backward passes add to it; whoever steps the optimiser clears it.
    pub grad: Option<Tensor>,
}

impl Param {
    /// A tensor that does not train.
    pub fn frozen(value: Tensor) -> Self {
        Param { value, grad: None }
    }
}
