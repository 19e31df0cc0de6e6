//! Back to Hugging Face's `config.json`.

use super::family::{Bias, LocalRope, MultiplierKeys, Unrotated, Windowed};
use super::{ModelConfig, RopeScaling, families};
use serde_json::{Value, json};

impl ModelConfig {
    /// As Hugging Face's `config.json` says it, in the types that transformers insists on.
    pub fn to_hf(&self) -> Value {
        // GGUF files of Mistral say llama, which has no window in transformers
        let family = match (self.family, self.sliding_window) {
            (family, Some(_)) if family == &families::LLAMA => &families::MISTRAL,
            (family, _) => family,
        };
        let mut json = json!({
            "model_type": family.model_type,
            "architectures": [family.architecture],
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
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
        self.put_rope(&mut json);
        json[family.keys.intermediate] = self.intermediate_size.into();
        json[family.keys.eps] = shortest(self.rms_norm_eps).into();
        json[family.keys.activation] = self.hidden_act.as_str().into();
        if let Bias::Key(key, _) = family.biases.output {
            json[key] = self.output_bias.into();
        }
        self.put_multipliers(&mut json);
        let rule = family.windowed;
        if rule != Windowed::Never {
            // null, too: an absent key means 4,096 in most families
            json["sliding_window"] = self.sliding_window.into();
        }
        if matches!(rule, Windowed::FromLayer | Windowed::Unrotated) {
            json["use_sliding_window"] = self.sliding_window.is_some().into();
        }
        if matches!(rule, Windowed::FromLayer | Windowed::Unrotated | Windowed::AllButEvery { .. }) {
            let kind = |windowed: &bool| if *windowed { "sliding_attention" } else { "full_attention" };
            json["layer_types"] = self.windowed.iter().map(kind).collect();
        }
        if let Some(convs) = &self.short_convs {
            let kind = |conv: &bool| if *conv { "conv" } else { "full_attention" };
            json["layer_types"] = convs.layers.iter().map(kind).collect();
            json["conv_L_cache"] = convs.taps.into();
            json["conv_bias"] = false.into();
            // the width is what the rule made of it
            json["block_auto_adjust_ff_dim"] = false.into();
        }
        if family.keys.query_pre_attn_scalar {
            json["query_pre_attn_scalar"] = self.query_pre_attn_scalar.map(|v| v as u64).into();
            json["attn_logit_softcapping"] = self.attn_logit_softcapping.map(shortest).into();
            json["final_logit_softcapping"] = self.final_logit_softcapping.map(shortest).into();
        }
        json
    }
}

impl ModelConfig {
    fn put_rope(&self, json: &mut Value) {
        json["rope_scaling"] = self.rope_scaling.to_hf();
        if self.family.partial_rope {
            json["partial_rotary_factor"] = (self.rotary_dim as f64 / self.head_dim as f64).into();
        }
        if let RopeScaling::LongRope { original_max_position_embeddings, .. } = self.rope_scaling {
            json["original_max_position_embeddings"] = original_max_position_embeddings.into();
        }
        if let Some(growth) = self.query_growth {
            json["rope_scaling"]["llama_4_scaling_beta"] = growth.beta.into();
            json["rope_scaling"]["original_max_position_embeddings"] = growth.original.into();
        }
        if let Some(theta) = self.rope_local_theta.filter(|_| self.family.local_rope == LocalRope::OwnTheta) {
            json["rope_local_base_freq"] = theta.into();
        }
        match self.family.unrotated {
            Unrotated::Listed => json["no_rope_layers"] = self.rotated.iter().map(|turns| u8::from(*turns)).collect(),
            Unrotated::ByKey => {
                let kind = if self.rotated.contains(&true) { "rope" } else { "nope" };
                json["position_embedding_type"] = kind.into();
                // of what these models may have besides
                json["layer_types"] = vec!["attention"; self.num_hidden_layers].into();
                json["num_local_experts"] = 0.into();
                json["num_experts_per_tok"] = 0.into();
                json["mamba_n_heads"] = 1.into();
            }
            Unrotated::None | Unrotated::WithoutWindow { .. } => {}
        }
    }

    fn put_multipliers(&self, json: &mut Value) {
        let m = &self.multipliers;
        match self.family.keys.multipliers {
            MultiplierKeys::None => {}
            MultiplierKeys::Granite => {
                json["embedding_multiplier"] = m.embedding.into();
                json["residual_multiplier"] = m.residual.into();
                json["attention_multiplier"] = m.attention.into();
                json["logits_scaling"] = (1.0 / m.logits).into();
            }
            MultiplierKeys::Cohere => json["logit_scale"] = m.logits.into(),
        }
    }
}

/// The f64 with the fewest digits that is `v` as an f32: 1e-5 and not 0.000009999999747378752.
fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

impl RopeScaling {
    fn to_hf(&self) -> Value {
        match self {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
            RopeScaling::NtkAlpha { alpha } => json!({ "rope_type": "dynamic", "factor": 1.0, "alpha": alpha }),
            RopeScaling::Yarn(yarn) => json!({
                "rope_type": "yarn",
                "factor": yarn.factor,
                "attention_factor": yarn.attention_factor,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "truncate": yarn.truncate,
                "original_max_position_embeddings": yarn.original_max_position_embeddings,
            }),
            RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => json!({
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": long,
                "attention_factor": attention_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
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
