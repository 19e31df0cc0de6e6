//! From names and values to [`Settings`], and what is wrong with them.

use super::{
    CACHE, CLASS, CLASSES, CUDA, Cache, DEVICE, DISABLE, DUMP_SHADERS, EPOCH, FAULT, FEATURES, FUZZ_SECONDS, Fault,
    FaultKind, LIMITS, LOG, PORTABILITY, Parsed, RANK_TIMEOUT, REQUIRE, SELFTEST, SPARSE, Settings, VARIABLES,
};
use crate::near::{nearest, tip};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Crates in the program that log.
const LOGGED: [&str; 7] = ["rugosa", "wgpu", "wgpu_core", "wgpu_hal", "wgpu_types", "naga", "tokenizers"];
/// Words that somebody who wants to switch something off or on might write.
const SWITCH_WORDS: [&str; 10] = ["on", "off", "no", "yes", "none", "true", "false", "0", "1", "disable"];
/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// What `variables` say, and for each that is wrong its name and the reason.
pub(super) fn parse(variables: impl Iterator<Item = (OsString, OsString)>) -> Parsed {
    let mut settings = Settings::default();
    let mut faults = Vec::new();
    let mut sorted: Vec<_> = variables.filter(|(_, value)| !value.is_empty()).collect();
    sorted.sort();
    for (name, value) in sorted {
        let Some(name) = name.to_str() else { continue };
        let outcome = if VARIABLES.iter().any(|v| v.name == name) {
            set(&mut settings, name, &value)
        } else {
            misspelt(name).map_or(Ok(()), Err)
        };
        faults.extend(outcome.err().map(|reason| (name.to_owned(), reason)));
    }
    (settings, faults)
}

/// Why a name that is not in the table cannot be meant, if it is near to ours.
fn misspelt(name: &str) -> Option<String> {
    let upper = name.to_uppercase();
    let known = || VARIABLES.iter().map(|v| v.name).filter(|n| n.starts_with("RUGOSA_"));
    // one slip in the part that all names have, as in ROGUSA_DEVICE
    let near = || known().find(|k| strsim::damerau_levenshtein(&upper, k) <= 2);
    if upper.starts_with("RUGOSA_TEST_") || !(upper.starts_with("RUGOSA_") || near().is_some()) {
        return None;
    }
    let tip = match near().or_else(|| nearest(&upper, known())) {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    };
    Some(format!("no variable of rugosa has this name{tip} (rugosa ⟨help⟩ lists them all)"))
}

fn set(settings: &mut Settings, name: &str, value: &OsStr) -> Result<(), String> {
    let text = || value.to_str().ok_or_else(|| "is not Unicode".to_owned());
    match name {
        DEVICE => settings.device = Some(text()?.to_owned()),
        DISABLE => settings.disable = features(text()?)?,
        LIMITS => settings.default_limits = one_of(text()?, &["default"])? == "default",
        CLASS => settings.class = Some(one_of(text()?, &CLASSES)?),
        SPARSE => settings.separate_sparse = one_of(text()?, &["apart"])? == "apart",
        SELFTEST => settings.skip_selftest = one_of(text()?, &["on", "off"])? == "off",
        CACHE if value == "off" => settings.cache = Cache::Off,
        CACHE => settings.cache = Cache::Folder(folder(value, "off")?),
        CUDA => settings.cuda = Some(folder(value, "")?),
        DUMP_SHADERS => settings.dump_shaders = Some(folder(value, "")?),
        RANK_TIMEOUT => settings.rank_timeout = Some(rank_timeout(text()?)?),
        LOG => settings.log = Some(log_filter(text()?)?.to_owned()),
        EPOCH => settings.source_date_epoch = Some(seconds(text()?)?),
        FAULT => settings.fault = Some(fault(text()?)?),
        // what follows sets nothing here: the tests and the build read it
        REQUIRE => drop(features(text()?)?),
        PORTABILITY => _ = one_of(text()?, &["strict", "quick"])?,
        FUZZ_SECONDS => fuzz_seconds(text()?)?,
        _ => {}
    }
    Ok(())
}

