//! `adapter_config.json`.

use super::pattern::{self, Pattern};
use super::supertuning;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The format of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// The original RoSA code's: low-rank, sparse (`r` 0) or both.
    Rosa,
    /// PEFT's LoRA.
    Lora,
    /// PEFT's SUPERTUNING: sparse values, and where there is a rank a LoRA, on the same linears.
    Supertuning,
}

/// Which linears have an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Names or their ends, `q_proj`.
    Names(Vec<String>),
    /// `all-linear`, or a regular expression.
    Pattern(String),
}

impl Targets {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
        }
    }
}

/// What an adapter is. Defaults of keys that a file leaves out are those of the code that the format comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub kind: AdapterKind,
    /// Rank; 0 for none.
    pub r: usize,
    pub lora_alpha: f64,
    /// The low-rank part is scaled by `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
    pub lora_dropout: f64,
    /// Share of a matrix that the sparse part holds (`d`); 0 for none.
    pub density: f64,
    pub target_modules: Targets,
    pub rank_pattern: Pattern<usize>,
    pub alpha_pattern: Pattern<f64>,
    pub density_pattern: Pattern<f64>,
    pub base_model_name_or_path: Option<String>,
    /// RoSA's `wl64`, `default`, `spa_only` or `lora_only`.
    pub schedule: Option<String>,
    /// Optimiser steps whose gradients choose the mask.
    pub spa_num_grads: usize,
    /// `mean_squared` or `mean`.
    pub grad_acc_mode: String,
    /// All other keys, kept as they were read.
    pub extra: Map<String, Value>,
}

impl AdapterConfig {
    /// The defaults of `kind`, for all linears.
    pub fn new(kind: AdapterKind) -> Self {
        let rank = if kind == AdapterKind::Supertuning { 0 } else { 8 };
        AdapterConfig {
            kind,
            r: rank,
            lora_alpha: rank as f64,
            use_rslora: false,
            lora_dropout: 0.0,
            density: match kind {
                AdapterKind::Rosa => 0.003,
                AdapterKind::Lora => 0.0,
                AdapterKind::Supertuning => 1.0 - supertuning::SPARSITY,
            },
            target_modules: Targets::Pattern("all-linear".to_string()),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            density_pattern: Vec::new(),
            base_model_name_or_path: None,
            schedule: None,
            spa_num_grads: 1,
            grad_acc_mode: "mean_squared".to_string(),
            extra: Map::new(),
        }
    }

