//! Gemma 2 and Gemma 3: norms by 1 + w before and behind attention and MLP, GeGLU, a scaled embedding, layers with a sliding
//! window between such that see everything. Gemma 2 caps scores and logits; Gemma 3 has a norm of each head of q and k instead,
//! and another rotary base in layers with a window. Gemma 3 from 4B on is wrapped for images.

use super::llama::{ATTENTION_BIAS, DEFAULTS, LLAMA};
use super::qwen::HEAD_NORMS;
use crate::io::config::family::{Block, Defaults, Gguf, Keys, LocalRope, Mlp, NormKind, Traits, Windowed};

/// What Llama calls `post_attention_layernorm` is the norm before the MLP; here it is that of attention's output.
const MODULES: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

pub const GEMMA2: Traits = Traits {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    gguf: Some(&Gguf { architectures: &["gemma2"], modules: MODULES, permuted: false }),
    norm: NormKind::RmsUnitOffset,
    block: Block {
        attention: Some("input_layernorm"),
        attention_output: Some("post_attention_layernorm"),
        mlp: Some("pre_feedforward_layernorm"),
        mlp_output: Some("post_feedforward_layernorm"),
        parallel: false,
    },
    mlp: Mlp { activation: "gelu_pytorch_tanh", ..LLAMA.mlp },
    scales_embedding: true,
    windowed: Windowed::AllButEvery { n: 2, optional: false },
    biases: ATTENTION_BIAS,
    keys: Keys { activation: "hidden_activation", query_pre_attn_scalar: true, softcaps: true, ..LLAMA.keys },
    defaults: Defaults {
        max_position_embeddings: 8192,
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        tie_word_embeddings: true,
        sliding_window: Some(4096),
        softcaps: (Some(50.0), Some(30.0)),
        bos: Some(2),
        eos: &[1],
        pad: Some(0),
        ..DEFAULTS
    },
    ..LLAMA
};

pub const GEMMA3: Traits = Traits {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    gguf: Some(&Gguf { architectures: &["gemma3"], modules: MODULES, permuted: false }),
    qk_norm: Some(HEAD_NORMS),
    local_rope: LocalRope::OwnTheta,
    windowed: Windowed::AllButEvery { n: 6, optional: false },
    defaults: Defaults { max_position_embeddings: 131_072, rope_theta: 1e6, softcaps: (None, None), ..GEMMA2.defaults },
    ..GEMMA2
};
