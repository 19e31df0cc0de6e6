//! GGUF metadata.

use super::family::Windowed;
use super::{Family, ModelConfig, RopeScaling, find_family, windowed};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::gguf::{GgufFile, Value};

impl ModelConfig {
    /// From the metadata and the tensors of `file`.
    ///
    /// # Errors
    /// [`Error::File`] naming the key.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let f = Fields { file };
        let name = f.text("general.architecture")?.ok_or_else(|| f.missing("general.architecture"))?;
        let family = find_family(file.path(), "general.architecture", name, Family::of_gguf)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        if f.size(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(f.error(&key("expert_count"), "mixtures of experts are not supported"));
        }

        let hidden_size = f.required(&key("embedding_length"))?;
        let heads = f.required(&key("attention.head_count"))?;
        let head_dim = match f.size(&key("attention.key_length"))? {
            Some(n) => n,
            // where heads is 0 validation says so
            None => hidden_size.checked_div(heads).unwrap_or(8),
        };
        let tokens = f.get("tokenizer.ggml.tokens", "list", |v| v.as_array().map(<[Value]>::len))?;
        let vocab_size = match file.shape("token_embd.weight") {
            Some([vocab, _]) => *vocab,
            _ => match f.size(&key("vocab_size"))? {
                Some(n) => n,
                None => tokens.ok_or_else(|| f.missing("token_embd.weight"))?,
            },
        };
        let rope_theta = f.number(&key("rope.freq_base"))?.unwrap_or(family.defaults().rope_theta);
        let mut eos_token_ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            if let Some(id) = f.token(&format!("tokenizer.ggml.{name}_token_id"))?
                && !eos_token_ids.contains(&id)
            {
                eos_token_ids.push(id);
            }
        }
        let layers = f.required(&key("block_count"))?;
        let (sliding_window, windowed) = windows(&f, &key, family, layers)?;
        let cap =
            |suffix: &str| Ok::<_, Error>(f.number(&key(suffix))?.map(|v| v as f32).filter(|_| family.is_gemma()));
        let config = ModelConfig {
            hidden_size,
            intermediate_size: f.required(&key("feed_forward_length"))?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: f.size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            vocab_size,
            max_position_embeddings: f.required(&key("context_length"))?,
            rms_norm_eps: f
                .number(&key("attention.layer_norm_rms_epsilon"))?
                .ok_or_else(|| f.missing(&key("attention.layer_norm_rms_epsilon")))? as f32,
            rope_theta,
            rope_scaling: rope_scaling(&f, &key, rope_theta, head_dim)?,
            tie_word_embeddings: file.shape("output.weight").is_none(),
            attention_bias: file.shape("blk.0.attn_q.bias").is_some(),
            mlp_bias: file.shape("blk.0.ffn_gate.bias").is_some(),
            hidden_act: family.activation().to_string(),
            sliding_window,
            windowed,
            rope_local_theta: match family.defaults().rope_local_theta {
                Some(default) => Some(f.number(&key("rope.freq_base_swa"))?.unwrap_or(default)),
                None => None,
            },
            query_pre_attn_scalar: family
                .is_gemma()
                .then(|| query_scalar(family, layers, hidden_size, heads, head_dim)),
            attn_logit_softcapping: cap("attn_logit_softcapping")?,
            final_logit_softcapping: cap("final_logit_softcapping")?,
            bos_token_id: f.token("tokenizer.ggml.bos_token_id")?,
            eos_token_ids,
            pad_token_id: f.token("tokenizer.ggml.padding_token_id")?,
            family,
        }
        .validate(file.path())?;
        if family == Family::Llama && config.sliding_window.is_some() && (config.attention_bias || config.mlp_bias) {
            let reason = "a Mistral, which the window makes it, has no biases; use the Hugging Face folder";
            return Err(f.error(&key("attention.sliding_window"), reason));
        }
        for suffix in ["rope.dimension_count", "attention.value_length"] {
            if f.size(&key(suffix))?.is_some_and(|n| n != head_dim) {
                return Err(f.error(&key(suffix), format!("must be the size of a head, {head_dim}")));
            }
        }
        Ok(config)
    }
}

