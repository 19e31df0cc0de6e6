//! The gated MLP.

use super::Linear;
use crate::autograd::ops::{self, Activation};
use crate::autograd::{Tape, Var};
use crate::error::Result;

/// `down(act(gate(x)) · up(x))`
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
}

impl Mlp {
    /// X `[tokens, hidden]` to `[tokens, hidden]`.
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let (gate, up) = match &self.gate_up {
            GateUp::Apart(linears) => {
                let [gate_proj, up_proj] = &**linears;
                (gate_proj.forward(tape, x)?, up_proj.forward(tape, x)?)
            }
            GateUp::Fused(linear) => {
                let inner = self.down_proj.in_features();
                let both = linear.forward(tape, x)?;
                (ops::columns(tape, &both, 0, inner)?, ops::columns(tape, &both, inner, inner)?)
            }
        };
        tape.enter(|| self.down_proj.parent());
        let h = ops::gated(tape, &gate, &up, self.activation)?;
        self.down_proj.forward(tape, &h)
    }

    pub fn linears(&self) -> Vec<&Linear> {
        match &self.gate_up {
            GateUp::Apart(linears) => linears.iter().chain([&self.down_proj]).collect(),
            GateUp::Fused(linear) => vec![linear, &self.down_proj],
        }
    }
}
