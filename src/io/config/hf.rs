//! `config.json` and `generation_config.json` of a Hugging Face folder.

use super::family::Windowed;
use super::{Family, ModelConfig, RopeScaling, find_family, windowed};
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
        let f = Fields { path: &path, map: &json };
        let model_type = f.string("model_type")?.ok_or_else(|| f.missing("model_type"))?;
        let family = find_family(&path, "model_type", &model_type, Family::of_hf)?;
        refuse_unsupported(&f)?;

        let hidden_size = f.required("hidden_size")?;
        let heads = f.required("num_attention_heads")?;
        let layers = f.required("num_hidden_layers")?;
        let rope = Rope::read(&f, family)?;
        let (sliding_window, windowed) = windows(&f, family, layers)?;
        let default = family.defaults();
        let cap = |key: &str, default: Option<f64>| -> Result<Option<f32>> {
            let value = if f.map.contains_key(key) { f.number(key)? } else { default };
            Ok(value.map(|v| v as f32).filter(|_| family.is_gemma()))
        };
        let vocab_size = f.required("vocab_size")?;
        let token = |key: &str, default: Option<u32>| match f.map.contains_key(key) {
            true => f.tokens(key),
            false => Ok(default.into_iter().filter(|id| (*id as usize) < vocab_size).collect()),
        };
        let mut config = ModelConfig {
            hidden_size,
            intermediate_size: f.required("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: match f.map.contains_key("num_key_value_heads") {
                true => f.size("num_key_value_heads")?.unwrap_or(heads),
                false => default.num_key_value_heads.unwrap_or(heads),
            },
            head_dim: match f.size("head_dim")?.or(default.head_dim) {
                Some(n) => n,
                // where heads is 0 validation says so
                None => hidden_size.checked_div(heads).unwrap_or(8),
            },
            vocab_size,
            max_position_embeddings: f.size("max_position_embeddings")?.unwrap_or(default.max_position_embeddings),
            rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(default.rms_norm_eps) as f32,
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            rope_local_theta: rope.local_theta,
            tie_word_embeddings: f.bool("tie_word_embeddings")?.unwrap_or(default.tie_word_embeddings),
            attention_bias: match family.qkv_bias() {
                Some(bias) => bias,
                None => f.bool("attention_bias")?.unwrap_or(false),
            },
            mlp_bias: f.bool("mlp_bias")?.unwrap_or(false) && family == Family::Llama,
            hidden_act: f.string(family.activation_key())?.unwrap_or_else(|| family.activation().to_string()),
            sliding_window,
            windowed,
            query_pre_attn_scalar: match family.is_gemma() {
                true => Some(f.number("query_pre_attn_scalar")?.unwrap_or(256.0)),
                false => None,
            },
            attn_logit_softcapping: cap("attn_logit_softcapping", default.softcaps.0)?,
            final_logit_softcapping: cap("final_logit_softcapping", default.softcaps.1)?,
            bos_token_id: token("bos_token_id", default.bos)?.first().copied(),
            eos_token_ids: token("eos_token_id", default.eos)?,
            pad_token_id: token("pad_token_id", default.pad)?.first().copied(),
            family,
        };

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
    if f.bool("use_bidirectional_attention")? == Some(true) {
        return Err(f.error("use_bidirectional_attention", "is not supported: the model is no causal one"));
    }
    refuse_partial_rotation(f)
}

/// Why weights that are quantised so are not read, if they are not.
fn unread_quantisation(q: &Value) -> Option<String> {
    let method = q["quant_method"].as_str().unwrap_or("unknown");
    let way_out = "use the unquantised model or a GGUF file";
    match method {
        "fp8" => None,
        "bitsandbytes" if q["load_in_4bit"] == true && q["bnb_4bit_quant_type"] == "nf4" => None,
        "bitsandbytes" => Some(format!("of bitsandbytes only 4 bits of type nf4 are supported; {way_out}")),
        _ => Some(format!(
            "the quantisation \"{method}\" is not supported, but bitsandbytes' nf4 and fp8 are; {way_out}"
        )),
    }
}

fn refuse_partial_rotation(f: &Fields<'_>) -> Result<()> {
    match f.number("partial_rotary_factor")? {
        Some(p) if p != 1.0 => Err(f.error("partial_rotary_factor", format!("{p} is not supported, only 1"))),
        _ => Ok(()),
    }
}

/// The sliding window, and which layers have it.
fn windows(f: &Fields<'_>, family: Family, layers: usize) -> Result<(Option<usize>, Vec<bool>)> {
    let rule = family.windowed();
    let on = match rule {
        Windowed::Never => false,
        Windowed::FromLayer => f.bool("use_sliding_window")?.unwrap_or(false),
        Windowed::Always | Windowed::AllButEvery(_) => true,
    };
    let given = f.map.contains_key("sliding_window");
    let window = if given { f.size("sliding_window")? } else { family.defaults().sliding_window };
    if window.is_none() && matches!(rule, Windowed::AllButEvery(_)) {
        return Err(f.error("sliding_window", "is null, but layers of this family need a window"));
    }
    let Some(window) = window.filter(|_| on) else { return Ok((None, windowed(Windowed::Never, layers, 0))) };
    let listed = match rule {
        Windowed::FromLayer | Windowed::AllButEvery(_) => layer_types(f)?,
        Windowed::Never | Windowed::Always => None,
    };
    let rule = match f.size("sliding_window_pattern")?.filter(|_| family == Family::Gemma3) {
        Some(0) => return Err(f.error("sliding_window_pattern", "0 is no pattern")),
        Some(n) => Windowed::AllButEvery(n),
        None => rule,
    };
    let by_rule = windowed(rule, layers, f.size("max_window_layers")?.unwrap_or(28));
    let windowed = listed.unwrap_or(by_rule);
    Ok((Some(window).filter(|_| windowed.contains(&true)), windowed))
}