/// The sliding window, and which layers have it. The files say the window alone, zero for none.
fn windows(
    f: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    family: Family,
    layers: usize,
) -> Result<(Option<usize>, Vec<bool>)> {
    let window = f.size(&key("attention.sliding_window"))?.filter(|w| *w > 0);
    let pattern = key("attention.sliding_window_pattern");
    let by_rule = |rule| windowed(rule, layers, 0);
    match family.windowed() {
        // nothing says from which layer on
        Windowed::FromLayer => Ok((None, by_rule(Windowed::Never))),
        Windowed::AllButEvery(n) => {
            if f.size(&pattern)?.is_some_and(|given| given != n) {
                return Err(f.error(&pattern, format!("only {n} is supported; use the Hugging Face folder")));
            }
            let layers = by_rule(Windowed::AllButEvery(n));
            Ok((window.or(family.defaults().sliding_window).filter(|_| layers.contains(&true)), layers))
        }
        // Mistral's files say llama
        Windowed::Never | Windowed::Always => {
            Ok((window, by_rule(if window.is_some() { Windowed::Always } else { Windowed::Never })))
        }
    }
}

/// `query_pre_attn_scalar`, which converters leave out: the size of a head but for the largest model of either
/// generation, which is known by its depth.
pub(super) fn query_scalar(family: Family, layers: usize, hidden: usize, heads: usize, head_dim: usize) -> f64 {
    let largest = if family == Family::Gemma2 { 46 } else { 62 };
    if layers == largest { hidden as f64 / heads.max(1) as f64 } else { head_dim as f64 }
}

fn rope_scaling(f: &Fields<'_>, key: &impl Fn(&str) -> String, theta: f64, head_dim: usize) -> Result<RopeScaling> {
    if f.file.shape("rope_freqs.weight").is_some() {
        return llama3_scaling(f, theta, head_dim);
    }
    if f.file.shape("rope_factors_long.weight").is_some() {
        return Err(f.error("rope_factors_long.weight", "the scaling \"longrope\" is not supported"));
    }
    let factor = f.number(&key("rope.scaling.factor"))?;
    match f.text(&key("rope.scaling.type"))? {
        None => Ok(match f.number(&key("rope.scale_linear"))? {
            Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
            _ => RopeScaling::None,
        }),
        Some("none") => Ok(RopeScaling::None),
        Some("linear") => {
            Ok(RopeScaling::Linear { factor: factor.ok_or_else(|| f.missing(&key("rope.scaling.factor")))? })
        }
        Some(kind) => {
            let reason = format!("the scaling \"{kind}\" is not supported; supported: none, linear, llama3");
            Err(f.error(&key("rope.scaling.type"), reason))
        }
    }
}

/// Converters write the result of Llama 3's scaling, one divisor for each frequency, instead of its constants. All
/// models published with it share three of the four constants, so the fourth can be read off the slowest frequency;
/// that the guess gives back every divisor is checked.
fn llama3_scaling(f: &Fields<'_>, theta: f64, head_dim: usize) -> Result<RopeScaling> {
    const NAME: &str = "rope_freqs.weight";
    let tensor = f.file.tensor(NAME)?;
    if tensor.dtype != DType::F32 || tensor.shape != [head_dim / 2] || head_dim < 2 {
        let reason = format!("{:?} of {} found, [{}] of F32 expected", tensor.shape, tensor.dtype, head_dim / 2);
        return Err(f.error(NAME, reason));
    }
    let found: Vec<f64> = bytemuck::pod_collect_to_vec::<u8, f32>(&tensor.data).into_iter().map(f64::from).collect();
    let scaling = RopeScaling::Llama3 {
        factor: found[found.len() - 1],
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = RopeScaling::None.frequencies(theta, head_dim);
    // converters compute in f32, which is 3e-7 off at most
    let close = |(found, plain): (&f64, f64)| (found / scaling.divisor(plain) - 1.0).abs() <= 1e-6;
    if found.iter().all(|&d| d == 1.0) {
        Ok(RopeScaling::None)
    } else if found.iter().zip(plain).all(close) {
        Ok(scaling)
    } else {
        Err(f.error(NAME, "these frequency divisors are not those of Llama 3's scaling; use the Hugging Face folder"))
    }
}

/// Typed access to the metadata.
struct Fields<'a> {
    file: &'a GgufFile,
}

impl<'a> Fields<'a> {
    fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::file(self.file.path(), key, reason)
    }

    fn missing(&self, key: &str) -> Error {
        self.error(key, "is missing")
    }

    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.file.metadata().get(key) {
            None => Ok(None),
            Some(v) => read(v).map(Some).ok_or_else(|| self.error(key, format!("is no {expected}"))),
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "size (a whole number, the same for all layers)", |v| {
            // some converters write one value a layer
            let v = match v.as_array() {
                Some([first, rest @ ..]) if rest.iter().all(|r| r == first) => first,
                _ => v,
            };
            v.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "number", Value::as_f64)
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "text", Value::as_str)
    }

    fn token(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "token id", |v| v.as_u64().and_then(|v| u32::try_from(v).ok()))
    }
}
