//! Whether a run fits into a device's memory, and the smallest change with which it would.

use super::samples::{Samples, alike, largest, samples};
use super::{MemoryPlan, Run, record};
use crate::device::Caps;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::checkpoint::Checkpoint;
use crate::train::config::{ByteSize, Checkpointing, Method, TrainConfig};
use crate::train::phase::Phase;
use std::cell::Cell;

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
        "no other batch, sequence, checkpointing or format would fit; the weights take {} of it, so use a smaller model",
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

/// Formats that weights of 16 or 32 bits can be quantised to, as the flag calls them, the closest to the weights first.
const FORMATS: [(&str, DType); 3] = [("q8_0", DType::Q8_0), ("q4_k", DType::Q4_K), ("nf4", DType::NF4)];

/// The checkpoint with the weights of its layers' linears in `format`, as far as their rows are whole blocks of it: for a plan, without
/// values. None where no weight has 16 or 32 bits.
fn quantised(checkpoint: &Checkpoint, format: DType) -> Result<Option<Checkpoint>> {
    let changes = Cell::new(false);
    let format_of = |name: &str| {
        // what a file lacks has been refused before
        let Ok(stored) = checkpoint.stored(name) else { return DType::F32 };
        let fits = matches!(*stored.shape.as_slice(), [_, cols] if cols.is_multiple_of(format.block_elements()));
        let quantise = fits && !stored.dtype.is_quantised() && name.contains(".layers.");
        changes.set(changes.get() || quantise);
        if quantise { format } else { stored.dtype }
    };
    let name = checkpoint.path().display().to_string();
    let shapes = Checkpoint::of_shapes(checkpoint.config.clone(), &name, format_of)?;
    Ok(changes.get().then_some(shapes))
}

/// The format to which `run` must quantise its weights to take at most `limit` bytes with `config`, or as it is: its flag, and whether
/// it must take the options of `config` too. The closest to the weights comes first.
fn format(
    run: &Run<'_>,
    config: &TrainConfig,
    batches: &[Samples; 3],
    limit: u64,
) -> Result<Option<(&'static str, bool)>> {
    let own = worst(run, run.config)?;
    for (flag, format) in FORMATS {
        let Some(checkpoint) = quantised(run.checkpoint, format)? else { return Ok(None) };
        let run = Run { checkpoint: &checkpoint, ..run.clone() };
        if with(&run, run.config, &own, limit)? {
            return Ok(Some((flag, false)));
        }
        if with(&run, config, batches, limit)? {
            return Ok(Some((flag, true)));
        }
    }
    Ok(None)
}

/// The flags of the smallest change with which `run`, whose plan is `plan`, takes at most `limit` bytes: first those that
/// change nothing but the time, then weights in fewer bits, then shorter sequences.
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
    // weights that train stay as they are
    if run.config.method != Method::Full
        && limit < u64::MAX
        && let Some((format, with_all)) = format(run, &config, &batches, limit)?
    {
        let all = if with_all { flags } else { Vec::new() };
        return Ok(Some([all, vec![format!("⟨quantize⟩ {format}")]].concat().join(" ")));
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
