//! The decoder: embedding, layers, final norm, head.

use super::elements::LayerElements;
use super::{Attention, Linear, Mlp, Pass, Rope, ShortConv};
use crate::autograd::ops::{self, EmbeddingTable, Head, Norm};
use crate::autograd::{Param, Tape, Var};
use crate::device::Device;
use crate::error::Result;
use crate::io::config::{Family, ModelConfig};
use crate::kernels::in_weight::write_all;
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
    pub rope: Rope,
}

/// One block: attention, or a short convolution, and an MLP, each beside a residual connection.
pub struct Layer {
    pub family: Family,
    pub norms: BlockNorms,
    pub mixer: Mixer,
    pub mlp: Mlp,
}

/// What tells a token of those before it.
#[expect(clippy::large_enum_variant, reason = "a layer has one, in memory of its own, and is not moved")]
pub enum Mixer {
    Attention(Attention),
    ShortConv(ShortConv),
}

impl Mixer {
    /// The linears that read what the block reads.
    pub fn inputs(&self) -> &[Linear] {
        match self {
            Mixer::Attention(attention) => attention.qkv.linears(),
            Mixer::ShortConv(conv) => std::slice::from_ref(&conv.in_proj),
        }
    }

    /// The linear that makes what is added to the residual stream.
    pub fn output(&self) -> &Linear {
        match self {
            Mixer::Attention(attention) => &attention.o_proj,
            Mixer::ShortConv(conv) => &conv.out_proj,
        }
    }

    /// Memory for `rows` tokens of generation: keys and values, or what a short convolution has seen, which stands for both.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn cache(&self, device: &Device, rows: usize) -> Result<(Tensor, Tensor)> {
        let new = |width: usize| Tensor::empty(device, &[rows, width], "key-value cache");
        match self {
            Mixer::Attention(Attention { shape, .. }) => {
                let width = shape.kv_heads * shape.head_dim;
                Ok((new(width)?, new(width)?))
            }
            Mixer::ShortConv(conv) => new(conv.out_proj.in_features()).map(|seen| (seen.clone(), seen)),
        }
    }
}

/// The norms of a block, where the family has them; [`crate::io::config::Block`] has their names.
pub struct BlockNorms {
    pub attention: Option<Norm>,
    pub attention_output: Option<Norm>,
    pub mlp: Option<Norm>,
    pub mlp_output: Option<Norm>,
}

impl BlockNorms {
    fn all(&self) -> [Option<&Norm>; 4] {
        [&self.attention, &self.attention_output, &self.mlp, &self.mlp_output].map(Option::as_ref)
    }
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
        let root = self.config.root();
        tape.enter(|| format!("{root}.embed_tokens"));
        let mut stream = Stream::from(ops::embed(tape, &self.embedding, &input.tokens)?);
        let layers: Vec<_> = self.layers.iter().cloned().enumerate().collect();
        for group in layers.chunks(checkpointing.max(1)) {
            let (group, input) = (group.to_vec(), input.clone());
            let run = move |tape: &mut Tape, stream: Stream| {
                let mut layers = group.iter();
                layers.try_fold(stream, |stream, (i, layer)| layer.forward(tape, stream, (root, *i), &input))
            };
            stream = if checkpointing > 0 {
                let x = stream.whole(tape)?;
                tape.checkpoint(&x, move |tape, x| run(tape, x.clone().into())?.whole(tape))?.into()
            } else {
                run(tape, stream)?
            };
        }
        tape.enter(|| format!("{root}.{}", self.config.family.last_norm));
        let hidden = stream.norm(tape, &self.norm, Element::F32)?;
        // a factor of the logits is one of what the head reads
        let factor = self.config.multipliers.logits as f32;
        if factor == 1.0 { Ok(hidden) } else { ops::scale(tape, hidden, factor) }
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

    /// What a part of a block reads, made of `y`: everything added up, and normalised where there is a norm.
    fn read(&mut self, tape: &mut Tape, norm: Option<&Norm>, y: Element) -> Result<Var> {
        if let Some(norm) = norm {
            return self.norm(tape, norm, y);
        }
        if let Some((b, _)) = self.added.take() {
            self.x = ops::add(tape, &self.x, &b)?;
        }
        ops::made_of(tape, &self.x, y)
    }

