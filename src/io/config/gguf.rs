//! GGUF metadata.

use super::family::{Bias, Family, LocalRope, MultiplierKeys, NormKind, Traits, Unrotated, Windowed};
use super::gguf_rope::{self, Around};
use super::{ModelConfig, Multipliers, families, rotated_by_window, unknown, windowed};
use crate::error::{Error, Result};
use crate::io::gguf::{GgufFile, Value};

impl ModelConfig {
    /// From the metadata and the tensors of `file`.
    ///
    /// # Errors
    /// [`Error::File`] naming the key.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let f = Fields { file };
        let (name, family) = family_of(&f)?;
        let key = |suffix: &str| format!("{name}.{suffix}");

        let hidden_size = f.required(&key("embedding_length"))?;
        let heads = f.required(&key("attention.head_count"))?;
        let head_dim = match f.size(&key("attention.key_length"))? {
            Some(n) => n,
            // where heads is 0 validation says so
            None => hidden_size.checked_div(heads).unwrap_or(8),
        };
        let rope_theta = f.number(&key("rope.freq_base"))?.unwrap_or(family.defaults.rope_theta);
        let max_position_embeddings = f.required(&key("context_length"))?;
        let rotary_dim = gguf_rope::rotary_dim(&f, family, head_dim, &key)?;
        let rope = Around { theta: rope_theta, dim: rotary_dim, positions: max_position_embeddings, key: &key };
        let layers = f.required(&key("block_count"))?;
        let (sliding_window, windowed) = windows(&f, &key, family, layers)?;
        // OLMo 3's files say olmo2
        let is_olmo3 = family == &families::OLMO2 && sliding_window.is_some();
        let family = if is_olmo3 { &families::OLMO3 } else { family };
        // each fourth is not where a family lists them, which no file says and llama.cpp takes for granted
        let listed = |i: usize| family.unrotated != Unrotated::Listed || !i.is_multiple_of(4);
        let rotated = rotated_by_window(family, sliding_window, &windowed)
            .unwrap_or_else(|| (1..=windowed.len()).map(listed).collect());
        let eps = if family.norm == NormKind::Layer { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
        let eps = key(&format!("attention.{eps}"));
        let cap =
            |suffix: &str| Ok::<_, Error>(f.number(&key(suffix))?.map(|v| v as f32).filter(|_| family.keys.softcaps));
        let config = ModelConfig {
            hidden_size,
            intermediate_size: f.required(&key("feed_forward_length"))?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: f.size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            vocab_size: vocab_size(&f, &key("vocab_size"))?,
            max_position_embeddings,
            rms_norm_eps: f.number(&eps)?.ok_or_else(|| f.missing(&eps))? as f32,
            rope_theta,
            rope_scaling: gguf_rope::scaling(&f, &rope)?,
            tie_word_embeddings: file.shape("output.weight").is_none(),
            attention_bias: file.shape("blk.0.attn_q.bias").is_some(),
            output_bias: match family.biases.output {
                Bias::Never => false,
                // one key says both
                bias if bias == family.biases.qkv => file.shape("blk.0.attn_q.bias").is_some(),
                _ => file.shape("blk.0.attn_output.bias").is_some(),
            },
            mlp_bias: file.shape("blk.0.ffn_down.bias").is_some(),
            multipliers: multipliers(&f, &key, family)?,
            rotary_dim,
            rotated,
            query_growth: gguf_rope::query_growth(&f, &rope)?.filter(|_| family == &families::MINISTRAL3),
            short_convs: None,
            wrapped: false,
            hidden_act: family.mlp.activation.to_string(),
            sliding_window,
            windowed,
            rope_local_theta: match family.local_rope {
                LocalRope::OwnTheta => {
                    Some(f.number(&key("rope.freq_base_swa"))?.unwrap_or(family.defaults.rope_local_theta))
                }
                LocalRope::Unscaled => Some(rope_theta),
                LocalRope::Same => None,
            },
            query_pre_attn_scalar: (family.keys.query_pre_attn_scalar)
                .then(|| query_scalar(family, layers, hidden_size, heads, head_dim)),
            attn_logit_softcapping: cap("attn_logit_softcapping")?,
            final_logit_softcapping: cap("final_logit_softcapping")?,
            bos_token_id: f.token("tokenizer.ggml.bos_token_id")?,
            eos_token_ids: eos_tokens(&f)?,
            pad_token_id: f.token("tokenizer.ggml.padding_token_id")?,
            family,
        }
        .validate(file.path())?;
        check(&f, &key, &config)?;
        Ok(config)
    }
}

/// The name of the architecture, and its family.
fn family_of<'f>(f: &Fields<'f>) -> Result<(&'f str, Family)> {
    let name = f.text("general.architecture")?.ok_or_else(|| f.missing("general.architecture"))?;
    let family = Traits::of_gguf(name).ok_or_else(|| {
        let files = families::ALL.iter().filter_map(|f| f.gguf);
        let known: Vec<&str> = files.filter_map(|g| g.architectures.first().copied()).collect();
        f.error("general.architecture", unknown::reason(name, &known, None))
    })?;
    let experts = format!("{name}.expert_count");
    if f.size(&experts)?.unwrap_or(0) > 0 {
        return Err(f.error(&experts, "mixtures of experts are not supported"));
    }
    Ok((name, family))
}