/// The list `layer_types`, if there is one.
fn layer_types(f: &Fields<'_>) -> Result<Option<Vec<bool>>> {
    const KEY: &str = "layer_types";
    let Some(list) = f.get(KEY, "list", |v| v.as_array().cloned())? else { return Ok(None) };
    let kind = |v: &Value| match v.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(f.error(KEY, format!("{v} is not supported; supported: full_attention, sliding_attention"))),
    };
    list.iter().map(kind).collect::<Result<_>>().map(Some)
}

/// Rotary positions.
struct Rope {
    theta: f64,
    scaling: RopeScaling,
    local_theta: Option<f64>,
}

impl Rope {
    /// Newer files have `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
    fn read(f: &Fields<'_>, family: Family) -> Result<Rope> {
        let theta = f.number("rope_theta")?.unwrap_or(family.defaults().rope_theta);
        let local_theta = match family.defaults().rope_local_theta {
            Some(default) => Some(f.number("rope_local_base_freq")?.unwrap_or(default)),
            None => None,
        };
        let is_there = |key: &str| f.object(key).map(|map| map.is_some_and(|map| !map.is_empty()));
        let key = match (is_there("rope_parameters")?, is_there("rope_scaling")?) {
            (true, true) if local_theta.is_some() => {
                let reason = "and rope_scaling are both there; leave one of them out";
                return Err(f.error("rope_parameters", reason));
            }
            // where both are there transformers takes the older one
            (_, true) => "rope_scaling",
            _ => "rope_parameters",
        };
        let Some(map) = f.object(key)? else { return Ok(Rope { theta, scaling: RopeScaling::None, local_theta }) };
        if !map.values().any(Value::is_object) {
            let (theta, scaling) = one_rope(&Fields { path: f.path, map }, key, theta)?;
            if family == Family::Phi3 && scaling != RopeScaling::None {
                return Err(f.error(key, "Phi-3 has no scaling of this kind, only default is supported"));
            }
            return Ok(Rope { theta, scaling, local_theta });
        }
        let Some(local) = local_theta else {
            return Err(
                f.error(key, format!("separate values by layer type are not supported for {}", family.model_type()))
            );
        };
        let by_type = Fields { path: f.path, map };
        let part = |name: &str, theta: f64| match by_type.object(name)? {
            Some(map) => one_rope(&Fields { path: f.path, map }, &format!("{key}.{name}"), theta),
            None => Ok((theta, RopeScaling::None)),
        };
        let (local, local_scaling) = part("sliding_attention", local)?;
        if local_scaling != RopeScaling::None {
            return Err(
                f.error(format!("{key}.sliding_attention"), "scaling is not supported for layers with a window")
            );
        }
        let (theta, scaling) = part("full_attention", theta)?;
        Ok(Rope { theta, scaling, local_theta: Some(local) })
    }
}

/// `(theta, scaling)` of one object; `key` is its name.
fn one_rope(r: &Fields<'_>, key: &str, theta: f64) -> Result<(f64, RopeScaling)> {
    refuse_partial_rotation(r)?;
    let theta = r.number("rope_theta")?.unwrap_or(theta);
    let number = |name: &str| r.number(name)?.ok_or_else(|| r.error(format!("{key}.{name}"), "is missing"));
    let kind = match r.string("rope_type")? {
        Some(kind) => kind,
        None => r.string("type")?.unwrap_or_else(|| "default".to_string()),
    };
    let scaling = match kind.as_str() {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: r.required("original_max_position_embeddings")?,
        },
        _ => {
            let reason = format!("the scaling \"{kind}\" is not supported; supported: default, linear, llama3");
            return Err(r.error(key, reason));
        }
    };
    Ok((theta, scaling))
}

/// Typed access to a JSON object; `null` counts as absent.
struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn error(&self, key: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::file(self.path, key, reason)
    }

    fn missing(&self, key: &str) -> Error {
        self.error(key, "this key is missing")
    }

    fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.error(key, format!("{other} is no object"))),
        }
    }

    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => read(v).map(Some).ok_or_else(|| self.error(key, format!("{v} is no {expected}"))),
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "size (a whole number, not negative)", |v| v.as_u64().and_then(|v| usize::try_from(v).ok()))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "number", Value::as_f64)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    fn string(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "text", |v| v.as_str().map(String::from))
    }

    /// One token or a list of them; -1 stands for none in older files.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
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
