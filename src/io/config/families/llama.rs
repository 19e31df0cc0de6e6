//! Llama (RMSNorm before attention and MLP, rotary positions, grouped queries, SwiGLU), and families that differ from it in little.

use crate::io::config::family::{
    Bias, Biases, Block, Defaults, Gguf, Keys, LocalRope, Mlp, MlpInputs, MultiplierKeys, NormKind, NormOrder, QkNorm,
    Qkv, Traits, Unrotated, Windowed,
};

pub(super) const DEFAULTS: Defaults = Defaults {
    max_position_embeddings: 2048,
    num_key_value_heads: None,
    head_dim: None,
    eps: 1e-6,
    rope_theta: 10_000.0,
    rope_local_theta: 10_000.0,
    partial_rotary_factor: 1.0,
    tie_word_embeddings: false,
    sliding_window: None,
    softcaps: (None, None),
    logit_scale: 1.0,
    bos: Some(1),
    eos: &[2],
    pad: None,
};

pub const LLAMA: Traits = Traits {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    gguf: Some(&Gguf { architectures: &["llama"], modules: &[], permuted: true }),
    norm: NormKind::Rms,
    block: Block {
        attention: Some("input_layernorm"),
        attention_output: None,
        mlp: Some("post_attention_layernorm"),
        mlp_output: None,
        parallel: false,
    },
    last_norm: "norm",
    qk_norm: None,
    qkv: Qkv::Apart,
    attention_output: "self_attn.o_proj",
    mlp: Mlp {
        inputs: MlpInputs::Apart(["mlp.gate_proj", "mlp.up_proj"]),
        output: "mlp.down_proj",
        activation: "silu",
    },
    short_conv: false,
    scales_embedding: false,
    interleaved_rope: false,
    partial_rope: false,
    local_rope: LocalRope::Same,
    unrotated: Unrotated::None,
    windowed: Windowed::Never,
    biases: Biases {
        qkv: Bias::Key("attention_bias", false),
        output: Bias::Key("attention_bias", false),
        mlp: Bias::Key("mlp_bias", false),
    },
    keys: Keys {
        activation: "hidden_act",
        eps: "rms_norm_eps",
        intermediate: "intermediate_size",
        multipliers: MultiplierKeys::None,
        query_pre_attn_scalar: false,
        softcaps: false,
    },
    defaults: DEFAULTS,
};

/// Without any bias.
pub(super) const NO_BIAS: Biases = Biases { qkv: Bias::Never, output: Bias::Never, mlp: Bias::Never };
/// Of attention alone.
pub(super) const ATTENTION_BIAS: Biases = Biases { mlp: Bias::Never, ..LLAMA.biases };

/// A sliding window in all layers. Its GGUF files say llama.
pub const MISTRAL: Traits = Traits {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    gguf: None,
    windowed: Windowed::Always,
    biases: NO_BIAS,
    defaults: Defaults {
        max_position_embeddings: 131_072,
        num_key_value_heads: Some(8),
        sliding_window: Some(4096),
        ..DEFAULTS
    },
    ..LLAMA
};

/// Queries grow with their position, beyond the length of pretraining.
pub const MINISTRAL3: Traits = Traits {
    model_type: "ministral3",
    architecture: "Ministral3ForCausalLM",
    gguf: Some(&Gguf { architectures: &["mistral3"], modules: &[], permuted: true }),
    defaults: Defaults {
        max_position_embeddings: 262_144,
        head_dim: Some(128),
        eps: 1e-5,
        rope_theta: 1e6,
        sliding_window: None,
        pad: Some(11),
        ..MISTRAL.defaults
    },
    ..MISTRAL
};

/// Layers whose heads are not turned.
pub const SMOLLM3: Traits = Traits {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    gguf: Some(&Gguf { architectures: &["smollm3"], modules: &[], permuted: true }),
    unrotated: Unrotated::Listed,
    windowed: Windowed::Unrotated,
    defaults: Defaults {
        max_position_embeddings: 32_768,
        num_key_value_heads: Some(4),
        rope_theta: 2e6,
        tie_word_embeddings: true,
        bos: Some(128_000),
        eos: &[128_001],
        pad: Some(128_004),
        ..DEFAULTS
    },
    ..LLAMA
};

/// Biases of q, k and v, and by a key of its own of attention's output.
pub const SEED_OSS: Traits = Traits {
    model_type: "seed_oss",
    architecture: "SeedOssForCausalLM",
    gguf: Some(&Gguf {
        architectures: &["seed_oss"],
        modules: &[("post_attention_norm", "post_attention_layernorm")],
        permuted: false,
    }),
    biases: Biases {
        qkv: Bias::Key("attention_bias", true),
        output: Bias::Key("attention_out_bias", false),
        mlp: Bias::Key("mlp_bias", false),
    },
    defaults: Defaults {
        max_position_embeddings: 524_288,
        num_key_value_heads: Some(8),
        head_dim: Some(128),
        bos: Some(0),
        pad: Some(1),
        ..DEFAULTS
    },
    ..LLAMA
};

/// Heads of q and k are normed after they are turned.
pub const HUNYUAN: Traits = Traits {
    model_type: "hunyuan_v1_dense",
    architecture: "HunYuanDenseV1ForCausalLM",
    gguf: Some(&Gguf {
        architectures: &["hunyuan-dense"],
        modules: &[("attn_q_norm", "self_attn.query_layernorm"), ("attn_k_norm", "self_attn.key_layernorm")],
        permuted: false,
    }),
    qk_norm: Some(QkNorm { q: "self_attn.query_layernorm", k: "self_attn.key_layernorm", order: NormOrder::HeadsLast }),
    biases: ATTENTION_BIAS,
    defaults: Defaults { eps: 1e-5, pad: Some(0), ..DEFAULTS },
    ..LLAMA
};

/// The square of the positive part, without a gate.
pub const ARCEE: Traits = Traits {
    model_type: "arcee",
    architecture: "ArceeForCausalLM",
    gguf: Some(&Gguf { architectures: &["arcee"], modules: &[], permuted: true }),
    mlp: Mlp { inputs: MlpInputs::Plain("mlp.up_proj"), activation: "relu2", ..LLAMA.mlp },
    defaults: Defaults { max_position_embeddings: 4096, eps: 1e-5, bos: Some(128_000), eos: &[128_001], ..DEFAULTS },
    ..LLAMA
};