    fn whole(mut self, tape: &mut Tape) -> Result<Var> {
        self.read(tape, None, Element::F32)
    }
}

impl Layer {
    /// `(root, index)`: what the names of its modules begin with, and its number.
    fn forward(
        &self,
        tape: &mut Tape,
        mut stream: Stream,
        (root, index): (&str, usize),
        input: &Input,
    ) -> Result<Stream> {
        let (names, norms) = (&self.family.block, &self.norms);
        let enter = |tape: &mut Tape, norm: Option<&str>| {
            if let Some(norm) = norm {
                tape.enter(|| format!("{root}.layers.{index}.{norm}"));
            }
        };
        let elements = LayerElements::of(self, tape, &stream.x.value, &input.pass)?;
        // what a part of the block adds, behind its norm if it has one
        let added =
            |tape: &mut Tape, h: Var, gradient: Element, norm: &Option<Norm>, name: Option<&str>| -> Result<_> {
                Ok(match norm {
                    None => (h, gradient),
                    Some(norm) => {
                        enter(tape, name);
                        (ops::rmsnorm(tape, &h, norm, Element::F32)?, Element::F32)
                    }
                })
            };

        enter(tape, names.attention);
        let read_by_both = names.parallel && elements.qkv != elements.gate_up;
        let operands = if read_by_both { Element::F32 } else { elements.qkv };
        let x = stream.read(tape, norms.attention.as_ref(), operands)?;
        let h = match &self.mixer {
            Mixer::Attention(a) => a.forward(tape, &x, index, &input.positions, &input.pass, elements)?,
            Mixer::ShortConv(c) => c.forward(tape, &x, index, &input.pass, elements)?,
        };
        let (h, gradient) = added(tape, h, elements.o_proj, &norms.attention_output, names.attention_output)?;
        if names.parallel {
            let m = self.mlp.forward(tape, &x, elements)?;
            stream.added = Some((ops::add(tape, &h, &m)?, Element::F32));
            return Ok(stream);
        }
        stream.added = Some((h, gradient));

        enter(tape, names.mlp);
        let x = stream.read(tape, norms.mlp.as_ref(), elements.gate_up)?;
        let h = self.mlp.forward(tape, &x, elements)?;
        stream.added = Some(added(tape, h, elements.down_proj, &norms.mlp_output, names.mlp_output)?);
        Ok(stream)
    }

    fn linears(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = self.mixer.inputs().iter().collect();
        all.push(self.mixer.output());
        all.extend(self.mlp.linears());
        all
    }

    /// Every norm with its Hugging Face name inside of the layer.
    pub fn norms(&self) -> Vec<(&'static str, &Norm)> {
        let own = self.family.block.names().into_iter().zip(self.norms.all());
        let mut all: Vec<_> = own.filter_map(|(name, norm)| Some((name?, norm?))).collect();
        if let (Some(names), Mixer::Attention(Attention { qk_norm: Some((norms, _)), .. })) =
            (self.family.qk_norm, &self.mixer)
        {
            all.extend([(names.q, &norms.q), (names.k, &norms.k)]);
        }
        all
    }

    /// The same norms in the same order.
    pub fn norms_mut(&mut self) -> Vec<&mut Norm> {
        let BlockNorms { attention, attention_output, mlp, mlp_output } = &mut self.norms;
        let mut all: Vec<&mut Norm> = [attention, attention_output, mlp, mlp_output].into_iter().flatten().collect();
        if let Mixer::Attention(Attention { qk_norm: Some((norms, _)), .. }) = &mut self.mixer {
            all.extend([&mut norms.q, &mut norms.k]);
        }
        all
    }

    /// The filters of the short convolution, if there is one, with their Hugging Face name inside of the layer.
    pub fn filters(&self) -> Option<(&'static str, &Param)> {
        match &self.mixer {
            Mixer::Attention(_) => None,
            Mixer::ShortConv(conv) => Some(("conv.conv", &conv.filters)),
        }
    }

    /// The same filters.
    pub fn filters_mut(&mut self) -> Option<&mut Param> {
        match &mut self.mixer {
            Mixer::Attention(_) => None,
            Mixer::ShortConv(conv) => Some(&mut conv.filters),
        }
    }
}
