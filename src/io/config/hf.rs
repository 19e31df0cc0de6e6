//! `config.json` and `generation_config.json` of a Hugging Face folder.

use super::family::{Bias, Family, MultiplierKeys, Traits, Unrotated, Windowed};
use super::hf_conv::{intermediate_size, short_convs};
use super::hf_rope::Rope;
use super::{MAX_LAYERS, ModelConfig, Multipliers, families, rotated_by_window, unknown, windowed};
use crate::error::{Error, Result};
use crate::io::kind;
use serde_json::{Map, Value};
use std::path::Path;

impl ModelConfig {
    /// Reads `config.json` of `folder`, and the end tokens of `generation_config.json` where there is one.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] naming the file and the key.
    pub fn from_hf(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.exists() {
            return Err(Error::file(folder, "config.json", without_config(folder)));
        }
        let json = read_object(&path)?;
        let outer = Fields { path: &path, map: &json };
        let mut config = read(&outer)?;
        let path = folder.join("generation_config.json");
        if path.exists() {
            let json = read_object(&path)?;
            for id in (Fields { path: &path, map: &json }).tokens("eos_token_id")? {
                if !config.eos_token_ids.contains(&id) {
                    config.eos_token_ids.push(id);
                }
            }
        }
        config.validate(&folder.join("config.json"))
    }
}

/// What says what a language model is: the fields of `outer`, or those that it wraps, with the family.
fn language_model<'f>(outer: &Fields<'f>) -> Result<(Fields<'f>, Family, bool)> {
    let model_type = outer.string("model_type")?.ok_or_else(|| outer.missing("model_type"))?;
    let wrapper = families::WRAPPERS.iter().find(|(name, _)| *name == model_type);
    let (map, model_type) = match wrapper {
        None => (outer.map, model_type),
        Some((_, usual)) => {
            let map = outer.object("text_config")?.ok_or_else(|| outer.missing("text_config"))?;
            let inner = Fields { path: outer.path, map };
            (map, inner.string("model_type")?.unwrap_or_else(|| (*usual).to_owned()))
        }
    };
    let f = Fields { path: outer.path, map };
    let family = Traits::of_hf(&model_type).ok_or_else(|| {
        let known: Vec<&str> = families::ALL.iter().map(|f| f.model_type).collect();
        outer.error("model_type", unknown::reason(&model_type, &known, Some(f.map)))
    })?;
    for fields in [outer, &f] {
        refuse_unsupported(fields)?;
    }
    Ok((f, family, wrapper.is_some()))
}

/// The configuration of a language model, by itself or wrapped in `outer`.
fn read(outer: &Fields<'_>) -> Result<ModelConfig> {
    let (f, family, wrapped) = language_model(outer)?;
    let f = &f;
    let hidden_size = f.required("hidden_size")?;
    let heads = f.required("num_attention_heads")?;
    let layers = f.required("num_hidden_layers")?;
    let default = &family.defaults;
    let head_dim = match f.size("head_dim")?.or(default.head_dim) {
        Some(n) => n,
        // where heads is 0 validation says so
        None => hidden_size.checked_div(heads).unwrap_or(8),
    };
    let max_position_embeddings = f.size("max_position_embeddings")?.unwrap_or(default.max_position_embeddings);
    let rope = Rope::read(f, family, max_position_embeddings)?;
    let unrotated = unrotated(f, family, layers)?;
    let (sliding_window, windowed) = windows(f, family, layers, unrotated.as_deref())?;
    let listed = || unrotated.map_or_else(|| vec![true; windowed.len()], |u| u.iter().map(|u| !u).collect());
    let rotated = rotated_by_window(family, sliding_window, &windowed).unwrap_or_else(listed);
    let cap = |key: &str, default: Option<f64>| -> Result<Option<f32>> {
        let value = if f.map.contains_key(key) { f.number(key)? } else { default };
        Ok(value.map(|v| v as f32).filter(|_| family.keys.softcaps))
    };
    let vocab_size = f.required("vocab_size")?;
    // a wrapper says which tokens end a turn, its language model often does not
    let token = |key: &str, default: &[u32]| match (f.map.contains_key(key), outer.map.contains_key(key)) {
        (true, _) => f.tokens(key),
        (false, true) => outer.tokens(key),
        (false, false) => Ok(default.iter().copied().filter(|id| (*id as usize) < vocab_size).collect()),
    };
    let mut tied = None;
    for (fields, key) in [(f, "tie_word_embeddings"), (outer, "tie_word_embeddings"), (f, "tie_embedding")] {
        tied = tied.map_or_else(|| fields.bool(key), |tied| Ok(Some(tied)))?;
    }
    let bias = |bias: Bias| match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Key(key, default) => Ok::<_, Error>(f.bool(key)?.unwrap_or(default)),
    };
    Ok(ModelConfig {
        hidden_size,
        intermediate_size: intermediate_size(f, family)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: match f.map.contains_key("num_key_value_heads") {
            true => f.size("num_key_value_heads")?.unwrap_or(heads),
            false => default.num_key_value_heads.unwrap_or(heads),
        },
        head_dim,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps: f.number(family.keys.eps)?.unwrap_or(default.eps) as f32,
        rope_theta: rope.theta,
        // as the reference cuts it
        rotary_dim: (head_dim as f64 * rope.partial) as usize,
        rope_scaling: rope.scaling,
        rope_local_theta: rope.local_theta,
        query_growth: rope.query_growth,
        rotated,
        tie_word_embeddings: tied.unwrap_or(default.tie_word_embeddings),
        attention_bias: bias(family.biases.qkv)?,
        output_bias: bias(family.biases.output)?,
        mlp_bias: bias(family.biases.mlp)?,
        multipliers: multipliers(f, family)?,
        hidden_act: f.string(family.keys.activation)?.unwrap_or_else(|| family.mlp.activation.to_string()),
        sliding_window,
        windowed,
        query_pre_attn_scalar: match family.keys.query_pre_attn_scalar {
            true => Some(f.number("query_pre_attn_scalar")?.unwrap_or(256.0)),
            false => None,
        },
        attn_logit_softcapping: cap("attn_logit_softcapping", default.softcaps.0)?,
        final_logit_softcapping: cap("final_logit_softcapping", default.softcaps.1)?,
        bos_token_id: token("bos_token_id", default.bos.as_slice())?.first().copied(),
        eos_token_ids: token("eos_token_id", default.eos)?,
        pad_token_id: token("pad_token_id", default.pad.as_slice())?.first().copied(),
        short_convs: short_convs(f, family, layers)?,
        wrapped,
        family,
    })
}

