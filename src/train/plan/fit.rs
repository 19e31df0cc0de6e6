//! Whether a run fits into a device's memory, and the smallest change with which it would.

use super::samples::{Samples, alike, largest, samples};
use super::{MemoryPlan, Run, record};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::train::config::{ByteSize, Checkpointing, TrainConfig};
use crate::train::phase::Phase;

/// Bytes of the device's memory that a run may take: as the configuration says, or as the driver does; none where neither says.
pub fn limit(config: &TrainConfig, caps: &Caps) -> Option<u64> {
    config.vram.map(|size| size.0).or(caps.memory)
}

/// Refuses a run whose plan takes more than there is.
///
/// # Errors
/// [`Error::DoesNotFit`], with the smallest change that would help.
pub fn check(run: &Run<'_>, plan: &MemoryPlan) -> Result<()> {
    let Some(available) = limit(run.config, run.caps).filter(|limit| plan.total > *limit) else { return Ok(()) };
    let hint = match smallest_change(run, plan, available)? {
        Some(change) => format!("{change} would fit"),
        None => nothing_helps(plan),
    };
    Err(Error::DoesNotFit { device: run.caps.name.clone(), needed: plan.total, available, hint })
}

/// What to say where no option makes the run small enough.
pub fn nothing_helps(plan: &MemoryPlan) -> String {
    let weights = plan.rows.iter().find(|row| row.0 == "weights").map_or(0, |row| row.1);
    format!(
        "no other batch, sequence or checkpointing would fit; the weights take {} of it, so use a model in a smaller format",
        super::size(weights)
    )
}

/// The micro-batches with the most memory, with the options of `config`.
fn worst(run: &Run<'_>, config: &TrainConfig) -> Result<[Samples; 3]> {
    let all = samples(run, &config.batch_options())?;
    Ok(all.map(|samples| Samples { others: Vec::new(), ..samples }))
}

/// Whether `run` with other options takes at most `limit` bytes.
fn with(run: &Run<'_>, config: &TrainConfig, batches: &[Samples; 3], limit: u64) -> Result<bool> {
    match record(&Run { config, ..run.clone() }, batches) {
        Ok(plan) => Ok(plan.memory.total <= limit),
        Err(Error::TooLarge { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The flags of the smallest change with which `run`, whose plan is `plan`, takes at most `limit` bytes: first those that
/// change nothing but the time, then shorter sequences.
///
/// # Errors
/// Those of the plan, but for what is too large.
pub fn smallest_change(run: &Run<'_>, plan: &MemoryPlan, limit: u64) -> Result<Option<String>> {
    let mut config = run.config.clone();
    let mut flags = Vec::new();
    let mut batches = worst(run, &config)?;
    let peak = plan.phases.iter().max_by_key(|phase| phase.1).map(|phase| phase.0);
    if peak == Some(Phase::Collect) && config.mask_workspace.0 > 0 {
        for workspace in [256 << 20, 64 << 20, 0] {
            config.mask_workspace = ByteSize(workspace.min(config.mask_workspace.0));
            if with(run, &config, &batches, limit)? {
                return Ok(Some(format!("⟨mask_workspace⟩ {}", config.mask_workspace)));
            }
        }
        flags.push(format!("⟨mask_workspace⟩ {}", config.mask_workspace));
    }
    let (size, steps) = (config.batch_size, config.micro_batches());
    while config.batch_size > 1 {
        config.batch_size /= 2;
        let steps = steps.saturating_mul(size.div_ceil(config.batch_size));
        batches = worst(run, &config)?;
        if with(run, &config, &batches, limit)? {
            flags.push(format!("⟨batch_size⟩ {} ⟨gradient_accumulation_steps⟩ {steps}", config.batch_size));
            return Ok(Some(flags.join(" ")));
        }
    }
    if size > 1 {
        flags.push(format!("⟨batch_size⟩ 1 ⟨gradient_accumulation_steps⟩ {}", steps.saturating_mul(size)));
    }
    // a buffer that is too large on its own is so with checkpointing too
    if config.checkpointing == Checkpointing::OFF && limit < u64::MAX {
        config.checkpointing = Checkpointing::LAYER;
        if with(run, &config, &batches, limit)? {
            // alone it may do as well
            let alone = TrainConfig { checkpointing: Checkpointing::LAYER, ..run.config.clone() };
            if with(run, &alone, &worst(run, &alone)?, limit)? {
                return Ok(Some("⟨checkpointing⟩ layer".into()));
            }
            flags.push("⟨checkpointing⟩ layer".into());
            return Ok(Some(flags.join(" ")));
        }
        flags.push("⟨checkpointing⟩ layer".into());
    }
    let mut length = batches.iter().flat_map(|samples| &samples.worst).map(|b| b.len()).max().unwrap_or(0);
    // a token to learn must be left in some row
    let shortest = run.dataset.and_then(|d| d.examples().map(|e| e.prompt_len() + 1).min()).unwrap_or(0).max(2);
    while length / 2 >= shortest {
        length /= 2;
        if with(run, &config, &alike(largest(1, length)), limit)? {
            flags.insert(0, format!("⟨seq_len⟩ {length}"));
            return Ok(Some(flags.join(" ")));
        }
    }
    Ok(None)
}

/// The run's checkpointing; where that is `auto`, off if the run fits or nobody knows how much there is, else the number of
/// layers with which it takes the least.
///
/// # Errors
/// Those of the plan, but for what is too large.
pub fn settled(run: &Run<'_>) -> Result<Checkpointing> {
    if run.config.checkpointing != Checkpointing::AUTO {
        return Ok(run.config.checkpointing);
    }
    let Some(limit) = limit(run.config, run.caps) else { return Ok(Checkpointing::OFF) };
    let batches = worst(run, run.config)?;
    let mut least = (u64::MAX, Checkpointing::LAYER);
    for layers in [0, 1, 2, 4, 8] {
        let checkpointing = Checkpointing(layers);
        let config = TrainConfig { checkpointing, ..run.config.clone() };
        let total = match record(&Run { config: &config, ..run.clone() }, &batches) {
            Ok(plan) => plan.memory.total,
            Err(Error::TooLarge { .. }) => u64::MAX,
            Err(e) => return Err(e),
        };
        if checkpointing == Checkpointing::OFF && total <= limit {
            return Ok(checkpointing);
        }
        if checkpointing != Checkpointing::OFF && total < least.0 {
            least = (total, checkpointing);
        }
    }
    Ok(least.1)
}
