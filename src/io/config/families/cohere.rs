//! Cohere 2 (Command R7B, A, Aya): attention and MLP read one LayerNorm and are added at once; heads turn in neighbouring pairs, and
//! only in layers with a sliding window; logits are multiplied by a constant.

use super::llama::{ATTENTION_BIAS, DEFAULTS, LLAMA};
use crate::io::config::family::{Block, Defaults, Gguf, Keys, MultiplierKeys, NormKind, Traits, Unrotated, Windowed};

pub const COHERE2: Traits = Traits {
    model_type: "cohere2",
    architecture: "Cohere2ForCausalLM",
    gguf: Some(&Gguf { architectures: &["cohere2"], modules: &[], permuted: false }),
    norm: NormKind::Layer,
    block: Block {
        attention: Some("input_layernorm"),
        attention_output: None,
        mlp: None,
        mlp_output: None,
        parallel: true,
    },
    interleaved_rope: true,
    unrotated: Unrotated::WithoutWindow { all_if_no_window: false },
    windowed: Windowed::AllButEvery { n: 4, optional: false },
    biases: ATTENTION_BIAS,
    keys: Keys { eps: "layer_norm_eps", multipliers: MultiplierKeys::Cohere, ..LLAMA.keys },
    defaults: Defaults {
        max_position_embeddings: 8192,
        eps: 1e-5,
        tie_word_embeddings: true,
        sliding_window: Some(4096),
        logit_scale: 0.0625,
        bos: Some(5),
        eos: &[255_001],
        pad: Some(0),
        ..DEFAULTS
    },
    ..LLAMA
};
