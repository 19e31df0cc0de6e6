//! Llama: RMSNorm, rotary positions, grouped queries, SwiGLU; tied or untied head.

use crate::autograd::ops::Activation;
use crate::error::Result;
use crate::kernels::attention::AttentionShape;
use crate::nn::loader::Loader;
use crate::nn::{Attention, Decoder, Layer};
use std::sync::Arc;

pub fn build(l: &Loader<'_>) -> Result<Decoder> {
    let c = l.config();
    let shape = AttentionShape {
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim,
        scale: (c.head_dim as f32).sqrt().recip(),
        softcap: None,
        span: None,
    };
    let layer = |i: usize| -> Result<Arc<Layer>> {
        let at = format!("model.layers.{i}");
        Ok(Arc::new(Layer {
            input_norm: l.norm(&format!("{at}.input_layernorm"))?,
            attention: Attention {
                q_proj: l.linear(&format!("{at}.self_attn.q_proj"))?,
                k_proj: l.linear(&format!("{at}.self_attn.k_proj"))?,
                v_proj: l.linear(&format!("{at}.self_attn.v_proj"))?,
                o_proj: l.linear(&format!("{at}.self_attn.o_proj"))?,
                qk_norm: None,
                shape,
            },
            post_attention_norm: l.norm(&format!("{at}.post_attention_layernorm"))?,
            gate_proj: l.linear(&format!("{at}.mlp.gate_proj"))?,
            up_proj: l.linear(&format!("{at}.mlp.up_proj"))?,
            down_proj: l.linear(&format!("{at}.mlp.down_proj"))?,
            activation: Activation::Silu,
        }))
    };
    let embedding = l.embedding("model.embed_tokens")?;
    let head = l.head("lm_head", &embedding)?;
    Ok(Decoder {
        config: c.clone(),
        layers: (0..c.num_hidden_layers).map(layer).collect::<Result<_>>()?,
        norm: l.norm("model.norm")?,
        rope: l.rope()?,
        embedding,
        head,
    })
}
