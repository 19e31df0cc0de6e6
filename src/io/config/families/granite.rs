//! Granite: a Llama whose embedding, residual connections, scores and logits are multiplied by constants. Granite 4 without experts
//! and without Mamba layers is the same with gate and up as one linear; its GGUF files say granite.

use super::llama::{ATTENTION_BIAS, LLAMA};
use crate::io::config::family::{Gguf, Keys, Mlp, MlpInputs, MultiplierKeys, Traits, Unrotated};

pub const GRANITE: Traits = Traits {
    model_type: "granite",
    architecture: "GraniteForCausalLM",
    gguf: Some(&Gguf { architectures: &["granite"], modules: &[], permuted: true }),
    keys: Keys { multipliers: MultiplierKeys::Granite, ..LLAMA.keys },
    ..LLAMA
};

pub const GRANITE4: Traits = Traits {
    model_type: "granitemoehybrid",
    architecture: "GraniteMoeHybridForCausalLM",
    gguf: None,
    mlp: Mlp {
        inputs: MlpInputs::Fused("shared_mlp.input_linear"),
        output: "shared_mlp.output_linear",
        activation: "silu",
    },
    unrotated: Unrotated::ByKey,
    biases: ATTENTION_BIAS,
    keys: Keys { intermediate: "shared_intermediate_size", ..GRANITE.keys },
    ..GRANITE
};
