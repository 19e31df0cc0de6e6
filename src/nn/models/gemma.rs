//! Gemma 2 and Gemma 3 (`gemma3_text`): norms by 1 + w before and behind attention and MLP, GeGLU, a scaled embedding,
//! layers with a sliding window between such that see everything. Gemma 2 caps scores and logits; Gemma 3 has a norm of
//! each head of q and k instead, and another rotary base in layers with a window.

use super::Parts;
use crate::autograd::ops::Activation;
use crate::error::Result;
use crate::nn::Layer;

pub(super) fn layer(parts: &Parts<'_>, i: usize) -> Result<Layer> {
    Ok(Layer {
        input_norm: parts.norm(i, "input_layernorm")?,
        attention: parts.attention(i, parts.qkv(i)?)?,
        // what Llama calls by this name is the norm before the MLP
        output_norms: Some((parts.norm(i, "post_attention_layernorm")?, parts.norm(i, "post_feedforward_layernorm")?)),
        mlp_norm: parts.norm(i, "pre_feedforward_layernorm")?,
        mlp: parts.mlp(i, Activation::GeluTanh)?,
    })
}
