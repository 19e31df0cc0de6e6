//! The run folder: `config.toml`, `metrics.jsonl`, and the adapter or, with the method `full`, the model.

use super::config::{MASKS_FILE, MaskMode, Method, TrainConfig};
use super::state;
use crate::adapters::AdapterSet;
use crate::adapters::targets::{LinearShape, Target, TargetModules};
use crate::error::{Error, Result};
use crate::io::adapter::{self, AdapterConfig, AdapterFolder, AdapterKind, Targets};
use crate::io::hub::{HubName, RepoKind};
use std::path::{Path, PathBuf};

/// The configuration of a run, as resolved.
pub const CONFIG_FILE: &str = "config.toml";
/// What each step did.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// What the model said to the prompts of `--sample-prompts`, evaluation by evaluation.
pub const SAMPLES_FILE: &str = "samples.jsonl";
/// What a reader of the run should know beside its configuration and its steps; see [`super::summary`].
pub const SUMMARY_FILE: &str = "summary.json";
/// The page that shows the run.
pub const REPORT_FILE: &str = "report.html";

/// What a run keeps of the adapter that it starts from, where that is the state of a run which goes on: it would be gone later.
pub const INIT_ADAPTER: &str = "init_adapter";

/// Where the adapter of a folder is.
#[derive(Debug)]
pub struct AdapterPlace {
    pub folder: PathBuf,
    /// A line about it, where it is that of a run which has not finished.
    pub note: Option<String>,
}

/// The adapter in `folder`: its own, or in a run's folder that of the last state. A folder that holds something else is refused
/// where what it is shows: a run that made no adapter, or a model.
///
/// # Errors
/// [`Error::File`] that says what to do with it; those of [`state::find`].
pub fn adapter_in(folder: &Path) -> Result<AdapterPlace> {
    let has = |name: &str| folder.join(name).exists();
    let own = AdapterPlace { folder: folder.to_path_buf(), note: None };
    if has(adapter::CONFIG_FILE) {
        return Ok(own);
    }
    let shown = folder.display();
    let (field, reason) = if has("config.json") {
        ("config.json", format!("this folder holds a model, no adapter; give it as the model: ⟨model⟩ {shown}"))
    } else if !has(CONFIG_FILE) {
        return Ok(own);
    } else if let Some(saved) = state::find(folder)? {
        if saved.folder.join(adapter::CONFIG_FILE).exists() {
            let steps = saved.header.step;
            let note = format!("the run in {shown} has not finished: its adapter after {steps} steps is taken");
            return Ok(AdapterPlace { folder: saved.folder, note: Some(note) });
        }
        let way_out = format!("finish it with rugosa train ⟨resume⟩ ⟨out⟩ {shown}");
        (CONFIG_FILE, format!("the run in this folder has not finished, and it makes no adapter; {way_out}"))
    } else if has(MASKS_FILE) {
        (MASKS_FILE, format!("the run made masks and no adapter; use them with ⟨mask⟩ {shown}/{MASKS_FILE}"))
    } else {
        let way_out = format!("rugosa train ⟨resume⟩ ⟨out⟩ {shown} begins it again, ⟨save_steps⟩ keeps its state");
        (CONFIG_FILE, format!("the run in this folder has not finished and saved no state; {way_out}"))
    };
    Err(Error::file(folder, field, reason))
}

/// The adapter of a run as it is now: in the original's format, or in PEFT's own for plain low-rank adapters. `shapes` are all
/// linears of the model.
///
/// # Errors
/// Those of a read-back; [`Error::Io`] where the process has no working folder.
pub fn adapter_of(config: &TrainConfig, adapters: &AdapterSet, shapes: &[LinearShape]) -> Result<AdapterFolder> {
    let kind = if config.method == Method::Lora { AdapterKind::Lora } else { AdapterKind::Rosa };
    let config = adapter_config(kind, &config.located()?, adapters.targets(), shapes);
    Ok(AdapterFolder { config, modules: adapters.export()? })
}

/// As PEFT is to find them. In a model that sees, its other parts have linears with the same last names.
fn target_modules(names: Vec<String>, targets: &[Target]) -> Targets {
    const LANGUAGE: &str = "model.language_model.";
    if !targets.iter().all(|t| t.module.name.starts_with(LANGUAGE)) {
        return Targets::Names(names);
    }
    let escaped = |name: &String| match name.starts_with(LANGUAGE) {
        true => name.replace('.', r"\."),
        false => format!(r"{}.*\.{name}", LANGUAGE.replace('.', r"\.")),
    };
    Targets::Pattern(names.iter().map(escaped).collect::<Vec<_>>().join("|"))
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
    let (base, revision) = base_of(&config.model);
    let mut all = AdapterConfig::new(kind);
    all.extra.extend(revision.map(|r| ("revision".to_owned(), r.into())));
    AdapterConfig {
        r: rank,
        lora_alpha: config.alpha,
        use_rslora: config.rslora,
        lora_dropout: config.dropout,
        density,
        target_modules: target_modules(names, targets),
        rank_pattern: ranks,
        alpha_pattern: alphas,
        density_pattern: densities,
        base_model_name_or_path: Some(base),
        schedule: config.schedule.map(|s| s.to_string()),
        spa_num_grads: config.mask_grads.unwrap_or(1) as usize,
        grad_acc_mode: match config.mask_mode {
            MaskMode::MeanSquared => "mean_squared".into(),
            MaskMode::Mean => "mean".into(),
        },
        ..all
    }
}

/// The base model as PEFT names it, and its revision: a name on the Hub is written without what marks it here.
fn base_of(model: &Path) -> (String, Option<String>) {
    match HubName::of(model, RepoKind::Model) {
        Ok(Some(name)) => (name.repo.clone(), name.revision),
        _ => (model.display().to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peft_finds_a_base_model_of_the_hub_by_its_name_there() {
        assert_eq!(base_of(Path::new("hf:org/name@v1/a.gguf")), ("org/name".into(), Some("v1".into())));
        assert_eq!(base_of(Path::new("/models/a")), ("/models/a".into(), None));
    }
}
