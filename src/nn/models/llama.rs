//! Llama: RMSNorm, rotary positions, grouped queries, SwiGLU.
//!
//! Those of its kind differ in what checkpoint and configuration say alone: Mistral has a sliding window, Qwen 2 biases of
//! q, k and v, Qwen 3 a norm of each head of q and k.

use super::Parts;
use crate::autograd::ops::Activation;
use crate::error::Result;
use crate::nn::Layer;

pub(super) fn layer(parts: &Parts<'_>, i: usize) -> Result<Layer> {
    Ok(Layer {
        input_norm: parts.norm(i, "input_layernorm")?,
        attention: parts.attention(i, parts.qkv(i)?)?,
        mlp_norm: parts.norm(i, "post_attention_layernorm")?,
        mlp: parts.mlp(i, Activation::Silu)?,
        output_norms: None,
    })
}
