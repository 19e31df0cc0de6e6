//! The MLP.

use super::Linear;
use super::elements::LayerElements;
use crate::autograd::ops::{self, Activation, Stored};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::tensor::Element;

/// `down(act(gate(x)) · up(x))`; without a gate, it is up.
pub struct Mlp {
    pub gate_up: GateUp,
    pub down_proj: Linear,
    pub activation: Activation,
}

/// What makes gate and up.
pub enum GateUp {
    /// `[gate_proj, up_proj]`
    Apart(Box<[Linear; 2]>),
    /// One linear, whose outputs are gate and up one behind the other.
    Fused(Box<Linear>),
    /// Up alone.
    Plain(Box<Linear>),
}

impl Mlp {
    /// X `[tokens, hidden]` to `[tokens, hidden]`.
    pub fn forward(&self, tape: &mut Tape, x: &Var, elements: LayerElements) -> Result<Var> {
        let stored = Stored { h: elements.down_proj, gradients: elements.gate_up };
        let h = match &self.gate_up {
            GateUp::Apart(linears) => {
                let [gate_proj, up_proj] = &**linears;
                let (gate, up) = (gate_proj.forward(tape, x)?, up_proj.forward(tape, x)?);
                tape.enter(|| self.down_proj.parent());
                ops::gated(tape, &gate, &up, self.activation, stored)?
            }
            GateUp::Fused(linear) => {
                let both = linear.forward(tape, x)?;
                tape.enter(|| self.down_proj.parent());
                ops::gated_both(tape, &both, self.activation, stored)?
            }
            GateUp::Plain(linear) => {
                let up = linear.forward(tape, x)?;
                tape.enter(|| self.down_proj.parent());
                // two gradients come together in it
                ops::gated(tape, &up, &up, self.activation, Stored { gradients: Element::F32, ..stored })?
            }
        };
        self.down_proj.forward(tape, &h)
    }

    pub fn linears(&self) -> Vec<&Linear> {
        self.gate_up.linears().iter().chain([&self.down_proj]).collect()
    }
}

impl GateUp {
    pub fn linears(&self) -> &[Linear] {
        match self {
            GateUp::Apart(linears) => &**linears,
            GateUp::Fused(linear) | GateUp::Plain(linear) => std::slice::from_ref(linear),
        }
    }
}
