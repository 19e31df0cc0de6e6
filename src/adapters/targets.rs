//! Which modules get an adapter, and of which size: module names, patterns and the numbers that follow from them.
//!
//! A *pattern* is a module name or the end of one, compared component by component: `q_proj` and `self_attn.q_proj`
//! both match `model.layers.0.self_attn.q_proj`, `proj` does not. A `*` stands for any part of one component:
//! `layers.*.mlp.*_proj`.

use crate::csr::CsrPattern;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// The word for "every linear module but the output head".
pub const ALL_LINEAR: &str = "all-linear";
/// The module that [`ALL_LINEAR`] leaves out.
const OUTPUT_HEAD: &str = "lm_head";

/// Patterns of the modules that get an adapter, or [`ALL_LINEAR`]. In a file a string (`"q_proj,v_proj"`) or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TargetModules(pub Vec<String>);

impl Default for TargetModules {
    fn default() -> Self {
        TargetModules(vec![ALL_LINEAR.into()])
    }
}

impl FromStr for TargetModules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        TargetModules::checked(text.split(',').map(|s| s.trim().to_owned()).collect())
    }
}

impl TargetModules {
    fn checked(names: Vec<String>) -> Result<Self, String> {
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(format!("expected module names such as q_proj,v_proj or {ALL_LINEAR}, found an empty name"));
        }
        Ok(TargetModules(names))
    }

    /// Whether one of the patterns names module `name`.
    pub fn covers(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| is_target(pattern, name))
    }

    /// Patterns that name the modules `chosen` and no other of `all`: the last part of a name where all modules with it are
    /// chosen, else whole names.
    pub fn naming<'a>(chosen: &[&'a str], all: impl Iterator<Item = &'a str>) -> TargetModules {
        let left_out: BTreeSet<&str> = all.filter(|name| !chosen.contains(name)).map(last_part).collect();
        let pattern = |name: &'a str| if left_out.contains(last_part(name)) { name } else { last_part(name) };
        let patterns: BTreeSet<&str> = chosen.iter().map(|name| pattern(name)).collect();
        TargetModules(patterns.into_iter().map(str::to_owned).collect())
    }
}

/// The last part of a module's name.
pub fn last_part(name: &str) -> &str {
    tail(name, 1)
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a module name or a list of module names")]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        match Form::deserialize(deserializer)? {
            Form::One(text) => text.parse(),
            Form::Many(names) => TargetModules::checked(names),
        }
        .map_err(serde::de::Error::custom)
    }
}

/// A value for some modules: pattern to value. On the command line `q_proj=4,down_proj=16`. Where several patterns match a
/// module, the longest wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerModule<T>(pub BTreeMap<String, T>);

impl<T> Default for PerModule<T> {
    fn default() -> Self {
        PerModule(BTreeMap::new())
    }
}

impl<T: FromStr> FromStr for PerModule<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut map = BTreeMap::new();
        for item in text.split(',') {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let (key, value) = (key.trim(), value.trim());
            let parsed = value.parse().ok().filter(|_| !key.is_empty());
            let parsed = parsed.ok_or_else(|| format!("expected MODULE=NUMBER,… and found \"{}\"", item.trim()))?;
            if map.insert(key.to_owned(), parsed).is_some() {
                return Err(format!("module \"{key}\" stands twice"));
            }
        }
        Ok(PerModule(map))
    }
}

impl<T: Copy + PartialEq> PerModule<T> {
    /// The values of `modules` where they are not `common`: by the last part of the names where all with that part have the
    /// same, else by whole names.
    pub fn of(modules: &[(&str, T)], common: T) -> PerModule<T> {
        let alike = |part: &str, value: T| modules.iter().all(|(name, v)| last_part(name) != part || *v == value);
        let others = modules.iter().filter(|(_, value)| *value != common);
        let entry = |&(name, value): &(&str, T)| {
            let part = last_part(name);
            (if alike(part, value) { part } else { name }.to_owned(), value)
        };
        PerModule(others.map(entry).collect())
    }
}

impl<T: Copy> PerModule<T> {
    /// The value for module `name`.
    pub fn get(&self, name: &str) -> Option<T> {
        let matching = self.0.iter().filter(|(pattern, _)| matches(pattern, name));
        matching.max_by_key(|(pattern, _)| (pattern.split('.').count(), pattern.len())).map(|(_, &value)| value)
    }
}

