//! What a model looks like, from a Hugging Face `config.json` or from GGUF metadata.
mod gguf;
mod hf;

use crate::error::{Error, Result};
use std::path::Path;

/// The architectures that there is a decoder for, by Hugging Face's `model_type`.
pub const ARCHITECTURES: &[&str] = &["llama"];

/// Upper bound of every width: with it, products of two sizes fit 64 bits with room to spare.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_POSITIONS: usize = 1 << 30;

/// The shape and the constants of a decoder. Sizes in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// One of [`ARCHITECTURES`].
    pub model_type: String,
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
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub hidden_act: String,
    /// Attention reaches this many tokens back; `None`: all of them.
    pub sliding_window: Option<usize>,
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text or a turn.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

/// How rotary frequencies are stretched for sequences longer than in pretraining.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl ModelConfig {
    /// Checks that sizes are sane and fit together. `path` is the file that messages name.
    fn validate(self, path: &Path) -> Result<Self> {
        check_architecture(path, &self.model_type)?;
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
        if self.hidden_act != "silu" {
            let reason = format!("\"{}\" is not supported for {}, only \"silu\"", self.hidden_act, self.model_type);
            return Err(Error::file(path, "hidden_act", reason));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(Error::file(path, "rms_norm_eps", format!("{} is not between 0 and 1", self.rms_norm_eps)));
        }
        if !(self.rope_theta > 1.0 && self.rope_theta.is_finite()) {
            return Err(Error::file(path, "rope_theta", format!("{} is not above 1", self.rope_theta)));
        }
        self.rope_scaling.validate(path)?;
        if self.sliding_window == Some(0) {
            return Err(Error::file(
                path,
                "sliding_window",
                "0 lets no token be seen; leave the key out for full attention",
            ));
        }
        Ok(self)
    }
}

impl ModelConfig {
    /// As Hugging Face's `config.json` says it.
    pub fn to_hf(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "model_type": self.model_type,
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "hidden_act": self.hidden_act,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids,
            "pad_token_id": self.pad_token_id,
            "torch_dtype": "float32",
        });
        json["rope_scaling"] = match self.rope_scaling {
            RopeScaling::None => serde_json::Value::Null,
            RopeScaling::Linear { factor } => serde_json::json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                serde_json::json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
        };
        if let Some(window) = self.sliding_window {
            json["sliding_window"] = window.into();
        }
        json
    }
}

impl RopeScaling {
    fn validate(&self, path: &Path) -> Result<()> {
        let ok = match *self {
            RopeScaling::None => true,
            RopeScaling::Linear { factor } => factor.is_finite() && factor > 0.0,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                factor.is_finite()
                    && factor > 0.0
                    && low_freq_factor > 0.0
                    && low_freq_factor < high_freq_factor
                    && high_freq_factor.is_finite()
                    && (1..=MAX_POSITIONS).contains(&original_max_position_embeddings)
            }
        };
        if ok { Ok(()) } else { Err(Error::file(path, "rope_scaling", format!("values out of range: {self:?}"))) }
    }

    /// By what each of the `head_dim / 2` rotary frequencies `theta^(-2i / head_dim)` is divided.
    pub fn divisors(&self, theta: f64, head_dim: usize) -> Vec<f64> {
        let divisor = |i: usize| match *self {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } => factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
                let turns = original_max_position_embeddings as f64 / wavelength;
                let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let keep = keep.clamp(0.0, 1.0);
                1.0 / ((1.0 - keep) / factor + keep)
            }
        };
        (0..head_dim / 2).map(divisor).collect()
    }
}

/// Refuses an architecture that there is no decoder for.
fn check_architecture(path: &Path, name: &str) -> Result<()> {
    if ARCHITECTURES.contains(&name) {
        return Ok(());
    }
    let reason = format!("the architecture \"{name}\" is not supported; supported: {}", ARCHITECTURES.join(", "));
    Err(Error::file(path, "model_type", reason))
}

#[cfg(test)]
mod tests;
