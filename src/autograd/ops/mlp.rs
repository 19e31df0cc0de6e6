//! The gated MLP's middle: `h = act(gate) · up`.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::elementwise;
pub use crate::kernels::elementwise::Activation;

/// Gate and up `[tokens, intermediate]` to `[tokens, intermediate]`.
pub fn gated(tape: &mut Tape, gate: &Var, up: &Var, activation: Activation) -> Result<Var> {
    let h = elementwise::glu_forward(activation, &gate.value, &up.value, To::default())?;
    let (gate, up) = (gate.clone(), up.clone());
    Ok(tape.record(h, gate.is_tracked() || up.is_tracked(), move |grads, dh| {
        let (dgate, dup) =
            elementwise::glu_backward(activation, &dh, &gate.value, &up.value, To::default(), To::default())?;
        grads.add(&gate, dgate)?;
        grads.add(&up, dup)
    }))
}

/// The same of gate and up side by side `[tokens, 2 · intermediate]`, as one product leaves them.
pub fn gated_both(tape: &mut Tape, both: &Var, activation: Activation) -> Result<Var> {
    let h = elementwise::glu_both(activation, &both.value, To::default())?;
    let both = both.clone();
    Ok(tape.record(h, both.is_tracked(), move |grads, dh| {
        grads.add(&both, elementwise::glu_both_backward(activation, &dh, &both.value, To::default())?)
    }))
}
