//! The rotary positions of a GGUF file.

use super::family::Family;
use super::gguf::Fields;
use super::rope::{longrope_attention_factor, yarn_attention_factor};
use super::{QueryGrowth, RopeScaling, Yarn};
use crate::dtype::DType;
use crate::error::Result;

const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";
const DIVISORS: &str = "rope_freqs.weight";

/// What surrounds the keys of scalings.
pub(super) struct Around<'a> {
    pub theta: f64,
    /// Elements of a head that turn.
    pub dim: usize,
    pub positions: usize,
    pub key: &'a dyn Fn(&str) -> String,
}

/// How many elements of a head of `head_dim` turn.
pub(super) fn rotary_dim(
    f: &Fields<'_>,
    family: Family,
    head_dim: usize,
    key: &dyn Fn(&str) -> String,
) -> Result<usize> {
    let key = key("rope.dimension_count");
    Ok(f.size(&key)?.filter(|_| family.partial_rope).unwrap_or(head_dim))
}

/// How queries grow, in families in which they do.
pub(super) fn query_growth(f: &Fields<'_>, around: &Around<'_>) -> Result<Option<QueryGrowth>> {
    let beta = f.written(&(around.key)("attention.temperature_scale"))?.filter(|beta| *beta != 0.0);
    let original = f.size(&(around.key)("rope.scaling.original_context_length"))?;
    Ok(beta.map(|beta| QueryGrowth { beta, original: original.unwrap_or(around.positions) }))
}

/// How frequencies are scaled.
pub(super) fn scaling(f: &Fields<'_>, around: &Around<'_>) -> Result<RopeScaling> {
    let key = around.key;
    if f.file.shape(DIVISORS).is_some() {
        return llama3(f, around.theta, around.dim);
    }
    if f.file.shape(LONG).is_some() {
        return longrope(f, around);
    }
    let factor_key = key("rope.scaling.factor");
    let factor = f.written(&factor_key)?;
    let needed = || factor.ok_or_else(|| f.missing(&factor_key));
    match f.text(&key("rope.scaling.type"))? {
        None => Ok(match f.written(&key("rope.scale_linear"))? {
            Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
            _ => RopeScaling::None,
        }),
        Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: needed()? }),
        Some("yarn") => yarn(f, around, needed()?),
        Some(kind) => {
            let reason =
                format!("the scaling \"{kind}\" is not supported; supported: none, linear, yarn, longrope, llama3");
            Err(f.error(&key("rope.scaling.type"), reason))
        }
    }
}

fn yarn(f: &Fields<'_>, around: &Around<'_>, factor: f64) -> Result<RopeScaling> {
    let number = |suffix: &str| f.written(&(around.key)(&format!("rope.scaling.{suffix}")));
    let given = number("yarn_attn_factor")?.map_or_else(|| number("attn_factor"), |given| Ok(Some(given)))?;
    // files say the one of two multipliers that differs between models
    let log_multiplier = number("yarn_log_multiplier")?.filter(|m| *m != 0.0);
    let attention_factor =
        given.unwrap_or_else(|| yarn_attention_factor(factor, log_multiplier.map(|_| 1.0), log_multiplier));
    let original = f.size(&(around.key)("rope.scaling.original_context_length"))?;
    Ok(RopeScaling::Yarn(Yarn {
        factor,
        attention_factor,
        beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
        truncate: true,
        original_max_position_embeddings: original.unwrap_or(around.positions),
    }))
}

/// Each frequency's factor stands in a tensor.
fn longrope(f: &Fields<'_>, around: &Around<'_>) -> Result<RopeScaling> {
    let original = f.size(&(around.key)("rope.scaling.original_context_length"))?.unwrap_or(around.positions);
    let given = f.written(&(around.key)("rope.scaling.attn_factor"))?;
    let factor = around.positions as f64 / original.max(1) as f64;
    Ok(RopeScaling::LongRope {
        short: numbers(f, SHORT, around.dim)?.into_iter().map(written).collect(),
        long: numbers(f, LONG, around.dim)?.into_iter().map(written).collect(),
        attention_factor: given.unwrap_or_else(|| longrope_attention_factor(factor, original)),
        original_max_position_embeddings: original,
    })
}

/// The f64 of the decimal digits that an f32 was written with.
pub(super) fn written(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

/// A tensor with a number for each frequency.
fn numbers(f: &Fields<'_>, name: &str, dim: usize) -> Result<Vec<f32>> {
    if f.file.shape(name).is_none() {
        return Err(f.missing(name));
    }
    let tensor = f.file.tensor(name)?;
    if tensor.dtype != DType::F32 || tensor.shape != [dim / 2] || dim < 2 {
        let reason = format!("{:?} of {} found, [{}] of F32 expected", tensor.shape, tensor.dtype, dim / 2);
        return Err(f.error(name, reason));
    }
    Ok(bytemuck::pod_collect_to_vec::<u8, f32>(&tensor.data))
}

/// Converters write the result of Llama 3's scaling, one divisor for each frequency, instead of its constants. All
/// models published with it share three of the four constants, so the fourth can be read off the slowest frequency;
/// that the guess gives back every divisor is checked.
fn llama3(f: &Fields<'_>, theta: f64, dim: usize) -> Result<RopeScaling> {
    let found: Vec<f64> = numbers(f, DIVISORS, dim)?.into_iter().map(f64::from).collect();
    let scaling = RopeScaling::Llama3 {
        factor: found[found.len() - 1],
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = RopeScaling::None.frequencies(theta, dim, false);
    // converters compute in f32, which is 3e-7 off at most
    let close = |(found, plain): (&f64, f64)| (found / scaling.divisor(plain) - 1.0).abs() <= 1e-6;
    if found.iter().all(|&d| d == 1.0) {
        Ok(RopeScaling::None)
    } else if found.iter().zip(plain).all(close) {
        Ok(scaling)
    } else {
        Err(f.error(
            DIVISORS,
            "these frequency divisors are not those of Llama 3's scaling; use the Hugging Face folder",
        ))
    }
}
