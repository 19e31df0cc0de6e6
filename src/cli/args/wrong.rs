//! Wrong usage in one line: what is wrong, why, and the way out.
//!
//! clap's own messages have several lines, offer the least unlike option however unlike it is, and repeat what the library
//! for numbers says ("invalid digit found in string").

use crate::error::Error;
use crate::near::{nearest, tip};
use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

/// Options by the names that other programs for training and generation have for them.
const ELSEWHERE: &[(&str, &[&str])] = &[
    ("lr", &["learning-rate"]),
    ("rank", &["r", "lora-r", "lora-rank"]),
    ("alpha", &["lora-alpha"]),
    ("dropout", &["lora-dropout"]),
    ("seq-len", &["max-seq-length", "max-seq-len", "max-length", "block-size", "cutoff-len", "ctx-size", "context"]),
    ("epochs", &["num-epochs", "num-train-epochs", "n-epochs"]),
    ("steps", &["max-steps", "num-steps", "iters"]),
    ("out", &["output", "output-dir", "save-dir", "o"]),
    ("data", &["dataset", "train-data", "train-file", "d"]),
    ("model", &["base-model", "model-name", "model-path", "model-name-or-path", "pretrained-model", "m"]),
    ("batch-size", &["per-device-train-batch-size", "micro-batch-size", "bs", "b"]),
    ("gradient-accumulation-steps", &["grad-accum", "accumulate-grad-batches", "grad-accumulation-steps"]),
    ("max-grad-norm", &["grad-clip", "clip-grad", "gradient-clipping"]),
    ("warmup-steps", &["warmup", "num-warmup-steps"]),
    ("log-steps", &["logging-steps"]),
    ("checkpointing", &["gradient-checkpointing", "grad-checkpoint"]),
    ("precision", &["dtype", "fp16", "bf16", "mixed-precision", "torch-dtype"]),
    ("max-new-tokens", &["max-tokens", "n-predict", "n"]),
    ("temperature", &["temp"]),
    ("quantize", &["quantise", "quantization", "quant", "load-in-4bit", "load-in-8bit", "bits", "qlora"]),
    ("limit", &["max-samples", "max-examples"]),
    ("eval-data", &["eval-file", "val-data", "validation-file", "eval-dataset"]),
    ("early-stopping", &["early-stopping-patience", "patience"]),
    ("keep", &["load-best-model-at-end"]),
];
/// `error`, which `words` (the process's, the program first) gave, as one line. `root` is the program's command.
pub(super) fn explain(error: &clap::Error, root: &Command, words: &[OsString]) -> Error {
    let (command, path) = chosen(root, words);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let (option, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let name = || option.split([' ', '=']).next().unwrap_or_default().trim_end_matches('[').to_owned();
    let (what, reason) = match error.kind() {
        ErrorKind::UnknownArgument => unknown(root, command, &path, &option, words),
        ErrorKind::InvalidValue if value.is_empty() => (name(), "needs a value behind it".to_owned()),
        ErrorKind::InvalidValue => {
            let known = text(ContextKind::ValidValue);
            let tip = tip(&value, known.split(", "));
            (name(), format!("\"{value}\" is none of {known}{tip}"))
        }
        ErrorKind::ValueValidation => (name(), bad_value(error, &value)),
        ErrorKind::MissingRequiredArgument => (option.clone(), "not given".to_owned()),
        ErrorKind::TooManyValues => (name(), format!("takes no value, and \"{value}\" is given")),
        ErrorKind::ArgumentConflict => (name(), conflict(&name(), &text(ContextKind::PriorArg))),
        ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => {
            let wrong = text(ContextKind::InvalidSubcommand);
            let mut known: Vec<&str> =
                command.get_subcommands().map(Command::get_name).filter(|n| *n != "help").collect();
            known.sort_unstable();
            let tip = tip(&wrong, known.iter().copied());
            let known = if tip.is_empty() { format!("; there are {}", known.join(", ")) } else { tip };
            (wrong, format!("is no command{known}"))
        }
        _ => {
            let message = error.to_string();
            let line = message.lines().next().unwrap_or_default();
            (path.clone(), line.trim_start_matches("error: ").to_owned())
        }
    };
    Error::invalid(what, format!("{reason} (see {path} --help)")).as_usage()
}

/// The command that the first words choose, and how it is called.
fn chosen<'a>(root: &'a Command, words: &[OsString]) -> (&'a Command, String) {
    let (mut command, mut path) = (root, root.get_name().to_owned());
    for word in words.iter().skip(1) {
        let next = word.to_str().filter(|w| *w != "help").and_then(|w| command.find_subcommand(w));
        let Some(next) = next else { break };
        (command, path) = (next, format!("{path} {}", next.get_name()));
    }
    (command, path)
}

