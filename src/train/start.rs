//! What a run starts from beside its model: the adapter of `--init-adapter` and the masks that are given.
//!
//! An adapter's folder says what the adapter is, so its sizes are the run's where nothing else is asked for ([`options`]);
//! with nothing else asked for, the run's first loss is the adapter's. What of it the run leaves out is said in a line.

use super::config::{MaskMode, Method, PartialConfig, TrainConfig};
use super::output;
use super::trainable::targets;
use crate::adapters::densities;
use crate::adapters::targets::{ALL_LINEAR, LinearShape, PerModule, Target, TargetModules, last_part};
use crate::csr::CsrPattern;
use crate::error::{Error, Result};
use crate::io::adapter::{AdapterConfig, AdapterFolder, AdapterKind, Halves, Outline, Targets};
use crate::io::mask::read_masks;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Masks by the names of their modules.
pub type Masks = BTreeMap<String, CsrPattern>;

/// Module names in a line, at most.
const SHOWN: usize = 4;

/// The options that the adapter in `folder` stands for, for what `given` does not say: method, rank, alpha, their patterns,
/// the way of scaling, modules and density.
///
/// # Errors
/// Those of [`Outline::read`].
pub fn options(folder: &Path, given: &PartialConfig) -> Result<PartialConfig> {
    let Outline { config: c, modules } = Outline::read(&output::adapter_in(folder)?.folder)?;
    let names: Vec<&str> = modules.keys().map(String::as_str).collect();
    let sparse = modules.values().any(|halves| halves.sparse);
    let low_rank = modules.values().any(|halves| halves.low_rank);
    // patterns that no module matches are refused, so those of modules that the run leaves out stay out
    let kept = |name: &str| given.target_modules.as_ref().is_none_or(|t| t.covers(name));
    let covered: Vec<(&str, Halves)> =
        modules.iter().map(|(name, halves)| (name.as_str(), *halves)).filter(|(name, _)| kept(name)).collect();
    let rank = |(name, halves): &(&'_ str, Halves)| if halves.low_rank { c.rank(name) } else { 0 };
    let ranks: Vec<_> = covered.iter().map(|module| (module.0, rank(module))).collect();
    let with_rank = covered.iter().filter(|(_, halves)| halves.low_rank);
    let alphas: Vec<_> = with_rank.map(|(name, _)| (*name, c.alpha(name))).collect();
    let densities: Vec<_> = covered.iter().map(|(name, _)| (*name, c.density_of(name))).collect();
    let mut options = PartialConfig {
        method: Some(method_of(low_rank, sparse || c.density > 0.0, given)),
        rslora: Some(c.use_rslora),
        target_modules: Some(modules_of(&c, &names)),
        ..PartialConfig::default()
    };
    if low_rank {
        options.rank = Some(c.r);
        options.alpha = Some(c.lora_alpha);
        // a number that is asked for holds for all modules
        options.rank_pattern = Some(PerModule::of(&ranks, c.r)).filter(|_| given.rank.is_none());
        options.alpha_pattern = Some(PerModule::of(&alphas, c.lora_alpha)).filter(|_| given.alpha.is_none());
    }
    if c.kind != AdapterKind::Lora && c.density > 0.0 {
        options.density = Some(c.density);
        options.density_pattern = Some(PerModule::of(&densities, c.density)).filter(|_| given.density.is_none());
    }
    if c.kind == AdapterKind::Rosa && !sparse {
        options.mask_grads = u32::try_from(c.spa_num_grads).ok().filter(|n| *n > 0);
        options.mask_mode = match c.grad_acc_mode.as_str() {
            "mean_squared" => Some(MaskMode::MeanSquared),
            "mean" => Some(MaskMode::Mean),
            _ => None,
        };
    }
    Ok(options)
}

/// The method that trains the halves of an adapter, and those that are asked for besides.
fn method_of(low_rank: bool, sparse: bool, given: &PartialConfig) -> Method {
    let masks = given.mask.is_some() || given.save_mask.is_some() || given.mask_only == Some(true);
    let density = given.density.is_some_and(|d| d > 0.0) || given.density_pattern.is_some();
    let rank = given.rank.is_some_and(|r| r > 0) || given.rank_pattern.is_some();
    match (low_rank || rank, sparse || masks || density) {
        (true, false) => Method::Lora,
        (false, true) => Method::Spa,
        (true, true) | (false, false) => Method::Rosa,
    }
}

/// The modules `names` of an adapter as patterns: by the last parts of their names where it has those in each layer from
/// the first on and its configuration names them so, else one by one.
fn modules_of(c: &AdapterConfig, names: &[&str]) -> TargetModules {
    let parts: BTreeSet<&str> = names.iter().map(|name| last_part(name)).collect();
    let narrowed = |key: &str| c.extra.get(key).is_some_and(|v| !v.is_null());
    let by_parts = match &c.target_modules {
        Targets::Names(listed) => listed.iter().map(String::as_str).collect::<BTreeSet<_>>() == parts,
        Targets::Pattern(pattern) => pattern == ALL_LINEAR,
    };
    let layer = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok());
    let layers = |part: &str| -> BTreeSet<usize> {
        names.iter().filter(|name| last_part(name) == part).filter_map(|name| layer(name)).collect()
    };
    let count = names.iter().filter_map(|name| layer(name)).max().map_or(0, |last| last + 1);
    let whole = parts.iter().all(|part| [0, count].contains(&layers(part).len()));
    let short = by_parts && whole && !narrowed("layers_to_transform") && !narrowed("exclude_modules");
    TargetModules(match short {
        true => parts.into_iter().map(str::to_owned).collect(),
        false => names.iter().map(|name| (*name).to_owned()).collect(),
    })
}

