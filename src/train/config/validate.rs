//! The checks of a configuration: what no value may be, and which combinations mean nothing.

use super::{AdapterDtype, KEYS, Keep, Method, TrainConfig};
use crate::error::{Error, Result};
use crate::near::nearest;
use crate::train::phase::Schedule;

/// TOML's integers, and so those of `config.toml`, have 63 bits and a sign.
pub(super) const MAX_INTEGER: u64 = i64::MAX as u64;

/// Seconds of measurements, at most: an hour.
const MOST_TUNING: f64 = 3600.0;

/// Whether so many seconds can be given to measurements of tiles.
pub fn tune_seconds(seconds: f64) -> bool {
    seconds > 0.0 && seconds <= MOST_TUNING
}

/// An option that has no default and was not given.
pub(super) fn missing(key: &str) -> Error {
    Error::option(key, "not given; it is needed here or as a key in the file of ⟨config⟩")
}

/// Why a key is refused, with the one that it is near to.
pub(super) fn unknown_key(key: &str) -> String {
    match nearest(key, KEYS.iter().copied()) {
        Some(near) => format!("unknown key; the nearest known one is {near}"),
        None => "unknown key; rugosa train ⟨help⟩ lists them, with - where a file has _".into(),
    }
}

/// Checks every value and combination.
pub(super) fn check(c: &TrainConfig) -> Result<()> {
    values(c)?;
    counts(c)?;
    sizes(c)?;
    schedule(c)?;
    masks(c)?;
    evaluation(c)
}

fn refuse(condition: bool, key: &str, reason: impl FnOnce() -> String) -> Result<()> {
    if condition { Err(Error::option(key, reason())) } else { Ok(()) }
}

fn values(c: &TrainConfig) -> Result<()> {
    for (key, value) in
        [("batch_size", Some(c.batch_size)), ("gradient_accumulation_steps", c.gradient_accumulation_steps)]
    {
        refuse(value == Some(0), key, || "must be at least 1".into())?;
    }
    refuse(c.seq_len < 2, "seq_len", || format!("{} leaves no next token to learn; use at least 2", c.seq_len))?;
    refuse(c.mask_grads == Some(0), "mask_grads", || "must be at least 1; to collect nothing give ⟨mask⟩ FILE".into())?;
    refuse(c.keep_states == 0, "keep_states", || "must be at least 1; ⟨save_steps⟩ 0 saves none".into())?;
    refuse(c.limit == Some(0), "limit", || "must be at least 1; leave it out for all rows".into())?;
    refuse(c.log_steps == 0, "log_steps", || "must be at least 1".into())?;

    // `!(in range)` so that NaN is refused too
    for (key, value) in [("dropout", c.dropout), ("beta1", c.beta1), ("beta2", c.beta2)] {
        refuse(!(0.0..1.0).contains(&value), key, || format!("{value} is outside of 0 (included) to 1 (excluded)"))?;
    }
    let rates =
        [("lr", c.lr), ("lora_lr", c.lora_lr), ("weight_decay", c.weight_decay), ("max_grad_norm", c.max_grad_norm)];
    for (key, value) in rates {
        refuse(!(value >= 0.0 && value.is_finite()), key, || format!("{value} is no finite number of 0 or more"))?;
    }
    refuse(!(c.eps > 0.0 && c.eps.is_finite()), "eps", || format!("{} is no finite number over 0; try 1e-8", c.eps))?;

    for (key, value) in rates.into_iter().chain([("eps", c.eps), ("alpha", c.alpha)]) {
        refuse(value.is_finite() && !fits(value), key, || {
            format!("{value:e} is no number that f32 holds, in which all is computed; keep to 1e-37 to 1e38")
        })?;
    }

    if let Some(seconds) = c.tune {
        refuse(!tune_seconds(seconds), "tune", || {
            format!("{seconds} is outside of 0 (excluded) to {MOST_TUNING} seconds")
        })?;
    }

    let alphas = std::iter::once(("alpha", "", c.alpha));
    let alphas = alphas.chain(c.alpha_pattern.0.iter().map(|(m, &a)| ("alpha_pattern", m.as_str(), a)));
    for (key, module, alpha) in alphas {
        refuse(!(alpha > 0.0 && alpha.is_finite()), key, || {
            format!("{}{alpha} is no finite number over 0", of(module))
        })?;
    }
    let densities = std::iter::once(("density", "", c.density));
    let densities = densities.chain(c.density_pattern.0.iter().map(|(m, &d)| ("density_pattern", m.as_str(), d)));
    for (key, module, density) in densities {
        refuse(!(0.0..=1.0).contains(&density), key, || {
            format!("{}{density} is outside of 0 to 1; it is a share, 0.006 for 0.6 %", of(module))
        })?;
    }
    for (key, field) in [("prompt_field", &c.prompt_field), ("response_field", &c.response_field)] {
        refuse(field.is_empty(), key, || "is empty; give the key of the rows".into())?;
    }
    refuse(c.prompt_field == c.response_field, "response_field", || {
        format!("\"{}\" is the prompt's field too; give the response's own", c.response_field)
    })
}

