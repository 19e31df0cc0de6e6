//! The run folder: `config.toml`, `metrics.jsonl`, and the adapter or, with the method `full`, the model.

use super::config::{MaskMode, Method, TrainConfig};
use crate::adapters::AdapterSet;
use crate::adapters::targets::Target;
use crate::error::{Error, Result};
use crate::io::adapter::{AdapterConfig, AdapterFolder, AdapterKind, Targets};
use crate::io::atomic::write_atomic;
use std::collections::BTreeSet;
use std::path::Path;

/// The configuration of a run, as resolved.
pub const CONFIG_FILE: &str = "config.toml";
/// What each step did.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Makes the folder of a new run, with its configuration in it: whether it can be written to is found out now, not
/// after hours.
///
/// # Errors
/// [`Error::File`] if there is something in it already; [`Error::Io`].
pub fn create(config: &TrainConfig) -> Result<()> {
    let (folder, text) = (&config.out, config.to_toml()?);
    check_free(folder)?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_atomic(&folder.join(CONFIG_FILE), |w| w.write_all(text.as_bytes()))
}

/// Refuses a folder that a new run would mix its files into.
///
/// # Errors
/// As [`create`].
pub fn check_free(folder: &Path) -> Result<()> {
    match std::fs::read_dir(folder).map(|entries| entries.count()) {
        Ok(count) if count > 0 => {
            let reason =
                "the run folder exists already and is not empty; choose another --out, or continue it with --resume";
            Err(Error::file(folder, "--out", reason))
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(e)),
        _ => Ok(()),
    }
}

/// Writes the adapter: in the original's format, or in PEFT's own for plain low-rank adapters.
pub fn write_adapter(folder: &Path, config: &TrainConfig, adapters: &AdapterSet) -> Result<()> {
    let kind = if config.method == Method::Lora { AdapterKind::Lora } else { AdapterKind::Rosa };
    let folder_of =
        AdapterFolder { config: adapter_config(kind, config, adapters.targets()), modules: adapters.export()? };
    folder_of.write(folder)
}

fn adapter_config(kind: AdapterKind, config: &TrainConfig, targets: &[Target]) -> AdapterConfig {
    // PEFT matches target modules by the end of their names: the last part is enough where all layers have it
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let names: BTreeSet<String> = targets.iter().map(|t| last(&t.module.name)).collect();
    let rank = if config.method == Method::Spa { 0 } else { config.rank };
    let density = if config.method == Method::Lora { 0.0 } else { config.density };
    let pattern = |name: &str| name.to_owned();
    let ranks = targets.iter().filter(|t| t.rank != rank).map(|t| (pattern(&t.module.name), t.rank)).collect();
    let alphas =
        (targets.iter().filter(|t| t.alpha != config.alpha)).map(|t| (pattern(&t.module.name), t.alpha)).collect();
    let densities = (targets.iter())
        .filter_map(|t| Some((pattern(&t.module.name), config.density_pattern.get(&t.module.name)?)))
        .collect();
    AdapterConfig {
        r: rank,
        lora_alpha: config.alpha,
        use_rslora: config.rslora,
        lora_dropout: config.dropout,
        density,
        target_modules: Targets::Names(names.into_iter().collect()),
        rank_pattern: ranks,
        alpha_pattern: alphas,
        density_pattern: densities,
        base_model_name_or_path: Some(config.model.display().to_string()),
        schedule: config.schedule.map(|s| s.to_string()),
        spa_num_grads: config.mask_grads.unwrap_or(1) as usize,
        grad_acc_mode: match config.mask_mode {
            MaskMode::MeanSquared => "mean_squared".into(),
            MaskMode::Mean => "mean".into(),
        },
        ..AdapterConfig::new(kind)
    }
}
