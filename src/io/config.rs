//! What a model looks like, from a Hugging Face `config.json` or from GGUF metadata.
pub mod families;
mod family;
mod gguf;
mod gguf_rope;
mod hf;
mod hf_conv;
mod hf_rope;
mod rope;
mod to_gguf;
mod to_hf;
mod unknown;

use crate::error::{Error, Result};
use family::Windowed;
pub use family::{
    Bias, Biases, Block, Family, Gguf, LocalRope, MlpInputs, NormKind, NormOrder, QkNorm, Qkv, Traits, Unrotated,
};
pub use rope::{RopeScaling, Yarn};
use std::path::Path;

/// Upper bound of every width: with it, products of two sizes fit 64 bits with room to spare.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_POSITIONS: usize = 1 << 30;
const MAX_TAPS: usize = 64;

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
    /// How many elements of a head turn, from its first on: an even number.
    pub rotary_dim: usize,
    /// Whether heads of a layer turn by their positions, one for each layer.
    pub rotated: Vec<bool>,
    /// How queries grow with their position, in families that have it.
    pub query_growth: Option<QueryGrowth>,
    /// The head is the embedding; then there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// Biases of q, k and v.
    pub attention_bias: bool,
    /// A bias of attention's output.
    pub output_bias: bool,
    pub mlp_bias: bool,
    pub multipliers: Multipliers,
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
    /// Layers with a short convolution in the place of attention, in families that have them.
    pub short_convs: Option<ShortConvs>,
    /// The model is the language part of one that sees or hears, whose modules have longer names.
    pub wrapped: bool,
}

/// Layers with a short convolution in the place of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConvs {
    /// Tokens that a convolution sees, the own one included.
    pub taps: usize,
    /// Whether a layer has one, for each.
    pub layers: Vec<bool>,
}

/// Factors of what is 1 in most families.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of embeddings.
    pub embedding: f64,
    /// Of what attention and MLP add to the residual stream.
    pub residual: f64,
    /// Of q·k, instead of one over a square root.
    pub attention: Option<f64>,
    pub logits: f64,
}

impl Default for Multipliers {
    fn default() -> Self {
        Multipliers { embedding: 1.0, residual: 1.0, attention: None, logits: 1.0 }
    }
}

/// Queries at position p are multiplied by `1 + beta · ln(1 + ⌊p / original⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryGrowth {
    pub beta: f64,
    pub original: usize,
}

impl QueryGrowth {
    /// The factor at `position`.
    pub fn at(&self, position: usize) -> f64 {
        1.0 + self.beta * (1.0 + (position / self.original.max(1)) as f64).ln()
    }
}

