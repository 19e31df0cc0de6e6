//! `config.json` and `generation_config.json` of a Hugging Face folder.

use super::{ModelConfig, RopeScaling, check_architecture};
use crate::error::{Error, Result};
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
            let reason = "is missing; give a folder with config.json and safetensors, or a .gguf file";
            return Err(Error::file(folder, "config.json", reason));
        }
        let json = read_object(&path)?;
        let f = Fields { path: &path, map: &json };
        let model_type = f.string("model_type")?.ok_or_else(|| f.missing("model_type"))?;
        check_architecture(&path, &model_type)?;
        refuse_unsupported(&f)?;

        let hidden_size = f.required("hidden_size")?;
        let heads = f.required("num_attention_heads")?;
        let (rope_theta, rope_scaling) = rope(&f)?;
        let sliding = f.bool("use_sliding_window")?.unwrap_or(true);
        let mut config = ModelConfig {
            hidden_size,
            intermediate_size: f.required("intermediate_size")?,
            num_hidden_layers: f.required("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: f.size("num_key_value_heads")?.unwrap_or(heads),
            // where heads is 0 validation says so
            head_dim: f.size("head_dim")?.unwrap_or(hidden_size.checked_div(heads).unwrap_or(8)),
            vocab_size: f.required("vocab_size")?,
            // what is absent below has the default of transformers' LlamaConfig
            max_position_embeddings: f.size("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: f.bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: f.bool("attention_bias")?.unwrap_or(false),
            mlp_bias: f.bool("mlp_bias")?.unwrap_or(false),
            hidden_act: f.string("hidden_act")?.unwrap_or_else(|| "silu".to_string()),
            sliding_window: f.size("sliding_window")?.filter(|_| sliding),
            bos_token_id: f.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: f.tokens("eos_token_id")?,
            pad_token_id: f.tokens("pad_token_id")?.first().copied(),
            model_type,
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

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::row(path, e.line().max(1), format!("is not a valid JSON object: {e}")))
}

/// Keys that change what the weights mean in ways that no decoder here follows.
fn refuse_unsupported(f: &Fields<'_>) -> Result<()> {
    if let Some(q) = f.map.get("quantization_config").filter(|q| !q.is_null()) {
        let method = q["quant_method"].as_str().unwrap_or("unknown");
        let reason =
            format!("the quantisation \"{method}\" is not supported; use the unquantised model or a GGUF file");
        return Err(f.error("quantization_config", reason));
    }
    match f.number("partial_rotary_factor")? {
        Some(p) if p != 1.0 => Err(f.error("partial_rotary_factor", format!("{p} is not supported, only 1"))),
        _ => Ok(()),
    }
}

/// `(theta, scaling)`: newer files have `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
fn rope(f: &Fields<'_>) -> Result<(f64, RopeScaling)> {
    let key =
        if f.map.get("rope_parameters").is_some_and(|v| !v.is_null()) { "rope_parameters" } else { "rope_scaling" };
    let map = match f.map.get(key) {
        None | Some(Value::Null) => return Ok((f.number("rope_theta")?.unwrap_or(10_000.0), RopeScaling::None)),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(f.error(key, format!("{other} is no object"))),
    };
    if map.values().any(Value::is_object) {
        return Err(f.error(key, "separate values by layer type are not supported"));
    }
    let r = Fields { path: f.path, map };
    let theta = match r.number("rope_theta")? {
        Some(theta) => theta,
        None => f.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let number = |name: &str| r.number(name)?.ok_or_else(|| f.error(format!("{key}.{name}"), "is missing"));
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
            return Err(f.error(key, reason));
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
