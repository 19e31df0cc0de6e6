//! Families of models: what a decoder of each is made of.

mod gemma;
mod llama;
mod phi3;

use super::loader::Loader;
use super::{Attention, Decoder, GateUp, Layer, Linear, Mlp, Qkv};
use crate::autograd::ops::{Activation, HeadNorms, Norm};
use crate::error::Result;
use crate::io::config::Family;
use crate::kernels::attention::AttentionShape;
use crate::kernels::rope::RopeTable;
use std::sync::Arc;

/// Builds the decoder of the checkpoint's family.
pub(super) fn build(loader: &Loader<'_>) -> Result<Decoder> {
    let layer = match loader.config().family {
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama::layer,
        Family::Gemma2 | Family::Gemma3 => gemma::layer,
        Family::Phi3 => phi3::layer,
    };
    Parts::new(loader)?.decoder(layer)
}

/// What the layers of all families share.
struct Parts<'a> {
    loader: &'a Loader<'a>,
    rope: RopeTable,
    /// Of layers with a sliding window, where it differs.
    local_rope: Option<RopeTable>,
}

impl<'a> Parts<'a> {
    fn new(loader: &'a Loader<'a>) -> Result<Self> {
        Ok(Parts { loader, rope: loader.rope()?, local_rope: loader.local_rope()? })
    }

    /// The norm `name` of layer `i`.
    fn norm(&self, i: usize, name: &str) -> Result<Norm> {
        self.loader.norm(&format!("model.layers.{i}.{name}"))
    }

    /// Attention of layer `i`: what the configuration says of it, around what makes q, k and v.
    fn attention(&self, i: usize, qkv: Qkv) -> Result<Attention> {
        let c = self.loader.config();
        let window = c.window(i);
        let qk_norm = match c.family.has_qk_norm() {
            true => Some(HeadNorms::new(self.norm(i, "self_attn.q_norm")?, self.norm(i, "self_attn.k_norm")?)?),
            false => None,
        };
        let shape = AttentionShape {
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale(),
            softcap: c.attn_logit_softcapping,
            span: window,
        };
        Ok(Attention {
            qkv,
            o_proj: self.linear(i, "self_attn.o_proj")?,
            qk_norm,
            shape,
            rope: self.local_rope.as_ref().filter(|_| window.is_some()).unwrap_or(&self.rope).clone(),
            windowed: window.is_some(),
        })
    }

    /// q, k and v of layer `i`: one linear, or each its own.
    fn qkv(&self, i: usize) -> Result<Qkv> {
        if let Some(all) = self.stacked(i, ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])? {
            return Ok(Qkv::Fused(Box::new(all)));
        }
        let linear = |name: &str| self.linear(i, &format!("self_attn.{name}"));
        Ok(Qkv::Apart(Box::new([linear("q_proj")?, linear("k_proj")?, linear("v_proj")?])))
    }

    /// The MLP of layer `i`, with gate and up as one linear or each its own.
    fn mlp(&self, i: usize, activation: Activation) -> Result<Mlp> {
        let linear = |name: &str| self.linear(i, &format!("mlp.{name}"));
        let gate_up = match self.stacked(i, ["mlp.gate_proj", "mlp.up_proj"])? {
            Some(both) => GateUp::Fused(Box::new(both)),
            None => GateUp::Apart(Box::new([linear("gate_proj")?, linear("up_proj")?])),
        };
        Ok(Mlp { gate_up, down_proj: linear("down_proj")?, activation })
    }

    fn stacked<const N: usize>(&self, i: usize, names: [&str; N]) -> Result<Option<Linear>> {
        self.loader.stacked(&names.map(|name| format!("model.layers.{i}.{name}")))
    }

    fn linear(&self, i: usize, name: &str) -> Result<Linear> {
        self.loader.linear(&format!("model.layers.{i}.{name}"))
    }

    /// The decoder around layers made by `layer`.
    fn decoder(&self, layer: impl Fn(&Parts<'_>, usize) -> Result<Layer>) -> Result<Decoder> {
        let (l, config) = (self.loader, self.loader.config());
        let embedding = l.embedding("model.embed_tokens")?;
        let head = l.head("lm_head", &embedding)?;
        let layers = (0..config.num_hidden_layers).map(|i| layer(self, i).map(Arc::new)).collect::<Result<_>>()?;
        Ok(Decoder {
            config: config.clone(),
            layers,
            norm: l.norm("model.norm")?,
            rope: self.rope.clone(),
            embedding,
            head,
        })
    }
}
