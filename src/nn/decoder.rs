//! The decoder: embedding, layers, final norm, head.

use super::{Attention, Linear, Mlp, Pass};
use crate::autograd::ops::{self, EmbeddingTable, Head, Norm};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::io::config::ModelConfig;
use crate::kernels::in_weight::write_all;
use crate::kernels::rope::RopeTable;
use crate::tensor::{Element, Tensor};
use std::sync::Arc;

/// A causal language model on a device.
pub struct Decoder {
    pub config: ModelConfig,
    pub embedding: EmbeddingTable,
    pub layers: Vec<Arc<Layer>>,
    pub norm: Norm,
    pub head: Head,
    /// Of layers without a window of their own.
    pub rope: RopeTable,
}

/// One block: attention and a gated MLP, each behind a norm and beside a residual connection.
pub struct Layer {
    pub input_norm: Norm,
    pub attention: Attention,
    pub mlp_norm: Norm,
    pub mlp: Mlp,
    /// Norms of what attention and MLP add to the residual stream, where the family has them.
    pub output_norms: Option<(Norm, Norm)>,
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
    /// The hidden states `[tokens, hidden]` behind the final norm. `checkpointing`: of so many layers each keep only the
    /// first one's input for the backward pass and compute the rest again; 0 keeps all.
    pub fn hidden(&self, tape: &mut Tape, input: &Input, checkpointing: usize) -> Result<Var> {
        tape.enter(|| "model.embed_tokens");
        let mut x = ops::embed(tape, &self.embedding, &input.tokens)?;
        let layers: Vec<_> = self.layers.iter().cloned().enumerate().collect();
        for group in layers.chunks(checkpointing.max(1)) {
            let (group, input) = (group.to_vec(), input.clone());
            let run = move |tape: &mut Tape, x: &Var| {
                let mut layers = group.iter();
                layers.try_fold(x.clone(), |x, (i, layer)| layer.forward(tape, &x, *i, &input))
            };
            x = if checkpointing > 0 { tape.checkpoint(&x, run)? } else { run(tape, &x)? };
        }
        tape.enter(|| "model.norm");
        ops::rmsnorm(tape, &x, &self.norm, Element::F32)
    }

    /// Brings weights that hold their sparse adapters up to date with the adapters' values; see [`Linear::attach`].
    ///
    /// # Errors
    /// Those of the device.
    pub fn write_sparse(&self) -> Result<()> {
        let attached: Vec<_> = self.linears().map(Linear::attached).collect();
        write_all(attached.iter().filter_map(|a| a.sparse.as_ref()?.in_weight.as_deref()))
    }

    /// Every linear of every layer, in the order of the forward pass: what adapters can be attached to.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| l.linears())
    }
}

impl Layer {
    fn forward(&self, tape: &mut Tape, x: &Var, index: usize, input: &Input) -> Result<Var> {
        let after = self.output_norms.as_ref();
        let (tokens, _) = x.value.dims2("layer")?;
        let norm = |tape: &mut Tape, x: &Var, norm: &Norm, y: Element| {
            tape.enter(|| format!("model.layers.{index}.{}", self.name_of(norm)));
            ops::rmsnorm(tape, x, norm, y)
        };
        // what a norm in front of linears makes, and one that the residual stream takes
        let (qkv, gate_up) = (self.attention.qkv.operands(tape, tokens), self.mlp.gate_up.operands(tape, tokens));
        let stream = Element::F32;
        let add = |tape: &mut Tape, a: &Var, b: &Var| {
            tape.enter(|| format!("model.layers.{index}"));
            ops::add(tape, a, b)
        };
        let h = norm(tape, x, &self.input_norm, qkv)?;
        let h = self.attention.forward(tape, &h, index, &input.positions, &input.pass)?;
        let h = after.map_or(Ok(h.clone()), |(n, _)| norm(tape, &h, n, stream))?;
        let x = add(tape, x, &h)?;
        let h = norm(tape, &x, &self.mlp_norm, gate_up)?;
        let h = self.mlp.forward(tape, &h)?;
        let h = after.map_or(Ok(h.clone()), |(_, n)| norm(tape, &h, n, stream))?;
        add(tape, &x, &h)
    }

    /// The name of one of the layer's norms.
    fn name_of(&self, norm: &Norm) -> &'static str {
        self.norms().into_iter().find(|(_, n)| std::ptr::eq(*n, norm)).map_or("norm", |(name, _)| name)
    }

    fn linears(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = self.attention.qkv.linears().iter().collect();
        all.push(&self.attention.o_proj);
        all.extend(self.mlp.linears());
        all
    }

    /// Every norm with its Hugging Face name inside of the layer.
    pub fn norms(&self) -> Vec<(&'static str, &Norm)> {
        let mut all = vec![("input_layernorm", &self.input_norm)];
        match &self.output_norms {
            None => all.push(("post_attention_layernorm", &self.mlp_norm)),
            Some((attention, mlp)) => all.extend([
                ("post_attention_layernorm", attention),
                ("pre_feedforward_layernorm", &self.mlp_norm),
                ("post_feedforward_layernorm", mlp),
            ]),
        }
        if let Some((q, k)) = &self.attention.qk_norm {
            all.extend([("self_attn.q_norm", q), ("self_attn.k_norm", k)]);
        }
        all
    }

    /// The same norms in the same order.
    pub fn norms_mut(&mut self) -> Vec<&mut Norm> {
        let mut all = vec![&mut self.input_norm];
        match &mut self.output_norms {
            None => all.push(&mut self.mlp_norm),
            Some((attention, mlp)) => all.extend([attention, &mut self.mlp_norm, mlp]),
        }
        if let Some((q, k)) = &mut self.attention.qk_norm {
            all.extend([q, k]);
        }
        all
    }
}