    /// The rank of `module`.
    pub fn rank(&self, module: &str) -> usize {
        pattern::lookup(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// The alpha of `module`.
    pub fn alpha(&self, module: &str) -> f64 {
        pattern::lookup(&self.alpha_pattern, module).unwrap_or(self.lora_alpha)
    }

    /// The density of `module`.
    pub fn density_of(&self, module: &str) -> f64 {
        pattern::lookup(&self.density_pattern, module).unwrap_or(self.density)
    }

    /// What the low-rank product of `module` is multiplied by; 1 where the rank is 0. The sparse part has no scale.
    pub fn scale(&self, module: &str) -> f64 {
        match (self.rank(module), self.use_rslora) {
            (0, _) => 1.0,
            (r, false) => self.alpha(module) / r as f64,
            (r, true) => self.alpha(module) / (r as f64).sqrt(),
        }
    }

    /// Reads `path`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = crate::io::kind::read(path)?;
        let mut map: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|e| Error::row(path, e.line().max(1), format!("is not a valid JSON object: {e}")))?;
        let kind = match map.get("peft_type").and_then(Value::as_str) {
            Some("ROSA") => AdapterKind::Rosa,
            Some("LORA") => AdapterKind::Lora,
            Some("SUPERTUNING") => AdapterKind::Supertuning,
            Some(other) => {
                let reason =
                    format!("the adapter type \"{other}\" is not supported; supported: LORA, ROSA, SUPERTUNING");
                return Err(Error::file(path, "peft_type", reason));
            }
            None => return Err(Error::file(path, "peft_type", "this key is missing, so this is no PEFT adapter")),
        };
        map.remove("peft_type");
        refuse_unsupported(path, &map)?;
        let defaults = AdapterConfig::new(kind);
        let mut take = Taker { path, map: &mut map };
        let alpha = take.key("lora_alpha", "number", finite)?;
        let mut config = AdapterConfig {
            kind,
            r: take.key("r", "rank from 0 on", size)?.unwrap_or(defaults.r),
            lora_alpha: alpha.unwrap_or(defaults.lora_alpha),
            use_rslora: take.key("use_rslora", "true or false", Value::as_bool)?.unwrap_or(false),
            lora_dropout: take.key("lora_dropout", "share from 0 to 1", share)?.unwrap_or(0.0),
            target_modules: take.key("target_modules", "name or list of names", targets)?.ok_or_else(|| {
                Error::file(path, "target_modules", "this key is missing; without it the adapted linears are unknown")
            })?,
            rank_pattern: take.pattern("rank_pattern", size)?,
            alpha_pattern: take.pattern("alpha_pattern", finite)?,
            base_model_name_or_path: take.key("base_model_name_or_path", "text", text_of)?,
            ..defaults
        };
        if kind == AdapterKind::Rosa {
            config.density = take.key("d", "share from 0 to 1", share)?.unwrap_or(config.density);
            config.density_pattern = take.pattern("density_pattern", share)?;
            config.schedule = take.key("schedule", "text", text_of)?;
            config.spa_num_grads = take.key("spa_num_grads", "count", size)?.unwrap_or(1);
            if let Some(mode) = take.key("grad_acc_mode", "text", text_of)? {
                config.grad_acc_mode = mode;
            }
        }
        if kind == AdapterKind::Supertuning {
            if alpha.is_none() {
                config.lora_alpha = 2.0 * config.r as f64;
            }
            let sparsity = supertuning::sparsity_of(path, &map)?;
            // 0.02 where 0.98 is left, not 0.020000000000000018
            let short = ((1.0 - sparsity) * 1e15).round() / 1e15;
            config.density = if 1.0 - short == sparsity { short } else { 1.0 - sparsity };
        }
        config.extra = map;
        Ok(config)
    }

    /// The whole object, keys sorted.
    pub fn to_json(&self) -> Value {
        if self.kind == AdapterKind::Supertuning {
            return supertuning::to_json(self);
        }
        let mut map = default_keys(self.kind);
        map.extend(self.extra.clone());
        let mut put = |key: &str, value: Value| map.insert(key.to_string(), value);
        put("r", json!(self.r));
        put("lora_alpha", number(self.lora_alpha));
        put("use_rslora", json!(self.use_rslora));
        put("lora_dropout", json!(self.lora_dropout));
        put("rank_pattern", object(&self.rank_pattern, |&v| json!(v)));
        put("alpha_pattern", object(&self.alpha_pattern, |&v| number(v)));
        put("base_model_name_or_path", json!(self.base_model_name_or_path));
        put("target_modules", self.target_modules.to_json());
        let kind = if self.kind == AdapterKind::Rosa { "ROSA" } else { "LORA" };
        put("peft_type", json!(kind));
        if self.kind == AdapterKind::Rosa {
            put("d", json!(self.density));
            put("density_pattern", object(&self.density_pattern, |&v| json!(v)));
            put("schedule", json!(self.schedule));
            put("spa_num_grads", json!(self.spa_num_grads));
            put("grad_acc_mode", json!(self.grad_acc_mode));
        }
        map.sort_keys();
        Value::Object(map)
    }

    /// Writes `path`, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, |w| writeln!(w, "{:#}", self.to_json()))
    }
}

