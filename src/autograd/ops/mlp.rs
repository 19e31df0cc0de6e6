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

/// Gate and up `[tokens, intermediate]` to `[tokens, intermediate]`. A backward pass that reads the result makes it again.
pub fn gated(tape: &mut Tape, gate: &Var, up: &Var, activation: Activation, stored: Stored) -> Result<Var> {
    let h = elementwise::glu_forward(activation, &gate.value, &up.value, To::activation(stored.h))?;
    let needed = gate.is_tracked() || up.is_tracked();
    let (ids, kept) = ([gate.id(), up.id()], [gate.value.clone(), up.value.clone()]);
    let again = kept.clone();
    let h = tape.record(h, needed, move |grads, dh| {
        let ([gate, up], to) = (&kept, To::activation(stored.gradients));
        let (dgate, dup) = elementwise::glu_backward(activation, &dh, gate, up, to, to)?;
        grads.add(ids[0], dgate)?;
        grads.add(ids[1], dup)
    });
    Ok(h.remade_by(move || elementwise::glu_forward(activation, &again[0], &again[1], To::activation(stored.h))))
}

/// The same of gate and up side by side `[tokens, 2 · intermediate]`, as one product leaves them. Where the result and the
/// gradients are f16, so is what training keeps of them: both passes then compute with gate and up as f16 holds them.
pub fn gated_both(tape: &mut Tape, both: &Var, activation: Activation, stored: Stored) -> Result<Var> {
    let halves = stored.h == Element::F16 && stored.gradients == Element::F16;
    let (h, kept) = match halves && tape.is_training() {
        true => elementwise::glu_both_kept(activation, &both.value, [To::Half("activations"); 2])?,
        false => (elementwise::glu_both(activation, &both.value, To::activation(stored.h))?, both.value.clone()),
    };
    let (id, again) = (both.id(), kept.clone());
    let h = tape.record(h, both.is_tracked(), move |grads, dh| {
        let to = To::activation(stored.gradients);
        grads.add(id, elementwise::glu_both_backward(activation, &dh, &kept, to)?)
    });
    Ok(h.remade_by(move || elementwise::glu_both(activation, &again, To::activation(stored.h))))
}