/// Whether f32 holds this number, other than as infinity or as zero.
fn fits(value: f64) -> bool {
    (value as f32).is_finite() && (value == 0.0 || value as f32 != 0.0)
}

fn of(module: &str) -> String {
    if module.is_empty() { String::new() } else { format!("{module}=") }
}

fn counts(c: &TrainConfig) -> Result<()> {
    refuse(c.steps.is_some() && c.epochs.is_some(), "steps", || "given together with epochs; give one of them".into())?;
    refuse(c.steps == Some(0), "steps", || "must be at least 1".into())?;
    if let Some(epochs) = c.epochs {
        refuse(!(epochs > 0.0 && epochs.is_finite()), "epochs", || format!("{epochs} is no finite number over 0"))?;
    }
    let integers =
        [("seed", c.seed), ("save_steps", c.save_steps), ("log_steps", c.log_steps), ("steps", c.steps.unwrap_or(0))];
    let optional =
        [("warmup_steps", c.warmup_steps), ("eval_steps", c.eval_steps), ("early_stopping", c.early_stopping)];
    for (key, value) in integers.into_iter().chain(optional.map(|(key, value)| (key, value.unwrap_or(0)))) {
        refuse(value > MAX_INTEGER, key, || format!("{value} is over {MAX_INTEGER}, the most that a file can hold"))?;
    }
    c.steps.map_or(Ok(()), |steps| length(c, steps))
}

/// What does not go with a run of `steps` steps. The paper's warm-up is left as it is: a line before the run says so.
pub(super) fn length(c: &TrainConfig, steps: u64) -> Result<()> {
    let warmup = c.warmup_steps.filter(|w| *w > steps && !c.like_paper).unwrap_or(0);
    refuse(warmup > 0, "warmup_steps", || {
        format!("{warmup} is more than the {steps} steps of the run; use fewer, or more ⟨steps⟩ or ⟨epochs⟩")
    })
}

/// Every half that a method has must have a size.
fn sizes(c: &TrainConfig) -> Result<()> {
    let rank = c.rank > 0 || c.rank_pattern.0.values().any(|&r| r > 0);
    let density = c.density > 0.0 || c.density_pattern.0.values().any(|&d| d > 0.0);
    match c.method {
        Method::Rosa => {
            refuse(!rank, "rank", || "0 with method rosa; for sparse adapters alone use ⟨method⟩ spa".into())?;
            refuse(!density, "density", || "0 with method rosa; for low-rank adapters alone use ⟨method⟩ lora".into())
        }
        Method::Lora => refuse(!rank, "rank", || "0 with method lora leaves nothing to train; use ⟨rank⟩ 8".into()),
        Method::Spa => {
            refuse(!density, "density", || "0 with method spa leaves nothing to train; use ⟨density⟩ 0.006".into())
        }
        Method::Full => Ok(()),
    }
}

