//! To GGUF metadata, with the keys that llama.cpp's converter writes.

use super::family::Windowed;
use super::gguf::query_scalar;
use super::{Family, ModelConfig, RopeScaling, families};
use crate::io::gguf::{Metadata, Value};

/// Families whose files are written, with every key that tells them apart.
const WRITTEN: &[Family] = &[
    &families::LLAMA,
    &families::MISTRAL,
    &families::QWEN2,
    &families::QWEN3,
    &families::GEMMA2,
    &families::GEMMA3,
    &families::PHI3,
];

impl ModelConfig {
    /// What a GGUF file says of such a model, tokenizer and name aside.
    ///
    /// # Errors
    /// What of the configuration such files cannot say.
    pub fn to_gguf(&self) -> Result<Metadata, String> {
        let architecture = self.check_gguf()?;
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture".into(), Value::String(architecture.into()));
        metadata.insert("general.type".into(), Value::String("model".into()));
        let mut put = |key: &str, value: Value| metadata.insert(format!("{architecture}.{key}"), value);
        for (key, size) in [
            ("vocab_size", self.vocab_size),
            ("context_length", self.max_position_embeddings),
            ("embedding_length", self.hidden_size),
            ("block_count", self.num_hidden_layers),
            ("feed_forward_length", self.intermediate_size),
            ("attention.head_count", self.num_attention_heads),
            ("attention.head_count_kv", self.num_key_value_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
        ] {
            put(key, Value::U32(size as u32));
        }
        put("attention.layer_norm_rms_epsilon", Value::F32(self.rms_norm_eps));
        put("rope.freq_base", Value::F32(self.rope_theta as f32));
        if let Some(theta) = self.rope_local_theta {
            put("rope.freq_base_swa", Value::F32(theta as f32));
        }
        if let RopeScaling::Linear { factor } = self.rope_scaling {
            put("rope.scaling.type", Value::String("linear".into()));
            put("rope.scaling.factor", Value::F32(factor as f32));
        }
        if let Some(window) = self.sliding_window {
            put("attention.sliding_window", Value::U32(window as u32));
        }
        let caps = [
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        for (key, cap) in caps {
            cap.map(|cap| put(key, Value::F32(cap)));
        }
        Ok(metadata)
    }

    /// The divisors of the rotary frequencies that a GGUF file holds as the tensor `rope_freqs.weight`, where it needs one.
    pub fn rope_divisors(&self) -> Option<Vec<f32>> {
        matches!(self.rope_scaling, RopeScaling::Llama3 { .. }).then(|| {
            let plain = RopeScaling::None.frequencies(self.rope_theta, self.head_dim, false);
            plain.into_iter().map(|f| self.rope_scaling.divisor(f) as f32).collect()
        })
    }

    /// The name of the architecture in such files.
    fn check_gguf(&self) -> Result<&'static str, String> {
        let written = self.family.written_in_gguf().and_then(|gguf| gguf.architectures.first());
        let Some(architecture) = written.filter(|_| WRITTEN.contains(&self.family)) else {
            let all: Vec<_> = WRITTEN.iter().map(|family| family.model_type).collect();
            let name = self.family.model_type;
            return Err(format!("GGUF files are written of {}, not of {name}: write a folder", all.join(", ")));
        };
        if !matches!(self.rope_scaling, RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. })
            || self.rotary_dim != self.head_dim
        {
            return Err("rotary positions of this kind are not written to GGUF files: write a folder".into());
        }
        let rule = self.family.windowed;
        if rule == Windowed::FromLayer && self.sliding_window.is_some() {
            return Err(format!(
                "a sliding window in some layers (use_sliding_window) is none that {architecture} files have"
            ));
        }
        if let Windowed::AllButEvery { n, .. } = rule
            && (0..self.num_hidden_layers).any(|i| self.windowed[i] != rule.layer(i, 0))
        {
            return Err(format!("layer_types is not the order of the family, all but each {n}th layer with a window"));
        }
        let (layers, hidden, heads) = (self.num_hidden_layers, self.hidden_size, self.num_attention_heads);
        if let Some(scalar) = self.query_pre_attn_scalar {
            let known = query_scalar(self.family, layers, hidden, heads, self.head_dim);
            if scalar != known {
                return Err(format!("query_pre_attn_scalar is {scalar}, and such files mean {known}"));
            }
        }
        if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, original_max_position_embeddings, .. } =
            self.rope_scaling
            && (low_freq_factor, high_freq_factor, original_max_position_embeddings) != (1.0, 4.0, 8192)
        {
            return Err("rope_scaling has other constants than Llama 3's models".into());
        }
        if self.family == &families::MISTRAL && (self.attention_bias || self.mlp_bias) {
            return Err("a Mistral with biases is none that such files know".into());
        }
        Ok(architecture)
    }
}