/// What a run starts from.
#[derive(Debug, Default)]
pub struct Start {
    pub adapter: Option<AdapterFolder>,
    /// Those of a file, or of the adapter.
    pub masks: Option<Masks>,
    /// The adapter is the state of a run that has not finished.
    pub passing: bool,
}

impl Start {
    /// Reads what `config` names, for a model with the linears `shapes`, and sets the density of `config` to that of masks
    /// which are given. The lines say what is taken and what is not.
    ///
    /// # Errors
    /// Those of the files; [`Error::Invalid`] where they leave nothing to train, or the rank is another.
    pub fn read(config: &mut TrainConfig, shapes: &[LinearShape]) -> Result<(Start, Vec<String>)> {
        let shape_of = |name: &str| shapes.iter().find(|m| m.name == name).map(|m| (m.out_features, m.in_features));
        let place = config.init_adapter.as_ref().map(|folder| output::adapter_in(folder)).transpose()?;
        let adapter = place.as_ref().map(|place| AdapterFolder::read(&place.folder, shape_of)).transpose()?;
        let masks = match (&config.mask, &adapter) {
            _ if matches!(config.method, Method::Lora | Method::Full) => None,
            (Some(path), _) => Some(read_masks(path, shape_of)?),
            (None, Some(adapter)) => Some(adapter.masks()).filter(|m| !m.is_empty()),
            (None, None) => None,
        };
        let mut lines: Vec<String> = place.and_then(|place| place.note).into_iter().collect();
        let passing = !lines.is_empty();
        if config.method != Method::Full {
            let targets = targets(config, shapes, masks.as_ref())?;
            if let Some(adapter) = &adapter {
                check_ranks(adapter, &targets)?;
                lines.extend(adapter_lines(adapter, &targets, masks.as_ref(), config.dropout));
            }
            if let Some(masks) = &masks {
                lines.extend(settle(config, &targets, masks));
            }
            if config.method != Method::Lora && !config.density_pattern.0.is_empty() && !config.mask_only {
                let line = "modules differ in density: adapter_config.json will have a density_pattern, which rugosa reads \
                            and the original RoSA code cannot load";
                lines.push(line.to_owned());
            }
        }
        Ok((Start { adapter, masks, passing }, lines))
    }
}

/// Refuses another rank than the adapter's: its A and B could not be where the run starts.
fn check_ranks(adapter: &AdapterFolder, targets: &[Target]) -> Result<()> {
    for target in targets.iter().filter(|t| t.rank > 0) {
        let name = &target.module.name;
        let theirs = adapter.modules.get(name).and_then(|m| m.a.as_ref()).map(|a| a.rows);
        if let Some(theirs) = theirs.filter(|r| *r != target.rank) {
            let reason = format!(
                "{} of {name} is not the {theirs} of the adapter to start from; leave ⟨rank⟩ and ⟨rank_pattern⟩ out to have \
                 the adapter's",
                target.rank
            );
            return Err(Error::option("rank", reason));
        }
    }
    Ok(())
}

