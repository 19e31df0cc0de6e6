//! What a model looks like, from a Hugging Face `config.json` or from GGUF metadata.
mod family;
mod gguf;
mod hf;
mod rope;
mod to_gguf;
mod to_hf;

use crate::error::{Error, Result};
pub use family::Family;
use family::Windowed;
pub use rope::RopeScaling;
use std::path::Path;

/// The architectures that there is a decoder for.
pub const ARCHITECTURES: &[Family] =
    &[Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Gemma2, Family::Gemma3, Family::Phi3];

/// Upper bound of every width: with it, products of two sizes fit 64 bits with room to spare.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_POSITIONS: usize = 1 << 30;

/// The shape and the constants of a decoder. Sizes in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// A multiple of 8; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// The head is the embedding; then there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// Biases of q, k and v, and of attention's output where [`Family::has_output_bias`].
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub hidden_act: String,
    /// In layers that are `windowed`, attention sees this many tokens, the own one included; `None`: no layer is.
    pub sliding_window: Option<usize>,
    /// One for each layer.
    pub windowed: Vec<bool>,
    /// Rotary base of windowed layers, where it differs; their frequencies are not scaled.
    pub rope_local_theta: Option<f64>,
    /// Scores are q·k over the square root of this instead of `head_dim`.
    pub query_pre_attn_scalar: Option<f64>,
    /// Scores, and logits, are `cap · tanh(x / cap)`.
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text or a turn.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// Checks that sizes are sane and fit together. `path` is the file that messages name.
    fn validate(self, path: &Path) -> Result<Self> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_WIDTH),
            ("num_key_value_heads", self.num_key_value_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("num_attention_heads * head_dim", self.num_attention_heads.saturating_mul(self.head_dim), MAX_WIDTH),
            ("vocab_size", self.vocab_size, MAX_WIDTH),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return Err(Error::file(path, field, format!("{value} is not between 1 and {max}")));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let reason = format!(
                "{} does not divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            );
            return Err(Error::file(path, "num_key_value_heads", reason));
        }
        if !self.head_dim.is_multiple_of(8) {
            return Err(Error::file(
                path,
                "head_dim",
                format!("{} is no multiple of 8, which is needed", self.head_dim),
            ));
        }
        let (key, known) = (self.family.activation_key(), self.family.activation());
        if self.hidden_act != known {
            let reason =
                format!("\"{}\" is not supported for {}, only \"{known}\"", self.hidden_act, self.family.model_type());
            return Err(Error::file(path, key, reason));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(Error::file(path, "rms_norm_eps", format!("{} is not between 0 and 1", self.rms_norm_eps)));
        }
        for (key, theta) in [("rope_theta", Some(self.rope_theta)), ("rope_local_base_freq", self.rope_local_theta)] {
            if let Some(theta) = theta.filter(|t| !(*t > 1.0 && t.is_finite())) {
                return Err(Error::file(path, key, format!("{theta} is not above 1")));
            }
        }
        let positive = [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping.map(f64::from)),
            ("final_logit_softcapping", self.final_logit_softcapping.map(f64::from)),
        ];
        for (key, value) in positive {
            if let Some(value) = value.filter(|v| !(*v > 0.0 && v.is_finite())) {
                return Err(Error::file(path, key, format!("{value} is not above 0")));
            }
        }
        if let Some(scalar) = self.query_pre_attn_scalar.filter(|v| v.fract() != 0.0) {
            return Err(Error::file(path, "query_pre_attn_scalar", format!("{scalar} is no whole number")));
        }
        self.rope_scaling.validate(path)?;
        if self.sliding_window == Some(0) {
            return Err(Error::file(
                path,
                "sliding_window",
                "0 lets no token be seen; leave the key out for full attention",
            ));
        }
        if self.windowed.len() != self.num_hidden_layers {
            let reason =
                format!("lists {} layers, but num_hidden_layers is {}", self.windowed.len(), self.num_hidden_layers);
            return Err(Error::file(path, "layer_types", reason));
        }
        Ok(self)
    }

    /// How many tokens layer `index` sees, itself included; `None`: all before it.
    pub fn window(&self, index: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.windowed.get(index).is_some_and(|w| *w))
    }

    /// The factor of q·k.
    pub fn attention_scale(&self) -> f32 {
        self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64).sqrt().recip() as f32
    }
}

/// The family called `name`, given how names are looked up.
fn find_family(path: &Path, key: &str, name: &str, find: fn(&str) -> Option<Family>) -> Result<Family> {
    find(name).ok_or_else(|| {
        let known: Vec<_> = ARCHITECTURES.iter().map(|f| f.model_type()).collect();
        let reason = format!("the architecture \"{name}\" is not supported; supported: {}", known.join(", "));
        Error::file(path, key, reason)
    })
}

/// For each of `layers` whether it is windowed by `rule`. `from`: `max_window_layers`.
fn windowed(rule: Windowed, layers: usize, from: usize) -> Vec<bool> {
    // validation refuses more
    (0..layers.min(MAX_LAYERS)).map(|i| rule.layer(i, from)).collect()
}

#[cfg(test)]
mod tests;