impl ModelConfig {
    /// What the names of the language model's modules begin with, its head's aside.
    pub fn root(&self) -> &'static str {
        if self.wrapped { "model.language_model" } else { "model" }
    }

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
        let (key, known) = (self.family.keys.activation, self.family.mlp.activation);
        if self.hidden_act != known {
            let reason =
                format!("\"{}\" is not supported for {}, only \"{known}\"", self.hidden_act, self.family.model_type);
            return Err(Error::file(path, key, reason));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            let reason = format!("{} is not between 0 and 1", self.rms_norm_eps);
            return Err(Error::file(path, self.family.keys.eps, reason));
        }
        for (key, theta) in [("rope_theta", Some(self.rope_theta)), ("rope_local_base_freq", self.rope_local_theta)] {
            if let Some(theta) = theta.filter(|t| !(*t > 1.0 && t.is_finite())) {
                return Err(Error::file(path, key, format!("{theta} is not above 1")));
            }
        }
        self.validate_factors(path)?;
        self.validate_short_convs(path)?;
        if self.rotary_dim == 0 || self.rotary_dim > self.head_dim || !self.rotary_dim.is_multiple_of(2) {
            let reason = format!(
                "{} of {} elements of a head would turn; an even number of them is needed",
                self.rotary_dim, self.head_dim
            );
            return Err(Error::file(path, "partial_rotary_factor", reason));
        }
        self.rope_scaling.validate(path, self.rotary_dim)?;
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
        if self.rotated.len() != self.num_hidden_layers {
            let reason =
                format!("lists {} layers, but num_hidden_layers is {}", self.rotated.len(), self.num_hidden_layers);
            return Err(Error::file(path, "no_rope_layers", reason));
        }
        Ok(self)
    }

    fn validate_short_convs(&self, path: &Path) -> Result<()> {
        let Some(convs) = &self.short_convs else { return Ok(()) };
        if convs.taps == 0 || convs.taps > MAX_TAPS {
            let reason = format!("{} is not between 1 and {MAX_TAPS}", convs.taps);
            return Err(Error::file(path, "conv_L_cache", reason));
        }
        if convs.layers.len() != self.num_hidden_layers {
            let reason =
                format!("lists {} layers, but num_hidden_layers is {}", convs.layers.len(), self.num_hidden_layers);
            return Err(Error::file(path, "layer_types", reason));
        }
        Ok(())
    }

    fn validate_factors(&self, path: &Path) -> Result<()> {
        let positive = [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping.map(f64::from)),
            ("final_logit_softcapping", self.final_logit_softcapping.map(f64::from)),
            ("embedding_multiplier", Some(self.multipliers.embedding)),
            ("residual_multiplier", Some(self.multipliers.residual)),
            ("attention_multiplier", self.multipliers.attention),
            ("logit_scale", Some(self.multipliers.logits)),
        ];
        for (key, value) in positive {
            if let Some(value) = value.filter(|v| !(*v > 0.0 && v.is_finite())) {
                return Err(Error::file(path, key, format!("{value} is not above 0")));
            }
        }
        if let Some(scalar) = self.query_pre_attn_scalar.filter(|v| v.fract() != 0.0) {
            return Err(Error::file(path, "query_pre_attn_scalar", format!("{scalar} is no whole number")));
        }
        if let Some(growth) = self.query_growth
            && !(growth.beta.is_finite() && growth.beta >= 0.0 && growth.original > 0)
        {
            let reason = format!("{} with {} positions of pretraining", growth.beta, growth.original);
            return Err(Error::file(path, "llama_4_scaling_beta", reason));
        }
        Ok(())
    }

    /// How many tokens the short convolution of layer `index` sees, if it has one.
    pub fn short_conv(&self, index: usize) -> Option<usize> {
        self.short_convs.as_ref().filter(|c| c.layers.get(index).is_some_and(|has| *has)).map(|c| c.taps)
    }

    /// How many tokens layer `index` sees, itself included; `None`: all before it.
    pub fn window(&self, index: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.windowed.get(index).is_some_and(|w| *w))
    }

    /// The factor of q·k.
    pub fn attention_scale(&self) -> f32 {
        let root = || self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64).sqrt().recip();
        self.multipliers.attention.unwrap_or_else(root) as f32
    }
}

/// For each of `layers` whether it is windowed by `rule`. `from`: `max_window_layers`.
fn windowed(rule: Windowed, layers: usize, from: usize) -> Vec<bool> {
    // validation refuses more
    (0..layers.min(MAX_LAYERS)).map(|i| rule.layer(i, from)).collect()
}

/// For each layer whether heads turn by their positions, in families where a sliding window decides that; none elsewhere.
fn rotated_by_window(family: Family, window: Option<usize>, windowed: &[bool]) -> Option<Vec<bool>> {
    match family.unrotated {
        Unrotated::WithoutWindow { all_if_no_window } if window.is_none() => {
            Some(vec![all_if_no_window; windowed.len()])
        }
        Unrotated::WithoutWindow { .. } => Some(windowed.to_vec()),
        Unrotated::None | Unrotated::Listed | Unrotated::ByKey => None,
    }
}

#[cfg(test)]
mod tests;