/// Sets the density of `config` to that of the masks.
fn settle(config: &mut TrainConfig, targets: &[Target], masks: &Masks) -> Vec<String> {
    let asked = config.density;
    (config.density, config.density_pattern) = densities(targets, (asked, &config.density_pattern));
    let masked = targets.iter().filter(|t| t.nnz > 0);
    let entries: usize = masked.clone().map(|t| t.nnz).sum();
    let source = config.mask.as_ref().or(config.init_adapter.as_ref());
    let mut line = format!(
        "masks: {entries} entries in {} of {} target modules, those of {}; density {}",
        masked.count(),
        targets.len(),
        source.map(|path| path.display().to_string()).unwrap_or_default(),
        config.density
    );
    if asked != config.density {
        line += &format!(" (⟨density⟩ {asked} is not used)");
    }
    let unused: Vec<&str> =
        masks.keys().map(String::as_str).filter(|name| !targets.iter().any(|t| t.module.name == *name)).collect();
    if !unused.is_empty() {
        line += &format!("; masks of {} are not used: they are no targets", listed(&unused));
    }
    vec![line]
}

/// What a run with these `targets` takes from `adapter`, and what it does not.
fn adapter_lines(adapter: &AdapterFolder, targets: &[Target], masks: Option<&Masks>, dropout: f64) -> Vec<String> {
    let (mut low_rank, mut lost_low_rank, mut scaled) = (0, Vec::new(), Vec::new());
    let (mut values, mut lost_values, mut lost_sparse) = (0, 0, Vec::new());
    for (name, tensors) in &adapter.modules {
        let target = targets.iter().find(|t| t.module.name == *name);
        match (&tensors.a, target.filter(|t| t.rank > 0)) {
            (Some(_), Some(target)) => {
                low_rank += 1;
                let theirs = adapter.config.scale(name);
                if (target.scale - theirs).abs() > 1e-9 * theirs.abs() {
                    scaled.push((name.as_str(), target.scale, theirs));
                }
            }
            (Some(_), None) => lost_low_rank.push(name.as_str()),
            (None, _) => {}
        }
        if let Some(sparse) = &tensors.sparse {
            let mask = masks.and_then(|m| m.get(name)).filter(|_| target.is_some());
            let lost = mask.map_or(sparse.values.len(), |mask| sparse.values_at(mask).1);
            values += sparse.values.len() - lost;
            lost_values += lost;
            if lost > 0 {
                lost_sparse.push(name.as_str());
            }
        }
    }
    let mut lines = vec![format!("adapter to start from: A and B of {low_rank} modules, {values} values of S")];
    let mut lost = Vec::new();
    if !lost_low_rank.is_empty() {
        lost.push(format!("A and B of {}", listed(&lost_low_rank)));
    }
    if lost_values > 0 {
        lost.push(format!("{lost_values} of {} values of S, in {}", values + lost_values, listed(&lost_sparse)));
    }
    if !lost.is_empty() {
        let lost = lost.join("; ");
        lines.push(format!("of it is not used: {lost}; the run does not begin where the adapter ended"));
    }
    if let Some((_, ours, theirs)) = scaled.first() {
        let names: Vec<&str> = scaled.iter().map(|(name, ..)| *name).collect();
        let lost = "the run does not begin where the adapter ended; leave ⟨alpha⟩, ⟨rank⟩ and ⟨rslora⟩ out for that";
        lines.push(format!("B·A is scaled by {ours} instead of the adapter's {theirs} in {}: {lost}", listed(&names)));
    }
    let fresh: Vec<&str> =
        targets.iter().map(|t| t.module.name.as_str()).filter(|name| !adapter.modules.contains_key(*name)).collect();
    if !fresh.is_empty() {
        lines.push(format!("not in the adapter, so they begin at zero: {}", listed(&fresh)));
    }
    let theirs = adapter.config.lora_dropout;
    if theirs > 0.0 && dropout != theirs {
        lines.push(format!(
            "the adapter's dropout of {theirs} is not taken over, it is {dropout}: ⟨dropout⟩ {theirs} does"
        ));
    }
    lines
}

/// How many modules, and what they are called.
fn listed(names: &[&str]) -> String {
    let parts: BTreeSet<&str> = names.iter().map(|name| last_part(name)).collect();
    let shown: Vec<&str> = parts.iter().copied().take(SHOWN).collect();
    let more = if parts.len() > SHOWN { ", …" } else { "" };
    let modules = if names.len() == 1 { "module" } else { "modules" };
    format!("{} {modules} ({}{more})", names.len(), shown.join(", "))
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
