//! Phi-3 and 4: a Llama in which q, k and v are one linear, and gate and up another. Each of the two gets one adapter, as its one
//! name says. Phi-4-mini turns a part of each head, by frequencies for short texts and others for long ones.

use super::llama::{DEFAULTS, LLAMA, NO_BIAS};
use crate::io::config::family::{Defaults, Gguf, Mlp, MlpInputs, Qkv, Traits, Windowed};

pub const PHI3: Traits = Traits {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    gguf: Some(&Gguf {
        architectures: &["phi3"],
        modules: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
        permuted: false,
    }),
    qkv: Qkv::Fused("self_attn.qkv_proj"),
    mlp: Mlp { inputs: MlpInputs::Fused("mlp.gate_up_proj"), ..LLAMA.mlp },
    partial_rope: true,
    windowed: Windowed::Always,
    biases: NO_BIAS,
    defaults: Defaults { max_position_embeddings: 4096, eps: 1e-5, eos: &[32_000], pad: Some(32_000), ..DEFAULTS },
    ..LLAMA
};