fn one_of(value: &str, known: &[&'static str]) -> Result<&'static str, String> {
    known.iter().find(|k| **k == value).copied().ok_or_else(|| match known {
        [only] => format!("\"{value}\" means nothing here; {only} is the one value{}", tip(value, [*only])),
        _ => format!("\"{value}\" is none of {}{}", known.join(", "), tip(value, known.iter().copied())),
    })
}

fn features(list: &str) -> Result<Vec<&'static str>, String> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(|word| one_of(word, &FEATURES)).collect()
}

/// A folder that is there, or one that cannot be meant as a switch. `switch`: what else the variable takes.
fn folder(value: &OsStr, switch: &str) -> Result<PathBuf, String> {
    let path = Path::new(value);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let shown = path.display();
    if path.exists() {
        return Err(format!("{shown} is a file; a folder is expected"));
    }
    // "of" for "off" would make a folder of that name
    let word = value.to_str().filter(|v| !v.contains(['/', '\\', '.']));
    let is_slip = word.is_some_and(|w| {
        SWITCH_WORDS.contains(&w.to_lowercase().as_str()) || (!switch.is_empty() && nearest(w, [switch]).is_some())
    });
    if is_slip {
        let or = if switch.is_empty() { "no".to_owned() } else { format!("neither {switch} nor a") };
        return Err(format!("\"{shown}\" is {or} folder that exists; for a new one of that name write ./{shown}"));
    }
    Ok(path.to_owned())
}

/// A filter as tracing takes them. It takes a misspelt level for the name of a crate, and logs nothing then.
fn log_filter(text: &str) -> Result<&str, String> {
    let is_level = |word: &str| {
        LEVELS.contains(&word.to_lowercase().as_str()) || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
    };
    let level = |word: &str| {
        let reason = || format!("\"{word}\" is no level; levels are {}{}", LEVELS.join(", "), tip(word, LEVELS));
        if is_level(word) { Ok(()) } else { Err(reason()) }
    };
    let target = |word: &str| {
        let krate = word.split("::").next().unwrap_or_default();
        let known = || LEVELS.iter().chain(&LOGGED).copied();
        let reason = || {
            format!(
                "\"{word}\" is neither a level ({}) nor a crate that logs ({}){}",
                LEVELS.join(", "),
                LOGGED.join(", "),
                tip(word, known())
            )
        };
        if LOGGED.contains(&krate) { Ok(()) } else { Err(reason()) }
    };
    // spans and their fields are in brackets, which only tracing can read
    for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty() && !text.contains('[')) {
        match directive.split_once('=') {
            Some((crate_name, word)) => target(crate_name.trim()).and_then(|()| level(word.trim()))?,
            None if is_level(directive) => {}
            None => target(directive)?,
        }
    }
    Ok(text)
}

fn seconds(text: &str) -> Result<i64, String> {
    let seconds = text.trim().parse().ok().filter(|s| (0..=LAST_SECOND).contains(s));
    seconds.ok_or_else(|| format!("\"{text}\" is no whole number of seconds since 1970, from 0 to {LAST_SECOND}"))
}

fn rank_timeout(text: &str) -> Result<u64, String> {
    let seconds = text.trim().parse().ok().filter(|s| (1..=LAST_SECOND as u64).contains(s));
    seconds.ok_or_else(|| format!("\"{text}\" is no whole number of seconds, as in 600"))
}

fn fault(text: &str) -> Result<Fault, String> {
    let (kind, at) = text.split_once(':').unwrap_or((text, ""));
    let kind = match one_of(kind, &["kill", "full", "read-only"])? {
        "kill" => FaultKind::Kill,
        "full" => FaultKind::Full,
        _ => FaultKind::ReadOnly,
    };
    let at = at.parse().ok().filter(|at| *at > 0);
    at.map(|at| Fault { kind, at }).ok_or_else(|| format!("\"{text}\" counts no operation, from 1, as kill:7 does"))
}

fn fuzz_seconds(text: &str) -> Result<(), String> {
    let is_time = text.parse::<f64>().is_ok_and(|s| (0.0..=1e9).contains(&s));
    if is_time { Ok(()) } else { Err(format!("\"{text}\" is no number of seconds, as in 600 or 0.5")) }
}
