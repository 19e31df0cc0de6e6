//! The run folder: `config.toml`, `metrics.jsonl`, and the adapter or, with the method `full`, the model.

use super::config::{MASKS_FILE, MaskMode, Method, TrainConfig};
use super::state;
use crate::adapters::AdapterSet;
use crate::adapters::targets::{LinearShape, Target, TargetModules};
use crate::error::{Error, Result};
use crate::io::adapter::{self, AdapterConfig, AdapterFolder, AdapterKind, Targets};
use crate::io::atomic::write_atomic;
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

/// Reads the adapter in `folder`. `shape_of` as in [`AdapterFolder::read`].
///
/// # Errors
/// As [`check_adapter`] and [`AdapterFolder::read`].
pub fn read_adapter(folder: &Path, shape_of: impl Fn(&str) -> Option<(usize, usize)>) -> Result<AdapterFolder> {
    check_adapter(folder)?;
    AdapterFolder::read(folder, shape_of)
}

/// Refuses a folder that holds something else than an adapter where what it is shows: a run that has not finished or that
/// made no adapter, or a model.
///
/// # Errors
/// [`Error::File`] that says what to do with it.
pub fn check_adapter(folder: &Path) -> Result<()> {
    let has = |name: &str| folder.join(name).exists();
    if has(adapter::CONFIG_FILE) {
        return Ok(());
    }
    let shown = folder.display();
    let (field, reason) = if has("config.json") {
        ("config.json", format!("this folder holds a model, no adapter; give it as the model: --model {shown}"))
    } else if !has(CONFIG_FILE) {
        return Ok(());
    } else if state::is_there(folder) {
        let way_out = format!("finish it with rugosa train --resume --out {shown}");
        (CONFIG_FILE, format!("the run in this folder has not finished, so there is no adapter yet; {way_out}"))
    } else if has(MASKS_FILE) {
        (MASKS_FILE, format!("the run made masks and no adapter; use them with --mask {shown}/{MASKS_FILE}"))
    } else {
        let way_out = "start it again in another --out, with --save-steps to keep its state";
        (CONFIG_FILE, format!("the run in this folder has not finished and saved no state; {way_out}"))
    };
    Err(Error::file(folder, field, reason))
}

/// Writes the adapter: in the original's format, or in PEFT's own for plain low-rank adapters.
///
/// `shapes` are all linears of the model.
pub fn write_adapter(folder: &Path, config: &TrainConfig, adapters: &AdapterSet, shapes: &[LinearShape]) -> Result<()> {
    let kind = if config.method == Method::Lora { AdapterKind::Lora } else { AdapterKind::Rosa };
    let config = adapter_config(kind, config, adapters.targets(), shapes);
    AdapterFolder { config, modules: adapters.export()? }.write(folder)
}

fn adapter_config(
    kind: AdapterKind,
    config: &TrainConfig,
    targets: &[Target],
    shapes: &[LinearShape],
) -> AdapterConfig {
    // PEFT matches target modules by the end of their names, as patterns here do
    let names: Vec<&str> = targets.iter().map(|t| t.module.name.as_str()).collect();
    let names = TargetModules::naming(&names, shapes.iter().map(|m| m.name.as_str())).0;
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
        target_modules: Targets::Names(names),
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