fn schedule(c: &TrainConfig) -> Result<()> {
    let Some(schedule) = c.schedule else { return Ok(()) };
    let way_out = match (c.method, schedule) {
        (Method::Rosa, Schedule::LoraOnly) => "use ⟨method⟩ lora, or ⟨schedule⟩ wl64",
        (Method::Lora, Schedule::WarmLora(_) | Schedule::SpaOnly) => "use ⟨schedule⟩ lora_only, or ⟨method⟩ rosa",
        (Method::Spa, Schedule::WarmLora(1..) | Schedule::LoraOnly) => "use ⟨schedule⟩ spa_only, or ⟨method⟩ rosa",
        (Method::Full, s) if s != Schedule::WarmLora(0) => "leave ⟨schedule⟩ out, or use ⟨method⟩ rosa",
        _ => return Ok(()),
    };
    let method = match c.method {
        Method::Rosa => "rosa",
        Method::Lora => "lora",
        Method::Spa => "spa",
        Method::Full => "full",
    };
    refuse(true, "schedule", || format!("{schedule} does not go with method {method}; {way_out}"))
}

fn masks(c: &TrainConfig) -> Result<()> {
    if matches!(c.method, Method::Lora | Method::Full) {
        let asked = [("mask", c.mask.is_some()), ("save_mask", c.save_mask.is_some()), ("mask_only", c.mask_only)];
        for (key, given) in asked {
            refuse(given, key, || "this method has no masks; leave it out, or use ⟨method⟩ rosa or spa".into())?;
        }
    }
    refuse(c.method == Method::Full && c.init_adapter.is_some(), "init_adapter", || {
        "method full trains no adapter; leave it out, or use ⟨method⟩ rosa".into()
    })?;
    refuse(c.method == Method::Full && c.adapter_dtype != AdapterDtype::F32, "adapter_dtype", || {
        "method full trains no adapter, and its weights are stepped in f32; leave it out, or use ⟨method⟩ rosa".into()
    })?;
    refuse(c.method == Method::Full && c.quantize.is_some(), "quantize", || {
        "method full trains the weights themselves, in f32; leave it out, or use ⟨method⟩ rosa".into()
    })?;
    refuse(c.mask_only && c.mask.is_some(), "mask_only", || {
        "the masks are given with ⟨mask⟩ already; leave one of them out".into()
    })
}

fn evaluation(c: &TrainConfig) -> Result<()> {
    refuse(c.eval_data.is_some() && c.eval_split.is_some(), "eval_split", || {
        "given together with eval_data; give one of them".into()
    })?;
    if let Some(share) = c.eval_split {
        refuse(!(share > 0.0 && share < 1.0), "eval_split", || {
            format!("{share} is outside of 0 to 1 (both excluded); it is a share, 0.05 for 5 %")
        })?;
    }
    for (key, value) in [("eval_steps", c.eval_steps), ("early_stopping", c.early_stopping)] {
        refuse(value == Some(0), key, || "must be at least 1; leave it out for none".into())?;
    }
    refuse(c.eval_tokens == 0, "eval_tokens", || "must be at least 1".into())?;
    let without_rows = [
        ("keep", c.keep == Keep::Best),
        ("early_stopping", c.early_stopping.is_some()),
        ("eval_answers", c.eval_answers > 0),
    ];
    for (key, asked) in without_rows {
        refuse(asked && !c.has_eval_rows(), key, || {
            "needs rows to evaluate on: ⟨eval_data⟩ FILE or ⟨eval_split⟩ 0.05".into()
        })?;
    }
    refuse(c.eval_steps.is_some() && !c.evaluates(), "eval_steps", || {
        "there is nothing to evaluate; give ⟨eval_data⟩ FILE, ⟨eval_split⟩ 0.05 or ⟨sample_prompts⟩ FILE".into()
    })?;
    for (key, asked) in [("keep", c.keep == Keep::Best), ("early_stopping", c.early_stopping.is_some())] {
        refuse(asked && c.mask_only, key, || "with mask_only no values are kept; leave one of them out".into())?;
    }
    Ok(())
}