/// A linear module that could get an adapter: weight `[out_features, in_features]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinearShape {
    /// Hugging Face name, `model.layers.0.self_attn.q_proj`
    pub name: String,
    pub out_features: usize,
    pub in_features: usize,
    pub place: Place,
}

/// Where a module's weight lies: modules that share their input can be rows of one stacked weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Position of the linear in the model.
    pub linear: usize,
    /// The module's first row in its weight, and all rows of that.
    pub first_row: usize,
    pub rows: usize,
}

/// Which modules get which adapter. A rank or density of 0 leaves that half out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetRules {
    pub modules: TargetModules,
    pub rank: usize,
    pub rank_pattern: PerModule<usize>,
    pub alpha: f64,
    pub alpha_pattern: PerModule<f64>,
    /// Scale the low-rank half by alpha/√rank instead of alpha/rank.
    pub rslora: bool,
    /// Share of a weight's entries in its mask, 0 to 1.
    pub density: f64,
    pub density_pattern: PerModule<f64>,
}

/// The adapter of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Position in the list given to [`select`].
    pub index: usize,
    pub module: LinearShape,
    /// Rows of A and columns of B; 0: no low-rank half.
    pub rank: usize,
    pub alpha: f64,
    /// What multiplies B·A; 1 where the rank is 0.
    pub scale: f64,
    /// Entries of the mask; 0: no sparse half.
    pub nnz: usize,
}

/// The adapters that `rules` ask for, in the order of `modules`.
///
/// # Errors
/// [`Error::Invalid`] with the nearest names where a pattern matches no module, or where a module would get nothing.
pub fn select(modules: &[LinearShape], rules: &TargetRules) -> Result<Vec<Target>> {
    let targets = chosen(modules, rules)?.into_iter().map(|(index, module)| target(index, module, rules));
    useful_ranks(targets.collect::<Result<_>>()?)?.into_iter().map(with_a_half).collect()
}

/// The same where the masks are given: those have the number of entries, whatever the density says, and a module that gets
/// neither a rank nor a mask is left out.
///
/// # Errors
/// [`Error::Invalid`] as [`select`]; also where no module is left, or no mask has an entry.
pub fn select_masked(
    modules: &[LinearShape],
    rules: &TargetRules,
    masks: &BTreeMap<String, CsrPattern>,
) -> Result<Vec<Target>> {
    let rules = TargetRules { density: 0.0, density_pattern: PerModule::default(), ..rules.clone() };
    let mut targets = Vec::new();
    for (index, module) in chosen(modules, &rules)? {
        let mut target = target(index, module, &rules)?;
        target.nnz = masks.get(&module.name).map_or(0, CsrPattern::nnz);
        targets.push(target);
    }
    if targets.iter().all(|t| t.nnz == 0) {
        return Err(Error::option("mask", "the masks have no entry for any of the target modules"));
    }
    targets.retain(|t| t.rank > 0 || t.nnz > 0);
    useful_ranks(targets)
}

/// The modules that `rules` name, each with its position.
fn chosen<'a>(modules: &'a [LinearShape], rules: &TargetRules) -> Result<Vec<(usize, &'a LinearShape)>> {
    for pattern in &rules.modules.0 {
        if !modules.iter().any(|m| is_target(pattern, &m.name)) {
            return Err(unmatched("⟨target_modules⟩", pattern, modules.iter().map(|m| m.name.as_str())));
        }
    }
    let chosen: Vec<_> = modules.iter().enumerate().filter(|(_, m)| rules.modules.covers(&m.name)).collect();
    let keys = [
        ("⟨rank_pattern⟩", rules.rank_pattern.0.keys().collect::<Vec<_>>()),
        ("⟨alpha_pattern⟩", rules.alpha_pattern.0.keys().collect()),
        ("⟨density_pattern⟩", rules.density_pattern.0.keys().collect()),
    ];
    for (option, patterns) in keys {
        if let Some(pattern) = patterns.iter().find(|p| !chosen.iter().any(|(_, m)| matches(p, &m.name))) {
            return Err(unmatched(option, pattern, chosen.iter().map(|(_, m)| m.name.as_str())));
        }
    }
    Ok(chosen)
}

