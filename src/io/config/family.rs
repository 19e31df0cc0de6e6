//! What tells the families apart, apart from the sizes and constants of their configurations.

use super::ARCHITECTURES;

/// A family of models, by Hugging Face's `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
}

/// Which layers see no further back than the sliding window, where a configuration does not list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windowed {
    Never,
    Always,
    /// From the layer `max_window_layers` on, and only with `use_sliding_window`.
    FromLayer,
    /// All but each n-th.
    AllButEvery(usize),
}

impl Family {
    pub(super) fn of_hf(model_type: &str) -> Option<Family> {
        ARCHITECTURES.iter().copied().find(|f| f.model_type() == model_type)
    }

    /// By GGUF's `general.architecture`; Mistral's files say llama.
    pub(super) fn of_gguf(architecture: &str) -> Option<Family> {
        match architecture {
            "gemma3" => Some(Family::Gemma3),
            "mistral" | "gemma3_text" => None,
            other => Family::of_hf(other),
        }
    }

    /// GGUF's name of the family.
    pub fn gguf_architecture(self) -> &'static str {
        match self {
            Family::Mistral => "llama",
            Family::Gemma3 => "gemma3",
            other => other.model_type(),
        }
    }

    /// Hugging Face's name of the family.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3_text",
            Family::Phi3 => "phi3",
        }
    }

    /// Hugging Face's name of the class with a head.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Gemma2 => "Gemma2ForCausalLM",
            Family::Gemma3 => "Gemma3ForCausalLM",
            Family::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// Gemma's ways: norms multiply by 1 + w, embeddings are scaled by √hidden, and norms stand behind attention and MLP
    /// too, not only before them.
    pub fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }

    /// Whether each head of q and k has a norm.
    pub fn has_qk_norm(self) -> bool {
        matches!(self, Family::Qwen3 | Family::Gemma3)
    }

    /// Whether q, k and v are one linear, and gate and up another.
    pub fn is_fused(self) -> bool {
        self == Family::Phi3
    }

    /// The only function on the gate that the family's models use.
    pub(super) fn activation(self) -> &'static str {
        if self.is_gemma() { "gelu_pytorch_tanh" } else { "silu" }
    }

    /// The key that names it.
    pub(super) fn activation_key(self) -> &'static str {
        if self.is_gemma() { "hidden_activation" } else { "hidden_act" }
    }

    /// Whether q, k and v have biases: always, never, or as `attention_bias` says.
    pub(super) fn qkv_bias(self) -> Option<bool> {
        match self {
            Family::Qwen2 => Some(true),
            Family::Mistral | Family::Phi3 => Some(false),
            _ => None,
        }
    }

    /// Whether the output of attention has a bias where q, k and v have.
    pub fn has_output_bias(self) -> bool {
        self != Family::Qwen2
    }

    pub(super) fn windowed(self) -> Windowed {
        match self {
            Family::Llama => Windowed::Never,
            Family::Mistral | Family::Phi3 => Windowed::Always,
            Family::Qwen2 | Family::Qwen3 => Windowed::FromLayer,
            Family::Gemma2 => Windowed::AllButEvery(2),
            Family::Gemma3 => Windowed::AllButEvery(6),
        }
    }

    /// What is so where a configuration has no such key: the values of transformers' own configuration classes, of which a
    /// file need only say what differs.
    pub(super) fn defaults(self) -> Defaults {
        let llama = Defaults {
            max_position_embeddings: 2048,
            num_key_value_heads: None,
            head_dim: None,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_local_theta: None,
            tie_word_embeddings: false,
            sliding_window: None,
            softcaps: (None, None),
            bos: Some(1),
            eos: Some(2),
            pad: None,
        };
        let qwen = Defaults {
            max_position_embeddings: 32_768,
            num_key_value_heads: Some(32),
            sliding_window: Some(4096),
            bos: None,
            eos: None,
            ..llama
        };
        let gemma = Defaults {
            max_position_embeddings: 8192,
            num_key_value_heads: Some(4),
            head_dim: Some(256),
            tie_word_embeddings: true,
            sliding_window: Some(4096),
            bos: Some(2),
            eos: Some(1),
            pad: Some(0),
            ..llama
        };
        match self {
            Family::Llama => llama,
            Family::Mistral => Defaults {
                max_position_embeddings: 131_072,
                num_key_value_heads: Some(8),
                sliding_window: Some(4096),
                ..llama
            },
            Family::Qwen2 => qwen,
            Family::Qwen3 => Defaults { head_dim: Some(128), ..qwen },
            Family::Gemma2 => Defaults { softcaps: (Some(50.0), Some(30.0)), ..gemma },
            Family::Gemma3 => Defaults {
                max_position_embeddings: 131_072,
                rope_theta: 1e6,
                rope_local_theta: Some(10_000.0),
                ..gemma
            },
            Family::Phi3 => Defaults {
                max_position_embeddings: 4096,
                rms_norm_eps: 1e-5,
                eos: Some(32_000),
                pad: Some(32_000),
                ..llama
            },
        }
    }
}

/// Values of absent keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Defaults {
    pub max_position_embeddings: usize,
    /// `None`: as many as heads, which a null means everywhere.
    pub num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Of layers with a sliding window, where they have one of their own.
    pub rope_local_theta: Option<f64>,
    pub tie_word_embeddings: bool,
    pub sliding_window: Option<usize>,
    /// The caps of attention scores and of logits.
    pub softcaps: (Option<f64>, Option<f64>),
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

impl Windowed {
    /// Whether layer `index` has the window. `from`: `max_window_layers`.
    pub(super) fn layer(self, index: usize, from: usize) -> bool {
        match self {
            Windowed::Never => false,
            Windowed::Always => true,
            Windowed::FromLayer => index >= from,
            Windowed::AllButEvery(n) => !(index + 1).is_multiple_of(n),
        }
    }
}
