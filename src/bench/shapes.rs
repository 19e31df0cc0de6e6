//! Models by name: their sizes, without their weights.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::config::families::{GLM4, LLAMA, OLMO2, QWEN3};
use crate::io::config::{Bias, Family, ModelConfig, Multipliers, RopeScaling};

/// The sizes of a public model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub name: &'static str,
    family: Family,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    positions: usize,
    rope_theta: f64,
    tied: bool,
}

/// All shapes. `tiny` is no public model: it is small enough for a software renderer.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "smollm2-135m",
        family: &LLAMA,
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49_152,
        positions: 8192,
        rope_theta: 1e5,
        tied: true,
    },
    Shape {
        name: "llama3.2-1b",
        family: &LLAMA,
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocab: 128_256,
        positions: 131_072,
        rope_theta: 5e5,
        tied: true,
    },
    Shape {
        name: "llama2-7b",
        family: &LLAMA,
        hidden: 4096,
        intermediate: 11_008,
        layers: 32,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        vocab: 32_000,
        positions: 4096,
        rope_theta: 1e4,
        tied: false,
    },
    Shape {
        name: "qwen3-0.6b",
        family: &QWEN3,
        hidden: 1024,
        intermediate: 3072,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        vocab: 151_936,
        positions: 40_960,
        rope_theta: 1e6,
        tied: true,
    },
    // norms behind attention and MLP alone, and of all heads as one row
    Shape {
        name: "olmo2-1b",
        family: &OLMO2,
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 16,
        kv_heads: 16,
        head_dim: 128,
        vocab: 100_352,
        positions: 4096,
        rope_theta: 5e5,
        tied: false,
    },
    // norms on both sides, half of each head turned in neighbours, gate and up as one linear of the file
    Shape {
        name: "glm4-9b",
        family: &GLM4,
        hidden: 4096,
        intermediate: 13_696,
        layers: 40,
        heads: 32,
        kv_heads: 2,
        head_dim: 128,
        vocab: 151_552,
        positions: 32_768,
        rope_theta: 1e4,
        tied: false,
    },
    Shape {
        name: "tiny",
        family: &LLAMA,
        hidden: 64,
        intermediate: 172,
        layers: 5,
        heads: 8,
        kv_heads: 4,
        head_dim: 8,
        vocab: 512,
        positions: 2048,
        rope_theta: 1e4,
        tied: true,
    },
];

impl Shape {
    /// With two layers, which ask for the kernels that many ask for.
    #[cfg(test)]
    pub fn shallow(self) -> Shape {
        Shape { layers: 2, ..self }
    }

    /// The shape of this name.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the names there are.
    pub fn named(name: &str) -> Result<&'static Shape> {
        SHAPES.iter().find(|s| s.name == name).ok_or_else(|| {
            let all: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
            Error::option("shape", format!("there is no \"{name}\"; there are {}", all.join(", ")))
        })
    }

    /// What a model of this shape would have in its `config.json`.
    pub fn config(&self) -> ModelConfig {
        ModelConfig {
            family: self.family,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab,
            max_position_embeddings: self.positions,
            rms_norm_eps: 1e-5,
            rope_theta: self.rope_theta,
            rope_scaling: RopeScaling::None,
            rotary_dim: (self.head_dim as f64 * self.family.defaults.partial_rotary_factor) as usize,
            rotated: vec![true; self.layers],
            query_growth: None,
            tie_word_embeddings: self.tied,
            attention_bias: match self.family.biases.qkv {
                Bias::Key(_, usual) => usual,
                bias => bias == Bias::Always,
            },
            output_bias: false,
            mlp_bias: false,
            multipliers: Multipliers::default(),
            hidden_act: self.family.mlp.activation.into(),
            sliding_window: None,
            windowed: vec![false; self.layers],
            rope_local_theta: None,
            query_pre_attn_scalar: None,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            short_convs: None,
            wrapped: false,
        }
    }

    /// `(name, out, in)` of a layer's linears.
    pub fn linears(&self) -> [(&'static str, usize, usize); 7] {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [
            ("q", q, self.hidden),
            ("k", kv, self.hidden),
            ("v", kv, self.hidden),
            ("o", self.hidden, q),
            ("gate", self.intermediate, self.hidden),
            ("up", self.intermediate, self.hidden),
            ("down", self.hidden, self.intermediate),
        ]
    }
}

/// The format of tensor `name` in a model whose linears are stored in `linears`: embedding and head of a 4-bit model have
/// 8 bits, as in most files.
pub fn format_of(linears: DType, name: &str) -> DType {
    let table = name.starts_with("model.embed_tokens") || name.starts_with("lm_head");
    if table && linears.bits() < 8.0 { DType::Q8_0 } else { linears }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_sizes_of_their_models() {
        let linears = |s: &Shape| s.layers * s.linears().iter().map(|(_, out, inn)| out * inn).sum::<usize>();
        let millions = |name: &str| {
            let s = Shape::named(name).unwrap();
            let tables = if s.tied { 1 } else { 2 } * s.vocab * s.hidden;
            (linears(s) + tables) / 1_000_000
        };
        // as published, but for the norms
        assert_eq!((millions("smollm2-135m"), millions("llama3.2-1b")), (134, 1235));
        assert_eq!((millions("llama2-7b"), millions("qwen3-0.6b")), (6738, 595));
        assert_eq!((millions("olmo2-1b"), millions("glm4-9b")), (1484, 9399));
    }

    #[test]
    fn an_unknown_name_is_answered_with_all_names() {
        let message = Shape::named("gpt-5").unwrap_err().to_string();
        assert!(SHAPES.iter().all(|s| message.contains(s.name)) && message.contains("gpt-5"), "{message}");
    }

    #[test]
    fn tables_of_4_bit_models_have_8() {
        assert_eq!(format_of(DType::Q4_1, "lm_head.weight"), DType::Q8_0);
        assert_eq!(format_of(DType::Q4_1, "model.layers.0.mlp.up_proj.weight"), DType::Q4_1);
        assert_eq!(format_of(DType::F16, "model.embed_tokens.weight"), DType::F16);
    }
}
