//! Qwen 2 has biases of q, k and v, Qwen 3 a norm of each head of q and k instead.

use super::llama::{ATTENTION_BIAS, DEFAULTS, LLAMA};
use crate::io::config::family::{Bias, Biases, Defaults, Gguf, NormOrder, QkNorm, Traits, Windowed};

pub const QWEN2: Traits = Traits {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    gguf: Some(&Gguf { architectures: &["qwen2"], modules: &[], permuted: false }),
    windowed: Windowed::FromLayer,
    biases: Biases { qkv: Bias::Always, output: Bias::Never, mlp: Bias::Never },
    defaults: Defaults {
        max_position_embeddings: 32_768,
        num_key_value_heads: Some(32),
        sliding_window: Some(4096),
        bos: None,
        eos: &[],
        ..DEFAULTS
    },
    ..LLAMA
};

/// The usual norms of heads.
pub(super) const HEAD_NORMS: QkNorm =
    QkNorm { q: "self_attn.q_norm", k: "self_attn.k_norm", order: NormOrder::HeadsFirst };

pub const QWEN3: Traits = Traits {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    gguf: Some(&Gguf { architectures: &["qwen3"], modules: &[], permuted: false }),
    qk_norm: Some(HEAD_NORMS),
    biases: ATTENTION_BIAS,
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    ..QWEN2
};