fn multipliers(f: &Fields<'_>, family: Family) -> Result<Multipliers> {
    let number = |key: &str| Ok::<_, Error>(f.number(key)?.unwrap_or(1.0));
    Ok(match family.keys.multipliers {
        MultiplierKeys::None => Multipliers::default(),
        MultiplierKeys::Granite => Multipliers {
            embedding: number("embedding_multiplier")?,
            residual: number("residual_multiplier")?,
            attention: Some(number("attention_multiplier")?),
            logits: 1.0 / number("logits_scaling")?,
        },
        MultiplierKeys::Cohere => Multipliers {
            logits: f.number("logit_scale")?.unwrap_or(family.defaults.logit_scale),
            ..Multipliers::default()
        },
    })
}

/// Why there is no model in `folder`, which has no `config.json`.
fn without_config(folder: &Path) -> String {
    let has = |name: &str| folder.join(name).exists();
    let below = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    let below = below.flat_map(|p| [p.join("config.json"), p.join("model/config.json")]).filter(|p| p.exists()).min();
    let general = "is missing; give a folder with config.json and safetensors, or a .gguf file";
    if has("adapter_config.json") {
        return "is missing: this is the folder of an adapter; give it as ⟨adapter⟩, and its model as ⟨model⟩".into();
    }
    match below.as_deref().and_then(Path::parent) {
        Some(model) => format!("is missing here, but there is one in {}; give that folder", model.display()),
        None if has("params.json") => {
            "is missing: this is a model in its maker's own format; take the Hugging Face one".into()
        }
        None if has("model.safetensors") => format!("{general}; download config.json into this folder"),
        None => general.into(),
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = kind::read(path)?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::row(path, e.line().max(1), format!("is not a valid JSON object: {e}")))
}

/// Keys that change what the weights mean in ways that no decoder here follows.
fn refuse_unsupported(f: &Fields<'_>) -> Result<()> {
    if let Some(reason) = f.map.get("quantization_config").filter(|q| !q.is_null()).and_then(unread_quantisation) {
        return Err(f.error("quantization_config", reason));
    }
    // MLX writes its own key, with the bits and the elements of a group
    if let Some(bits) = f.map.get("quantization").and_then(|q| q.get("bits")) {
        let reason = format!("the quantisation of MLX, here {bits} bits, is not supported; {UNQUANTISED}");
        return Err(f.error("quantization", reason));
    }
    if f.bool("use_bidirectional_attention")? == Some(true) {
        return Err(f.error("use_bidirectional_attention", "is not supported: the model is no causal one"));
    }
    if f.size("num_local_experts")?.is_some_and(|n| n > 0) {
        return Err(f.error("num_local_experts", "mixtures of experts are not supported; take a dense model"));
    }
    Ok(())
}

/// The way out where weights are quantised in a form that is not read.
const UNQUANTISED: &str = "use the unquantised model, with ⟨quantize⟩ where memory is short, or a GGUF file";

/// Why weights that are quantised so are not read, if they are not.
fn unread_quantisation(q: &Value) -> Option<String> {
    let method = q["quant_method"].as_str().unwrap_or("unknown");
    match method {
        "fp8" => None,
        "bitsandbytes" if q["load_in_4bit"] == true && q["bnb_4bit_quant_type"] == "nf4" => None,
        "bitsandbytes" => Some(format!("of bitsandbytes only 4 bits of type nf4 are supported; {UNQUANTISED}")),
        _ => Some(format!(
            "the quantisation \"{method}\" is not supported, but bitsandbytes' nf4 and fp8 are; {UNQUANTISED}"
        )),
    }
}