/// An option or a word that nothing takes.
fn unknown(root: &Command, command: &Command, path: &str, option: &str, words: &[OsString]) -> (String, String) {
    let words: Vec<&str> = words.iter().filter_map(|w| w.to_str()).collect();
    let longs = || command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(clap::Arg::get_long);
    let Some(name) = option.strip_prefix("--") else {
        // clap takes -rank for -r -a -n -k
        let long = words.iter().find(|w| w.starts_with(option) && !w.starts_with("--") && w.len() > 2);
        if let (true, Some(word)) = (option.starts_with('-'), long) {
            let tip = tip(word.trim_start_matches('-'), longs());
            return ((*word).to_owned(), format!("options begin with two dashes{}", tip.replace("mean ", "mean --")));
        }
        if option.len() > 1 && option.starts_with('-') {
            return (option.to_owned(), format!("{path} has no such option; options begin with two dashes"));
        }
        return (format!("\"{option}\""), stray(command, option, &words));
    };
    let elsewhere = || ELSEWHERE.iter().find(|(ours, theirs)| theirs.contains(&name) && longs().any(|l| l == *ours));
    let others = root.get_subcommands().filter(|c| c.get_arguments().any(|a| a.get_long() == Some(name)));
    let others: Vec<_> = others.map(Command::get_name).collect();
    let reason = if let Some((ours, _)) = elsewhere() {
        format!("there is no such option; here it is --{ours}")
    } else if !others.is_empty() {
        format!("{path} has no such option; it is one of rugosa {}", others.join(", "))
    } else if let Some(near) = nearest(name, longs()) {
        format!("there is no such option; did you mean --{near}?")
    } else {
        format!("{path} has no such option")
    };
    (option.to_owned(), reason)
}

/// Why `word`, which is no option, stands where nothing is expected.
fn stray(command: &Command, word: &str, words: &[&str]) -> String {
    let before = words.iter().position(|w| *w == word).and_then(|at| words.get(at.checked_sub(1)?));
    let before = before.and_then(|w| w.strip_prefix("--"));
    match before.and_then(|name| command.get_arguments().find(|a| a.get_long() == Some(name))) {
        Some(arg) if arg.is_require_equals_set() => {
            format!("a value of --{0} is written with =: --{0}={word}", arg.get_long().unwrap_or_default())
        }
        Some(arg) if !arg.get_action().takes_values() => {
            format!("--{} takes no value", arg.get_long().unwrap_or_default())
        }
        _ => "is not expected here; options begin with --, and a value with blanks needs quotes".into(),
    }
}

fn conflict(name: &str, prior: &str) -> String {
    let prior = prior.split([' ', '=']).next().unwrap_or_default().trim_end_matches('[');
    match prior {
        "" => "does not go with the other options".into(),
        same if same == name => "is given twice".into(),
        other => format!("does not go with {other}; give one of them"),
    }
}

/// Why `value` is refused: numbers in our own words, else what the option's reader says.
fn bad_value(error: &clap::Error, value: &str) -> String {
    let source = std::error::Error::source(error);
    let said = source.map(ToString::to_string).unwrap_or_default();
    let number: Option<f64> = value.trim().replace(',', ".").parse().ok();
    let is_integer = source.is_some_and(|s| s.is::<ParseIntError>()) || said.contains(" is not in ");
    if is_integer {
        let over = source.and_then(|s| s.downcast_ref::<ParseIntError>()).map(ParseIntError::kind);
        return match number {
            _ if over == Some(&IntErrorKind::PosOverflow) => format!("{value} is more than any number here can be"),
            Some(n) if n < 0.0 => format!("{value} is no whole number of 0 or more"),
            Some(n) if n.fract() == 0.0 && n < 1e15 && over.is_some() => {
                format!("{value} is no whole number as they are written here: write {n}")
            }
            Some(n) if n.fract() == 0.0 => format!("{value} is out of range: {said}"),
            _ => format!("\"{value}\" is no whole number of 0 or more"),
        };
    }
    if source.is_some_and(|s| s.is::<ParseFloatError>()) {
        let percent = value.strip_suffix('%').and_then(|v| v.trim().parse::<f64>().ok());
        return match (number, percent) {
            (Some(n), _) => format!("\"{value}\" is no number: write {n}, with a point"),
            (None, Some(p)) => format!("\"{value}\" is no number: write {}", p / 100.0),
            _ => format!("\"{value}\" is no number"),
        };
    }
    match said {
        none if none.is_empty() => format!("\"{value}\" is wrong"),
        whole if whole.contains(value) => whole,
        reason => format!("\"{value}\": {reason}"),
    }
}
