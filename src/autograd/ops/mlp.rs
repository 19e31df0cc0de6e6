//! The gated MLP's middle: `h = act(gate) · up`.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::elementwise;
pub use crate::kernels::elementwise::Activation;
use crate::tensor::Element;

/// What the middle is made of: the result's elements, and those of the gradients of gate and up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored {
    pub h: Element,
    pub gradients: Element,
}

/// Gate and up `[tokens, intermediate]` to `[tokens, intermediate]`.
pub fn gated(tape: &mut Tape, gate: &Var, up: &Var, activation: Activation, stored: Stored) -> Result<Var> {
    let h = elementwise::glu_forward(activation, &gate.value, &up.value, To::activation(stored.h))?;
    let (gate, up) = (gate.clone(), up.clone());
    Ok(tape.record(h, gate.is_tracked() || up.is_tracked(), move |grads, dh| {
        let to = To::activation(stored.gradients);
        let (dgate, dup) = elementwise::glu_backward(activation, &dh, &gate.value, &up.value, to, to)?;
        grads.add(&gate, dgate)?;
        grads.add(&up, dup)
    }))
}

/// The same of gate and up side by side `[tokens, 2 · intermediate]`, as one product leaves them.
pub fn gated_both(tape: &mut Tape, both: &Var, activation: Activation, stored: Stored) -> Result<Var> {
    let h = elementwise::glu_both(activation, &both.value, To::activation(stored.h))?;
    let both = both.clone();
    Ok(tape.record(h, both.is_tracked(), move |grads, dh| {
        let to = To::activation(stored.gradients);
        grads.add(&both, elementwise::glu_both_backward(activation, &dh, &both.value, to)?)
    }))
}
