//! Environment variables are read in one place, and each has a row in its table.

use super::lexer::code;
use super::{Source, assert_none, sources};
use rugosa::env::VARIABLES;

#[test]
fn only_the_table_reads_the_environment() {
    assert_none(sources("src").iter().flat_map(reads).collect());
}

#[test]
fn reads_are_found() {
    let broken = |path: &str, text: &str| reads(&Source { path: path.into(), text: text.into() });
    assert_eq!(
        broken("src/a.rs", "fn f() {\n std::env::var(\"X\");\n}"),
        ["src/a.rs:2: reads the environment; see src/env"]
    );
    assert_eq!(broken("src/a.rs", "use std::env;\nenv::var_os(NAME)").len(), 1);
    assert!(broken("src/env/mod.rs", "std::env::vars_os()").is_empty());
    assert!(
        broken("src/a.rs", "env::temp_dir(); // env::var\n#[cfg(test)]\nmod tests { fn f() { std::env::var(X) } }")
            .is_empty()
    );
}

/// Lines outside of tests that ask the environment.
fn reads(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/env/") {
        return Vec::new();
    }
    let text = code(&source.text, false);
    let program = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).enumerate();
    let asks =
        |line: &str| ["env::var(", "env::var_os(", "env::vars(", "env::vars_os("].iter().any(|f| line.contains(f));
    program
        .filter(|(_, line)| asks(line))
        .map(|(n, _)| format!("{}:{}: reads the environment; see src/env", source.path, n + 1))
        .collect()
}

#[test]
fn every_variable_is_in_the_table() {
    assert_none(sources("").iter().flat_map(strangers).collect());
}

#[test]
fn variables_without_a_row_are_found() {
    let broken = |path: &str, text: &str| strangers(&Source { path: path.into(), text: text.into() });
    let name = concat!("RUGOSA", "_NEW");
    assert_eq!(
        broken("Makefile", &format!("all:\n\t{name}=1 make")),
        [format!("Makefile:2: {name} has no row in src/env/mod.rs")]
    );
    assert!(broken("Makefile", "RUGOSA_DEVICE=0 RUGOSA_TEST_INNER=1 RUGOSA_*").is_empty());
    assert!(broken("src/env/tests.rs", name).is_empty());
}

/// Names that a file takes for variables of ours and that have no row. Tests of refused names are left out.
fn strangers(source: &Source) -> Vec<String> {
    if ["src/env/tests.rs", "tests/cli/messages.rs"].contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for (n, line) in source.text.lines().enumerate() {
        for (at, prefix) in line.match_indices("RUGOSA_") {
            let rest = &line[at + prefix.len()..];
            let end =
                rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).unwrap_or(rest.len());
            let name = &line[at..at + prefix.len() + end];
            let known = name == prefix || name.starts_with("RUGOSA_TEST_") || VARIABLES.iter().any(|v| v.name == name);
            if !known {
                broken.push(format!("{}:{}: {name} has no row in src/env/mod.rs", source.path, n + 1));
            }
        }
    }
    broken
}
