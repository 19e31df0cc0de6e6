//! The command that repeats a run.

use super::run::RunFiles;
use crate::train::config::defaults;
use std::collections::BTreeMap;

/// Flags that say where, not what.
const ELSEWHERE: [&str; 2] = ["out", "device"];

/// `rugosa train` with everything in which the run's configuration differs from the defaults, for a shell; the run goes to a new
/// folder.
pub fn command(run: &RunFiles) -> String {
    let defaults: BTreeMap<&str, String> = defaults().into_iter().collect();
    let mut words = vec!["rugosa train".to_owned()];
    for (key, value) in run.config.iter().filter(|(key, _)| !ELSEWHERE.contains(&key.as_str())) {
        let Some(text) = as_typed(value) else { continue };
        if defaults.get(key.as_str()).is_some_and(|default| *default == text || default.trim_matches('"') == text) {
            continue;
        }
        words.push(option(key, &text));
    }
    words.push(option("out", &format!("{}-again", run.folder.display())));
    words.join(" \\\n  ")
}

/// An option as the program takes it: its value may begin with -, and one of yes or no takes a value only in this way.
fn option(key: &str, value: &str) -> String {
    format!("--{}={}", key.replace('_', "-"), quoted(value))
}

/// A value of `config.toml` as a flag takes it; nothing where a table is empty.
fn as_typed(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().filter_map(as_typed).collect::<Vec<_>>().join(","),
        toml::Value::Table(table) => {
            let pairs = table.iter().filter_map(|(name, value)| Some(format!("{name}={}", as_typed(value)?)));
            Some(pairs.collect::<Vec<_>>().join(",")).filter(|text| !text.is_empty())?
        }
        toml::Value::Float(x) if *x != 0.0 && x.abs() < 1e-4 => format!("{x:e}"),
        toml::Value::Float(x) => x.to_string(),
        other => other.to_string(),
    })
}

/// A word for a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_more_into_them() {
        assert_eq!([quoted("a/b-1.toml"), quoted("it's $HOME"), quoted("")], ["a/b-1.toml", "'it'\\''s $HOME'", "''"]);
    }
}
