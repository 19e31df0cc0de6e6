//! Phi-3: a Llama in which q, k and v are one linear, and gate and up another. Each of the two gets one adapter, as its
//! one name says.

use super::Parts;
use crate::autograd::ops::Activation;
use crate::error::Result;
use crate::nn::{GateUp, Layer, Mlp, Qkv};

pub(super) fn layer(parts: &Parts<'_>, i: usize) -> Result<Layer> {
    Ok(Layer {
        input_norm: parts.norm(i, "input_layernorm")?,
        attention: parts.attention(i, Qkv::Fused(Box::new(parts.linear(i, "self_attn.qkv_proj")?)))?,
        mlp_norm: parts.norm(i, "post_attention_layernorm")?,
        mlp: Mlp {
            gate_up: GateUp::Fused(Box::new(parts.linear(i, "mlp.gate_up_proj")?)),
            down_proj: parts.linear(i, "mlp.down_proj")?,
            activation: Activation::Silu,
        },
        output_norms: None,
    })
}
