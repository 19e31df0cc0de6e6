//! GLM-4 (0414): norms before and behind attention and MLP, half of each head turned in neighbouring pairs, biases of q, k and v,
//! gate and up as one linear.

use super::llama::{DEFAULTS, LLAMA};
use crate::io::config::family::{Bias, Biases, Block, Defaults, Gguf, Mlp, MlpInputs, Traits};

pub const GLM4: Traits = Traits {
    model_type: "glm4",
    architecture: "Glm4ForCausalLM",
    gguf: Some(&Gguf {
        architectures: &["glm4"],
        modules: &[
            ("post_attention_norm", "post_self_attn_layernorm"),
            ("post_ffw_norm", "post_mlp_layernorm"),
            ("ffn_up", "mlp.gate_up_proj"),
        ],
        permuted: false,
    }),
    block: Block {
        attention: Some("input_layernorm"),
        attention_output: Some("post_self_attn_layernorm"),
        mlp: Some("post_attention_layernorm"),
        mlp_output: Some("post_mlp_layernorm"),
        parallel: false,
    },
    mlp: Mlp { inputs: MlpInputs::Fused("mlp.gate_up_proj"), ..LLAMA.mlp },
    interleaved_rope: true,
    partial_rope: true,
    biases: Biases { qkv: Bias::Key("attention_bias", true), output: Bias::Never, mlp: Bias::Never },
    defaults: Defaults {
        max_position_embeddings: 131_072,
        num_key_value_heads: Some(2),
        head_dim: Some(128),
        eps: 1.5625e-7,
        partial_rotary_factor: 0.5,
        bos: None,
        eos: &[151_329, 151_336, 151_338],
        pad: Some(151_329),
        ..DEFAULTS
    },
    ..LLAMA
};
