//! The decoder: embedding, layers, final norm, head.

use super::{Attention, Linear, Pass};
use crate::autograd::ops::{self, Activation, EmbeddingTable, Head, Norm};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::io::config::ModelConfig;
use crate::kernels::rope::RopeTable;
use crate::tensor::Tensor;
use std::sync::Arc;

/// A causal language model on a device.
pub struct Decoder {
    pub config: ModelConfig,
    pub embedding: EmbeddingTable,
    pub layers: Vec<Arc<Layer>>,
    pub norm: Norm,
    pub head: Head,
    pub rope: RopeTable,
}

/// One block: attention and a gated MLP, each behind a norm and beside a residual connection.
pub struct Layer {
    pub input_norm: Norm,
    pub attention: Attention,
    pub post_attention_norm: Norm,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
    pub activation: Activation,
}

/// A batch on the device: tokens of several segments one behind the other, without padding. `[tokens]` u32 each.
#[derive(Clone)]
pub struct Input {
    pub tokens: Tensor,
    /// Place in the segment, from 0.
    pub positions: Tensor,
    pub pass: Pass,
}

impl Decoder {
    /// The hidden states `[tokens, hidden]` behind the final norm. `checkpointed`: keep only layers' inputs for the
    /// backward pass and compute the rest again.
    pub fn hidden(&self, tape: &mut Tape, input: &Input, checkpointed: bool) -> Result<Var> {
        let mut x = ops::embed(tape, &self.embedding, &input.tokens)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let (layer, rope, input) = (layer.clone(), self.rope.clone(), input.clone());
            let run = move |tape: &mut Tape, x: &Var| layer.forward(tape, x, i, &rope, &input);
            x = if checkpointed { tape.checkpoint(&x, run)? } else { run(tape, &x)? };
        }
        ops::rmsnorm(tape, &x, &self.norm)
    }

    /// Every linear of every layer, in the order of the forward pass: what adapters can be attached to.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| l.linears())
    }
}

impl Layer {
    fn forward(&self, tape: &mut Tape, x: &Var, index: usize, rope: &RopeTable, input: &Input) -> Result<Var> {
        let h = ops::rmsnorm(tape, x, &self.input_norm)?;
        let h = self.attention.forward(tape, &h, index, rope, &input.positions, &input.pass)?;
        let x = ops::add(tape, x, &h)?;
        let h = ops::rmsnorm(tape, &x, &self.post_attention_norm)?;
        let gate = self.gate_proj.forward(tape, &h)?;
        let up = self.up_proj.forward(tape, &h)?;
        let h = ops::gated(tape, &gate, &up, self.activation)?;
        let h = self.down_proj.forward(tape, &h)?;
        ops::add(tape, &x, &h)
    }

    fn linears(&self) -> [&Linear; 7] {
        let a = &self.attention;
        [&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj, &self.gate_proj, &self.up_proj, &self.down_proj]
    }
}
