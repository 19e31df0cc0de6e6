//! The library knows no flag: its messages name options by their keys, ⟨seq_len⟩, and `cli` says how they are given.

use super::lexer::code;
use super::{Source, assert_none, sources};
use clap::CommandFactory;
use rugosa::cli::args::Cli;
use std::collections::BTreeSet;

#[test]
fn only_the_command_line_names_flags() {
    let flags = flags();
    assert!(flags.contains("--seq-len") && flags.contains("--adapter"), "{flags:?}");
    assert_none(sources("src").iter().flat_map(|source| named(source, &flags)).collect());
}

#[test]
fn named_flags_are_found() {
    let flags = ["--seq-len".to_owned()].into();
    let broken = |path: &str, text: &str| named(&Source { path: path.into(), text: text.into() }, &flags);
    assert_eq!(
        broken("src/a.rs", "// --seq-len\nf(\"lower --seq-len\")"),
        ["src/a.rs:2: names --seq-len; write ⟨seq_len⟩"]
    );
    assert!(broken("src/a.rs", "f(\"lower ⟨seq_len⟩, not --seq-length, llama --merge or a--seq-len\")").is_empty());
    assert!(broken("src/cli/a.rs", "f(\"--seq-len\")").is_empty());
}

/// Every flag of the program, those of its commands and of their commands.
fn flags() -> BTreeSet<String> {
    let mut commands = vec![Cli::command()];
    let mut flags = BTreeSet::new();
    while let Some(command) = commands.pop() {
        flags.extend(command.get_arguments().filter_map(|a| a.get_long()).map(|long| format!("--{long}")));
        commands.extend(command.get_subcommands().cloned());
    }
    flags
}

/// Lines of the library that name a flag in a literal.
fn named(source: &Source, flags: &BTreeSet<String>) -> Vec<String> {
    if source.path.starts_with("src/cli/") || source.path == "src/main.rs" || !source.path.ends_with(".rs") {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for (n, line) in code(&source.text, true).lines().enumerate() {
        for (at, _) in line.match_indices("--") {
            let end = line[at..].find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            let flag = &line[at..end.map_or(line.len(), |end| at + end)];
            let is_word = line[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            if !is_word && flags.contains(flag) {
                let key = flag[2..].replace('-', "_");
                broken.push(format!("{}:{}: names {flag}; write ⟨{key}⟩", source.path, n + 1));
            }
        }
    }
    broken
}