/// Keys that both formats' readers expect, with the values that mean "nothing special". Only keys that every release
/// of PEFT knows: older ones stop at unknown ones.
pub(super) fn default_keys(kind: AdapterKind) -> Map<String, Value> {
    let common = json!({
        "auto_mapping": null,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "revision": null,
        "task_type": "CAUSAL_LM",
    });
    let rosa = json!({
        "impl": "auto",
        "mask_load_path": null,
        "mask_save_path": null,
        "rosa_dtype": "fp32",
        "spa_store_transpose": true,
        "terminate_after_mask_generation": false,
    });
    let objects = [Some(common), (kind == AdapterKind::Rosa).then_some(rosa)];
    let entries = objects.into_iter().flatten().filter_map(|v| v.as_object().cloned());
    entries.flatten().collect()
}

/// Options that change what the tensors mean in ways that are not followed here.
fn refuse_unsupported(path: &Path, map: &Map<String, Value>) -> Result<()> {
    let harmless = |key: &str, value: &Value| match (key, value) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(items)) => items.is_empty(),
        (_, Value::Object(items)) => items.is_empty(),
        ("bias", Value::String(s)) => s == "none",
        // other ways to begin change the model's own weights
        ("init_lora_weights", Value::Bool(true)) => true,
        ("init_lora_weights", Value::String(s)) => matches!(s.as_str(), "gaussian" | "eva" | "orthogonal"),
        _ => false,
    };
    const KEYS: [&str; 12] = [
        "alora_invocation_tokens",
        "arrow_config",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "layer_replication",
        "lora_bias",
        "modules_to_save",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_qalora",
    ];
    for key in KEYS {
        if let Some(value) = map.get(key).filter(|v| !harmless(key, v)) {
            return Err(Error::file(
                path,
                key,
                format!("{value} is not supported; merge that adapter with PEFT instead"),
            ));
        }
    }
    Ok(())
}

/// Takes typed values out of an object; `null` counts as absent.
struct Taker<'a> {
    path: &'a Path,
    map: &'a mut Map<String, Value>,
}

impl Taker<'_> {
    fn key<T>(&mut self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => read(&v).map(Some).ok_or_else(|| Error::file(self.path, key, format!("{v} is no {expected}"))),
        }
    }

    fn pattern<T>(&mut self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Pattern<T>> {
        let entries = self.key(key, "object", |v| v.as_object().cloned())?.unwrap_or_default();
        let entry = |(name, value): (String, Value)| {
            if pattern::is_regex(&name) {
                let reason = format!("\"{name}\" is a regular expression, which is not supported; list the modules");
                return Err(Error::file(self.path, key, reason));
            }
            let value = read(&value)
                .ok_or_else(|| Error::file(self.path, format!("{key}.{name}"), format!("{value} is out of range")))?;
            Ok((name, value))
        };
        entries.into_iter().map(entry).collect()
    }
}

fn size(v: &Value) -> Option<usize> {
    // above this a rank is a mistake, and sizes computed from it could overflow
    v.as_u64().filter(|&n| n <= 1 << 24).map(|n| n as usize)
}

fn finite(v: &Value) -> Option<f64> {
    v.as_f64().filter(|v| v.is_finite())
}

fn share(v: &Value) -> Option<f64> {
    v.as_f64().filter(|v| (0.0..=1.0).contains(v))
}

fn text_of(v: &Value) -> Option<String> {
    v.as_str().map(String::from)
}

fn targets(v: &Value) -> Option<Targets> {
    match v {
        Value::String(s) => Some(Targets::Pattern(s.clone())),
        _ => v.as_array()?.iter().map(text_of).collect::<Option<_>>().map(Targets::Names),
    }
}

/// A whole number without a fraction, as PEFT's own files have it.
pub(super) fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 1e15 { json!(v as i64) } else { json!(v) }
}

fn object<T>(pattern: &Pattern<T>, value: impl Fn(&T) -> Value) -> Value {
    pattern.iter().map(|(k, v)| (k.clone(), value(v))).collect::<Map<_, _>>().into()
}
