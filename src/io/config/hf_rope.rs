//! The rotary positions of a `config.json`.

use super::family::{Family, LocalRope};
use super::hf::Fields;
use super::rope::{longrope_attention_factor, yarn_attention_factor};
use super::{QueryGrowth, RopeScaling, Yarn};
use crate::error::Result;
use serde_json::Value;

/// Rotary positions.
pub(super) struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
    pub local_theta: Option<f64>,
    /// The part of a head that turns.
    pub partial: f64,
    pub query_growth: Option<QueryGrowth>,
}

/// What one object says.
struct One {
    theta: f64,
    scaling: RopeScaling,
    partial: f64,
    query_growth: Option<QueryGrowth>,
}

/// What stands around such an object.
struct Around<'a> {
    family: Family,
    theta: f64,
    partial: f64,
    /// Of the model, and of its pretraining where that stands beside the object.
    positions: usize,
    original: Option<usize>,
    key: &'a str,
}

impl Rope {
    /// Newer files have `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
    pub fn read(f: &Fields<'_>, family: Family, positions: usize) -> Result<Rope> {
        let theta = f.number("rope_theta")?.unwrap_or(family.defaults.rope_theta);
        let local_theta = match family.local_rope {
            LocalRope::Same => None,
            LocalRope::OwnTheta => Some(f.number("rope_local_base_freq")?.unwrap_or(family.defaults.rope_local_theta)),
            LocalRope::Unscaled => Some(theta),
        };
        let partial = partial(f, family)?.unwrap_or(family.defaults.partial_rotary_factor);
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
        let original = f.size("original_max_position_embeddings")?;
        let Some(map) = f.object(key)? else {
            return Ok(Rope { theta, scaling: RopeScaling::None, local_theta, partial, query_growth: None });
        };
        if !map.values().any(Value::is_object) {
            let One { theta, scaling, partial, query_growth } =
                Around { family, theta, partial, positions, original, key }.one(&Fields { path: f.path, map })?;
            // one base for all layers where the older form is used
            let local_theta = if family.local_rope == LocalRope::Unscaled { Some(theta) } else { local_theta };
            return Ok(Rope { theta, scaling, local_theta, partial, query_growth });
        }
        let Some(local) = local_theta else {
            return Err(
                f.error(key, format!("separate values by layer type are not supported for {}", family.model_type))
            );
        };
        let by_type = Fields { path: f.path, map };
        let part = |name: &str, theta: f64| {
            let key = &format!("{key}.{name}");
            let around = Around { family, theta, partial, positions, original, key };
            match by_type.object(name)? {
                Some(map) => around.one(&Fields { path: f.path, map }),
                None => Ok(One { theta, scaling: RopeScaling::None, partial, query_growth: None }),
            }
        };
        let local = part("sliding_attention", local)?;
        if local.scaling != RopeScaling::None || local.partial != partial {
            return Err(
                f.error(format!("{key}.sliding_attention"), "scaling is not supported for layers with a window")
            );
        }
        let One { theta, scaling, partial, query_growth } = part("full_attention", theta)?;
        Ok(Rope { theta, scaling, local_theta: Some(local.theta), partial, query_growth })
    }
}

/// The part of a head that turns, where it is said.
fn partial(f: &Fields<'_>, family: Family) -> Result<Option<f64>> {
    const KEY: &str = "partial_rotary_factor";
    match f.number(KEY)? {
        Some(part) if part != 1.0 && !family.partial_rope => {
            Err(f.error(KEY, format!("{part} is not supported for {}, only 1", family.model_type)))
        }
        part => Ok(part),
    }
}

impl Around<'_> {
    fn one(self, r: &Fields<'_>) -> Result<One> {
        let Around { family, key, .. } = self;
        let theta = r.number("rope_theta")?.unwrap_or(self.theta);
        let partial = partial(r, family)?.unwrap_or(self.partial);
        let number = |name: &str| r.number(name)?.ok_or_else(|| r.error(format!("{key}.{name}"), "is missing"));
        let kind = match r.string("rope_type")? {
            Some(kind) => kind,
            None => r.string("type")?.unwrap_or_else(|| "default".to_string()),
        };
        // Phi-3 says so for what others call longrope
        let is_phi = family.model_type == "phi3";
        let kind = if is_phi && matches!(kind.as_str(), "su" | "yarn") { "longrope" } else { kind.as_str() };
        if is_phi && !matches!(kind, "default" | "longrope") {
            return Err(r.error(key, "Phi-3 has no scaling of this kind, only default and longrope are supported"));
        }
        // what stands beside the object goes before what stands in it, and Phi-3 always has it there
        let inside = r.size("original_max_position_embeddings")?;
        let beside = self.original.or(is_phi.then_some(family.defaults.max_position_embeddings));
        let original = beside.or(inside).unwrap_or(self.positions);
        let factor = || match r.number("factor")? {
            Some(factor) => Ok(factor),
            None => Ok::<_, crate::error::Error>(self.positions as f64 / original.max(1) as f64),
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "dynamic" => match r.number("alpha")?.filter(|_| family.model_type == "hunyuan_v1_dense") {
                Some(alpha) if alpha != 0.0 => RopeScaling::NtkAlpha { alpha },
                _ => RopeScaling::Dynamic { factor: number("factor")? },
            },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: match beside.or(inside) {
                    Some(n) => n,
                    None => r.required("original_max_position_embeddings")?,
                },
            },
            "yarn" => {
                let factor = factor()?;
                let given = r.number("attention_factor")?;
                let (mscale, all) = (r.number("mscale")?, r.number("mscale_all_dim")?);
                RopeScaling::Yarn(Yarn {
                    factor,
                    attention_factor: given.unwrap_or_else(|| yarn_attention_factor(factor, mscale, all)),
                    beta_fast: r.number("beta_fast")?.filter(|b| *b != 0.0).unwrap_or(32.0),
                    beta_slow: r.number("beta_slow")?.filter(|b| *b != 0.0).unwrap_or(1.0),
                    truncate: r.bool("truncate")?.unwrap_or(true),
                    original_max_position_embeddings: original,
                })
            }
            "longrope" => {
                let factors = |name: &str| {
                    let list = r.get(name, "list of numbers", |v| {
                        v.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>()
                    })?;
                    list.ok_or_else(|| r.error(format!("{key}.{name}"), "is missing"))
                };
                let factor = factor()?;
                let given = r.number("attention_factor")?;
                RopeScaling::LongRope {
                    short: factors("short_factor")?,
                    long: factors("long_factor")?,
                    attention_factor: given.unwrap_or_else(|| longrope_attention_factor(factor, original)),
                    original_max_position_embeddings: original,
                }
            }
            _ => {
                let reason = format!(
                    "the scaling \"{kind}\" is not supported; supported: default, linear, dynamic, llama3, yarn, longrope"
                );
                return Err(r.error(key, reason));
            }
        };
        let growth = r.number("llama_4_scaling_beta")?.filter(|_| family.model_type == "ministral3");
        let query_growth = growth.map(|beta| QueryGrowth { beta, original });
        Ok(One { theta, scaling, partial, query_growth })
    }
}
