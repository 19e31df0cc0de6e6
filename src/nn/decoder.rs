//! The decoder: embedding, layers, final norm, head.

use super::elements::LayerElements;
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
        let mut stream = Stream::from(ops::embed(tape, &self.embedding, &input.tokens)?);
        let layers: Vec<_> = self.layers.iter().cloned().enumerate().collect();
        for group in layers.chunks(checkpointing.max(1)) {
            let (group, input) = (group.to_vec(), input.clone());
            let run = move |tape: &mut Tape, stream: Stream| {
                let mut layers = group.iter();
                layers.try_fold(stream, |stream, (i, layer)| layer.forward(tape, stream, *i, &input))
            };
            stream = if checkpointing > 0 {
                let x = stream.whole(tape)?;
                tape.checkpoint(&x, move |tape, x| run(tape, x.clone().into())?.whole(tape))?.into()
            } else {
                run(tape, stream)?
            };
        }
        tape.enter(|| "model.norm");
        stream.norm(tape, &self.norm, Element::F32)
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

/// The residual stream `[tokens, hidden]`. What a block adds to it waits for the norm behind, which takes both at once.
struct Stream {
    x: Var,
    /// With what its gradient is best made of.
    added: Option<(Var, Element)>,
}

impl From<Var> for Stream {
    fn from(x: Var) -> Self {
        Stream { x, added: None }
    }
}

impl Stream {
    /// Everything added up, and normalised: made of `y`.
    fn norm(&mut self, tape: &mut Tape, norm: &Norm, y: Element) -> Result<Var> {
        match self.added.take() {
            None => ops::rmsnorm(tape, &self.x, norm, y),
            Some((b, gradient)) => {
                let [x, y] = ops::add_rmsnorm(tape, [&self.x, &b], norm, y, gradient)?;
                self.x = x;
                Ok(y)
            }
        }
    }

    fn whole(self, tape: &mut Tape) -> Result<Var> {
        self.added.map_or(Ok(self.x.clone()), |(b, _)| ops::add(tape, &self.x, &b))
    }
}

impl Layer {
    fn forward(&self, tape: &mut Tape, mut stream: Stream, index: usize, input: &Input) -> Result<Stream> {
        let (tokens, _) = stream.x.value.dims2("layer")?;
        let enter = |tape: &mut Tape, norm: &Norm| {
            tape.enter(|| format!("model.layers.{index}.{}", self.name_of(norm)));
        };
        let elements = LayerElements::of(self, tape, tokens, &input.pass);
        // what a block adds, behind its norm if it has one
        let added = |tape: &mut Tape, h: Var, gradient: Element, norm: Option<&Norm>| -> Result<_> {
            Ok(Some(match norm {
                None => (h, gradient),
                Some(norm) => {
                    enter(tape, norm);
                    (ops::rmsnorm(tape, &h, norm, Element::F32)?, Element::F32)
                }
            }))
        };
        let (after_attention, after_mlp) = self.output_norms.as_ref().map(|(a, m)| (a, m)).unzip();

        enter(tape, &self.input_norm);
        let h = stream.norm(tape, &self.input_norm, elements.qkv)?;
        let h = self.attention.forward(tape, &h, index, &input.positions, &input.pass, elements)?;
        stream.added = added(tape, h, elements.o_proj, after_attention)?;

        enter(tape, &self.mlp_norm);
        let h = stream.norm(tape, &self.mlp_norm, elements.gate_up)?;
        let h = self.mlp.forward(tape, &h, elements)?;
        stream.added = added(tape, h, elements.down_proj, after_mlp)?;
        Ok(stream)
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
        if let Some(norms) = &self.attention.qk_norm {
            all.extend([("self_attn.q_norm", &norms.q), ("self_attn.k_norm", &norms.k)]);
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
        if let Some(norms) = &mut self.attention.qk_norm {
            all.extend([&mut norms.q, &mut norms.k]);
        }
        all
    }
}
