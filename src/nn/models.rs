//! A decoder of any family, as the family's traits say it.

use super::decoder::BlockNorms;
use super::loader::Loader;
use super::{Attention, Decoder, GateUp, Layer, Linear, Mixer, Mlp, Qkv, Rope, ShortConv};
use crate::autograd::ops::{Activation, HeadNorms, Norm};
use crate::error::Result;
use crate::io::config::{self, MlpInputs, NormOrder};
use crate::kernels::attention::AttentionShape;
use crate::kernels::rope::RopeTable;
use std::sync::Arc;

/// Builds the decoder of the checkpoint's family.
pub(super) fn build(loader: &Loader<'_>) -> Result<Decoder> {
    let parts = Parts {
        loader,
        rope: loader.rope()?,
        local_rope: loader.local_rope()?,
        no_rope: loader.no_rope()?,
        query_growth: loader.query_growth()?,
    };
    parts.decoder()
}

/// What the layers share.
struct Parts<'a> {
    loader: &'a Loader<'a>,
    rope: Rope,
    /// Of layers with a sliding window, where it differs.
    local_rope: Option<Rope>,
    /// Of layers whose heads are not turned.
    no_rope: Option<Rope>,
    query_growth: Option<RopeTable>,
}

impl Parts<'_> {
    fn decoder(self) -> Result<Decoder> {
        let (l, config) = (self.loader, self.loader.config());
        let root = config.root();
        let embedding = l.embedding(&format!("{root}.embed_tokens"))?;
        let head = l.head("lm_head", &embedding)?;
        let layers = (0..config.num_hidden_layers).map(|i| self.layer(i).map(Arc::new)).collect::<Result<_>>()?;
        Ok(Decoder {
            config: config.clone(),
            layers,
            norm: l.stream_norm(&format!("{root}.{}", config.family.last_norm))?,
            rope: self.rope,
            embedding,
            head,
        })
    }

    fn layer(&self, i: usize) -> Result<Layer> {
        let family = self.loader.config().family;
        // those of the residual stream, and those of what is added to it
        let of_stream = |name: Option<&str>| name.map(|n| self.loader.stream_norm(&self.name(i, n))).transpose();
        let added = |name: Option<&str>| name.map(|n| self.norm(i, n)).transpose();
        Ok(Layer {
            family,
            norms: BlockNorms {
                attention: of_stream(family.block.attention)?,
                attention_output: added(family.block.attention_output)?,
                mlp: of_stream(family.block.mlp)?,
                mlp_output: added(family.block.mlp_output)?,
            },
            mixer: match self.loader.config().short_conv(i) {
                None => Mixer::Attention(self.attention(i)?),
                Some(_) => Mixer::ShortConv(self.short_conv(i)?),
            },
            mlp: self.mlp(i)?,
        })
    }

    /// The module `name` of layer `i`.
    fn name(&self, i: usize, name: &str) -> String {
        format!("{}.layers.{i}.{name}", self.loader.config().root())
    }

    fn norm(&self, i: usize, name: &str) -> Result<Norm> {
        self.loader.norm(&self.name(i, name))
    }

    fn linear(&self, i: usize, name: &str) -> Result<Linear> {
        self.loader.linear(&self.name(i, name))
    }

    fn stacked<const N: usize>(&self, i: usize, names: [&str; N]) -> Result<Option<Linear>> {
        self.loader.stacked(&names.map(|name| self.name(i, name)))
    }

    /// Attention of layer `i`.
    fn attention(&self, i: usize) -> Result<Attention> {
        let c = self.loader.config();
        let window = c.window(i);
        let qk_norm = match c.family.qk_norm {
            Some(n) => Some((HeadNorms::new(self.norm(i, n.q)?, self.norm(i, n.k)?)?, n.order)),
            None => None,
        };
        let shape = AttentionShape {
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale(),
            softcap: c.attn_logit_softcapping,
            span: window,
        };
        let local = self.local_rope.as_ref().filter(|_| window.is_some());
        let rope = if c.rotated[i] { local } else { self.no_rope.as_ref() };
        Ok(Attention {
            qkv: self.qkv(i)?,
            o_proj: self.linear(i, c.family.attention_output)?,
            qk_norm,
            shape,
            rope: rope.unwrap_or(&self.rope).clone(),
            query_growth: self.query_growth.clone(),
            windowed: window.is_some(),
        })
    }

    /// The short convolution of layer `i`.
    fn short_conv(&self, i: usize) -> Result<ShortConv> {
        Ok(ShortConv {
            in_proj: self.linear(i, "conv.in_proj")?,
            filters: self.loader.filters(&self.name(i, "conv.conv"))?,
            out_proj: self.linear(i, "conv.out_proj")?,
        })
    }

    /// q, k and v of layer `i`: one linear, or each its own.
    fn qkv(&self, i: usize) -> Result<Qkv> {
        let family = self.loader.config().family;
        if let config::Qkv::Fused(name) = family.qkv {
            return Ok(Qkv::Fused(Box::new(self.linear(i, name)?)));
        }
        // what norms all heads as one row reads them each for itself
        let apart = family.qk_norm.is_some_and(|n| n.order == NormOrder::RowsFirst);
        let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        if !apart && let Some(all) = self.stacked(i, names)? {
            return Ok(Qkv::Fused(Box::new(all)));
        }
        let [q, k, v] = names;
        Ok(Qkv::Apart(Box::new([self.linear(i, q)?, self.linear(i, k)?, self.linear(i, v)?])))
    }

    /// The MLP of layer `i`, with gate and up as one linear or each its own.
    fn mlp(&self, i: usize) -> Result<Mlp> {
        let names = &self.loader.config().family.mlp;
        let gate_up = match names.inputs {
            MlpInputs::Fused(name) => GateUp::Fused(Box::new(self.linear(i, name)?)),
            MlpInputs::Plain(name) => GateUp::Plain(Box::new(self.linear(i, name)?)),
            MlpInputs::Apart([gate, up]) => match self.stacked(i, [gate, up])? {
                Some(both) => GateUp::Fused(Box::new(both)),
                None => GateUp::Apart(Box::new([self.linear(i, gate)?, self.linear(i, up)?])),
            },
        };
        let activation = match names.activation {
            "relu2" => Activation::Relu,
            "gelu_pytorch_tanh" => Activation::GeluTanh,
            _ => Activation::Silu,
        };
        Ok(Mlp { gate_up, down_proj: self.linear(i, names.output)?, activation })
    }
}