/// Which layers' heads do not turn, where the configuration says it by itself.
fn unrotated(f: &Fields<'_>, family: Family, layers: usize) -> Result<Option<Vec<bool>>> {
    const KEY: &str = "no_rope_layers";
    let layers = layers.min(MAX_LAYERS); // validation refuses more
    match family.unrotated {
        Unrotated::None | Unrotated::WithoutWindow { .. } => Ok(None),
        Unrotated::ByKey => {
            let turns = f.string("position_embedding_type")?.is_some_and(|kind| kind == "rope");
            Ok(Some(vec![!turns; layers]))
        }
        Unrotated::Listed => {
            if let Some(list) = f.get(KEY, "list", |v| v.as_array().cloned())? {
                let one = |v: &Value| match v.as_u64() {
                    Some(turns @ (0 | 1)) => Ok(turns == 0),
                    _ => Err(f.error(KEY, format!("{v} is neither 1, for a layer that turns, nor 0"))),
                };
                // the list may go on behind the last layer
                return list.iter().take(layers).map(one).collect::<Result<_>>().map(Some);
            }
            let every = f.size("no_rope_layer_interval")?.unwrap_or(4);
            Ok(Some((0..layers).map(|i| every > 0 && (i + 1).is_multiple_of(every)).collect()))
        }
    }
}

/// The sliding window, and which layers have it.
fn windows(
    f: &Fields<'_>,
    family: Family,
    layers: usize,
    unrotated: Option<&[bool]>,
) -> Result<(Option<usize>, Vec<bool>)> {
    let rule = family.windowed;
    let on = match rule {
        Windowed::Never => false,
        Windowed::FromLayer | Windowed::Unrotated => f.bool("use_sliding_window")?.unwrap_or(false),
        Windowed::Always | Windowed::AllButEvery { .. } => true,
    };
    let given = f.map.contains_key("sliding_window");
    let window = if given { f.size("sliding_window")? } else { family.defaults.sliding_window };
    if window.is_none() && matches!(rule, Windowed::AllButEvery { optional: false, .. }) {
        return Err(f.error("sliding_window", "is null, but layers of this family need a window"));
    }
    let types = layer_types(f, family)?;
    let Some(window) = window.filter(|_| on) else { return Ok((None, windowed(Windowed::Never, layers, 0))) };
    let listed = match rule {
        Windowed::FromLayer | Windowed::Unrotated | Windowed::AllButEvery { .. } => types,
        Windowed::Never | Windowed::Always => None,
    };
    let windowed = match listed {
        Some(listed) => listed,
        None if rule == Windowed::Unrotated => unrotated.map_or_else(Vec::new, <[bool]>::to_vec),
        None => {
            // Gemma 2 has no such key
            let has_pattern = !matches!(rule, Windowed::AllButEvery { n: 2, .. });
            let rule = match rule {
                Windowed::AllButEvery { optional, .. } if has_pattern => match f.size("sliding_window_pattern")? {
                    Some(0) => return Err(f.error("sliding_window_pattern", "0 is no pattern")),
                    Some(n) => Windowed::AllButEvery { n, optional },
                    None => rule,
                },
                rule => rule,
            };
            windowed(rule, layers, f.size("max_window_layers")?.unwrap_or(28))
        }
    };
    Ok((Some(window).filter(|_| windowed.contains(&true)), windowed))
}

/// For each layer of the list `layer_types`, if there is one, whether it has the window.
fn layer_types(f: &Fields<'_>, family: Family) -> Result<Option<Vec<bool>>> {
    const KEY: &str = "layer_types";
    let Some(list) = f.get(KEY, "list", |v| v.as_array().cloned())? else { return Ok(None) };
    let kind = |v: &Value| match v.as_str() {
        Some("full_attention" | "attention") => Ok(false),
        Some("conv") if family.short_conv => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(f.error(KEY, format!("{v} is not supported; supported: full_attention, sliding_attention"))),
    };
    list.iter().map(kind).collect::<Result<_>>().map(Some)
}

/// Typed access to a JSON object; `null` counts as absent.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn error(&self, key: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::file(self.path, key, reason)
    }

    pub fn missing(&self, key: &str) -> Error {
        self.error(key, "this key is missing")
    }

    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.error(key, format!("{other} is no object"))),
        }
    }

    pub fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => read(v).map(Some).ok_or_else(|| self.error(key, format!("{v} is no {expected}"))),
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "size (a whole number, not negative)", |v| v.as_u64().and_then(|v| usize::try_from(v).ok()))
    }

    pub fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "number", Value::as_f64)
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    pub fn string(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "text", |v| v.as_str().map(String::from))
    }

    /// One token or a list of them; -1 stands for none in older files.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| match v.as_i64()? {
            -1 => Some(None),
            id => u32::try_from(id).ok().map(Some),
        };
        let ids = self.get(key, "token id or list of them", |v| match v {
            Value::Array(ids) => ids.iter().map(one).collect::<Option<Vec<_>>>(),
            v => one(v).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default().into_iter().flatten().collect())
    }
}
