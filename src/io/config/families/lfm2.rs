//! LFM2: most layers have a short convolution in the place of attention.

use super::llama::{DEFAULTS, LLAMA, NO_BIAS};
use crate::io::config::family::{Block, Defaults, Keys, Mlp, MlpInputs, NormOrder, QkNorm, Traits};

pub const LFM2: Traits = Traits {
    model_type: "lfm2",
    architecture: "Lfm2ForCausalLM",
    gguf: None,
    block: Block { attention: Some("operator_norm"), mlp: Some("ffn_norm"), ..LLAMA.block },
    last_norm: "embedding_norm",
    qk_norm: Some(QkNorm { q: "self_attn.q_layernorm", k: "self_attn.k_layernorm", order: NormOrder::HeadsFirst }),
    attention_output: "self_attn.out_proj",
    mlp: Mlp {
        inputs: MlpInputs::Apart(["feed_forward.w1", "feed_forward.w3"]),
        output: "feed_forward.w2",
        activation: "silu",
    },
    short_conv: true,
    biases: NO_BIAS,
    keys: Keys { eps: "norm_eps", ..LLAMA.keys },
    defaults: Defaults {
        max_position_embeddings: 128_000,
        num_key_value_heads: Some(8),
        eps: 1e-5,
        rope_theta: 1e6,
        tie_word_embeddings: true,
        pad: Some(0),
        ..DEFAULTS
    },
    ..LLAMA
};