/// The rows of the embedding; without one what `key` says, or the number of tokens.
fn vocab_size(f: &Fields<'_>, key: &str) -> Result<usize> {
    let tokens = f.get("tokenizer.ggml.tokens", "list", |v| v.as_array().map(<[Value]>::len))?;
    if let Some([vocab, _]) = f.file.shape("token_embd.weight") {
        return Ok(*vocab);
    }
    f.size(key)?.or(tokens).ok_or_else(|| f.missing("token_embd.weight"))
}

fn eos_tokens(f: &Fields<'_>) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        if let Some(id) = f.token(&format!("tokenizer.ggml.{name}_token_id"))?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// That nothing else in the file contradicts the configuration.
fn check(f: &Fields<'_>, key: &impl Fn(&str) -> String, config: &ModelConfig) -> Result<()> {
    let has_bias = config.attention_bias || config.mlp_bias;
    if config.family == &families::LLAMA && config.sliding_window.is_some() && has_bias {
        let reason = "a Mistral, which the window makes it, has no biases; use the Hugging Face folder";
        return Err(f.error(&key("attention.sliding_window"), reason));
    }
    let turned = (!config.family.partial_rope).then_some("rope.dimension_count");
    for suffix in ["attention.value_length"].into_iter().chain(turned) {
        if f.size(&key(suffix))?.is_some_and(|n| n != config.head_dim) {
            return Err(f.error(&key(suffix), format!("must be the size of a head, {}", config.head_dim)));
        }
    }
    Ok(())
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
    let listed = f.flags(&pattern)?;
    match family.windowed {
        // nothing says from which layer on
        Windowed::FromLayer | Windowed::Unrotated => Ok((None, by_rule(Windowed::Never))),
        rule @ Windowed::AllButEvery { n, optional } => {
            let window = if optional { window } else { window.or(family.defaults.sliding_window) };
            if window.is_none() {
                return Ok((None, by_rule(Windowed::Never)));
            }
            let layers = match listed {
                Some(listed) => listed,
                None if f.size(&pattern)?.is_some_and(|given| given != n) => {
                    return Err(f.error(&pattern, format!("only {n} is supported; use the Hugging Face folder")));
                }
                None => by_rule(rule),
            };
            Ok((window.filter(|_| layers.contains(&true)), layers))
        }
        // OLMo 3's files say olmo2, and which layers have the window
        Windowed::Never if listed.is_some() => {
            let layers = listed.unwrap_or_default();
            let window = window.filter(|_| layers.contains(&true));
            let rule = if window.is_some() { layers } else { by_rule(Windowed::Never) };
            Ok((window, rule))
        }
        // Mistral's files say llama
        Windowed::Never | Windowed::Always => {
            Ok((window, by_rule(if window.is_some() { Windowed::Always } else { Windowed::Never })))
        }
    }
}

fn multipliers(f: &Fields<'_>, key: &impl Fn(&str) -> String, family: Family) -> Result<Multipliers> {
    let number = |suffix: &str| f.written(&key(suffix));
    Ok(match family.keys.multipliers {
        MultiplierKeys::None => Multipliers::default(),
        MultiplierKeys::Granite => Multipliers {
            embedding: number("embedding_scale")?.unwrap_or(1.0),
            residual: number("residual_scale")?.unwrap_or(1.0),
            attention: number("attention.scale")?,
            logits: 1.0 / number("logit_scale")?.unwrap_or(1.0),
        },
        MultiplierKeys::Cohere => Multipliers {
            logits: number("logit_scale")?.unwrap_or(family.defaults.logit_scale),
            ..Multipliers::default()
        },
    })
}

/// `query_pre_attn_scalar`, which converters leave out: the size of a head but for the largest model of either
/// generation, which is known by its depth.
pub(super) fn query_scalar(family: Family, layers: usize, hidden: usize, heads: usize, head_dim: usize) -> f64 {
    let largest = if family == &families::GEMMA2 { 46 } else { 62 };
    if layers == largest { hidden as f64 / heads.max(1) as f64 } else { head_dim as f64 }
}

/// Typed access to the metadata.
pub(super) struct Fields<'a> {
    pub file: &'a GgufFile,
}

impl<'a> Fields<'a> {
    pub fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::file(self.file.path(), key, reason)
    }

    pub fn missing(&self, key: &str) -> Error {
        self.error(key, "is missing")
    }

    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.file.metadata().get(key) {
            None => Ok(None),
            Some(v) => read(v).map(Some).ok_or_else(|| self.error(key, format!("is no {expected}"))),
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>> {
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

    /// A number as its decimal digits say it: files hold an f32.
    pub fn written(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.number(key)?.map(|v| gguf_rope::written(v as f32)))
    }

    /// A list of true and false; `None` where there is something else.
    fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let Some(list) = self.file.metadata().get(key).and_then(Value::as_array) else { return Ok(None) };
        let flag = |v: &Value| v.as_bool().ok_or_else(|| self.error(key, "is no list of true and false"));
        list.iter().map(flag).collect::<Result<_>>().map(Some)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "text", Value::as_str)
    }

    fn token(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "token id", |v| v.as_u64().and_then(|v| u32::try_from(v).ok()))
    }
}
