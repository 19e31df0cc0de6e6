//! The gated MLP's middle: `h = act(gate) · up`.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::elementwise;
pub use crate::kernels::elementwise::Activation;

/// Gate and up `[tokens, intermediate]` to `[tokens, intermediate]`.
pub fn gated(tape: &mut Tape, gate: &Var, up: &Var, activation: Activation) -> Result<Var> {
    let h = elementwise::gated_forward(&gate.value, &up.value, activation)?;
    let (gate, up) = (gate.clone(), up.clone());
    Ok(tape.record(h, gate.is_tracked() || up.is_tracked(), move |grads, dh| {
        let (dgate, dup) = elementwise::gated_backward(&dh, &gate.value, &up.value, activation)?;
        grads.add(&gate, dgate)?;
        grads.add(&up, dup)
    }))
}
