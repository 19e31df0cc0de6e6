//! Back to Hugging Face's `config.json`.

use super::family::Windowed;
use super::{Family, ModelConfig, RopeScaling};
use serde_json::{Value, json};

impl ModelConfig {
    /// As Hugging Face's `config.json` says it, in the types that transformers insists on.
    pub fn to_hf(&self) -> Value {
        // GGUF files of Mistral say llama, which has no window in transformers
        let family = match (self.family, self.sliding_window) {
            (Family::Llama, Some(_)) => Family::Mistral,
            (family, _) => family,
        };
        let mut json = json!({
            "model_type": family.model_type(),
            "architectures": [family.architecture()],
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
            "pad_token_id": self.pad_token_id,
            "torch_dtype": "float32",
        });
        json["rope_scaling"] = self.rope_scaling.to_hf();
        json[family.activation_key()] = self.hidden_act.as_str().into();
        let rule = family.windowed();
        if rule != Windowed::Never {
            // null, too: an absent key means 4,096 in most families
            json["sliding_window"] = self.sliding_window.into();
        }
        if rule == Windowed::FromLayer {
            json["use_sliding_window"] = self.sliding_window.is_some().into();
        }
        if matches!(rule, Windowed::FromLayer | Windowed::AllButEvery(_)) {
            let kind = |windowed: &bool| if *windowed { "sliding_attention" } else { "full_attention" };
            json["layer_types"] = self.windowed.iter().map(kind).collect();
        }
        if let Some(theta) = self.rope_local_theta {
            json["rope_local_base_freq"] = theta.into();
        }
        if family.is_gemma() {
            json["query_pre_attn_scalar"] = self.query_pre_attn_scalar.map(|v| v as u64).into();
            json["attn_logit_softcapping"] = self.attn_logit_softcapping.map(shortest).into();
            json["final_logit_softcapping"] = self.final_logit_softcapping.map(shortest).into();
        }
        json
    }
}

/// The f64 with the fewest digits that is `v` as an f32: 1e-5 and not 0.000009999999747378752.
fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

impl RopeScaling {
    fn to_hf(self) -> Value {
        match self {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
        }
    }
}