/// Refuses a rank that no target module can make use of: B·A has at most the rank of its weight's smaller side.
fn useful_ranks(targets: Vec<Target>) -> Result<Vec<Target>> {
    let side = |t: &Target| t.module.out_features.min(t.module.in_features);
    let Some(widest) = targets.iter().max_by_key(|t| side(t)) else { return Ok(targets) };
    match targets.iter().find(|t| t.rank > side(widest)) {
        None => Ok(targets),
        Some(t) => {
            let LinearShape { name, out_features, in_features, .. } = &widest.module;
            let reason = format!(
                "{} is over {}, the largest rank that a target module can make use of (the smaller side of {name} \
                 [{out_features}, {in_features}]); use a lower one",
                t.rank,
                side(widest)
            );
            Err(Error::option("rank", reason))
        }
    }
}

fn target(index: usize, module: &LinearShape, rules: &TargetRules) -> Result<Target> {
    let rank = rules.rank_pattern.get(&module.name).unwrap_or(rules.rank);
    let alpha = rules.alpha_pattern.get(&module.name).unwrap_or(rules.alpha);
    let density = rules.density_pattern.get(&module.name).unwrap_or(rules.density);
    let nnz = nnz(density, module.out_features, module.in_features);
    if density > 0.0 && nnz == 0 {
        return Err(Error::option(
            "density",
            format!(
                "{density} of {} [{}, {}] is less than one entry; use a higher ⟨density⟩, or leave the module out",
                module.name, module.out_features, module.in_features
            ),
        ));
    }
    let scale = match (rank, rules.rslora) {
        (0, _) => 1.0,
        (r, false) => alpha / r as f64,
        (r, true) => alpha / (r as f64).sqrt(),
    };
    Ok(Target { index, module: module.clone(), rank, alpha, scale, nnz })
}

fn with_a_half(target: Target) -> Result<Target> {
    if target.rank == 0 && target.nnz == 0 {
        let reason = format!("{} would get rank 0 and density 0, nothing to train; leave it out", target.module.name);
        return Err(Error::option("target_modules", reason));
    }
    Ok(target)
}

/// Entries of the mask of a weight `[out_features, in_features]`: density · out · in, rounded down, multiplied from the
/// left in f64 so that it equals Python's `int(d * n * m)`.
pub fn nnz(density: f64, out_features: usize, in_features: usize) -> usize {
    (density * out_features as f64 * in_features as f64) as usize
}

/// Whether `pattern` names module `name`: all of it, or its end at a `.`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = name.rsplit('.');
    pattern.rsplit('.').all(|p| parts.next().is_some_and(|part| glob(p, part)))
}

fn is_target(pattern: &str, name: &str) -> bool {
    if pattern == ALL_LINEAR { !matches(OUTPUT_HEAD, name) } else { matches(pattern, name) }
}

/// Whether `text` is `pattern`, in which each `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut pieces = rest.split('*').collect::<Vec<_>>();
    let tail = pieces.pop().unwrap_or(""); // the part behind the last star must close the text
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(tail)
}

fn unmatched<'a>(option: &str, pattern: &str, names: impl Iterator<Item = &'a str>) -> Error {
    // users write the short form, so that is what is compared and offered, unless the pattern is a longer one
    let parts = pattern.split('.').count();
    let mut candidates: Vec<&str> = names.map(|name| tail(name, parts)).collect();
    candidates.sort_unstable();
    candidates.dedup();
    // the digits of layer numbers make many near-equal names, so a handful is enough
    let mut near: Vec<_> = candidates.iter().map(|c| (strsim::damerau_levenshtein(pattern, c), *c)).collect();
    near.sort_unstable();
    let near: Vec<_> = near.iter().take(3).map(|(_, c)| *c).collect();
    let offer = match near.as_slice() {
        [] => "the model has no linear modules".into(),
        names => format!("the nearest are {}", names.join(", ")),
    };
    Error::invalid(option, format!("\"{pattern}\" matches no module; {offer}"))
}

/// The last `parts` components of `name`.
fn tail(name: &str, parts: usize) -> &str {
    let start = name.rmatch_indices('.').nth(parts - 1).map_or(0, |(at, _)| at + 1);
    &name[start..]
}

#[cfg(test)]
#[path = "targets_tests.rs"]
mod tests;
