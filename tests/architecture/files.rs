//! Files: their length, and what none of them may say.

use super::{Source, assert_none, sources};

/// Lines of a source file, at most. One that grows past 500 wants to be two.
const MOST_LINES: usize = 600;

/// Lines of a function, at most. One that grows past 80 wants to be two.
const MOST_OF_A_FUNCTION: usize = 90;

/// Folders of people's machines. Written apart, for this file is checked too.
const MACHINE: &[&str] = &[
    concat!("/", "work/"),
    concat!("/", "root/"),
    concat!("/", "home/"),
    concat!("/", "Users/"),
    concat!("C:", "\\Users"),
];

#[test]
fn source_files_are_short() {
    let folders = ["src", "shaders", "tests", "benches", "examples"];
    let present = folders.iter().filter(|f| std::path::Path::new(super::ROOT).join(f).is_dir());
    assert_none(present.flat_map(|f| sources(f)).filter_map(|s| too_long(&s)).collect());
}

#[test]
fn long_files_are_found() {
    let file = |path: &str, lines: usize| too_long(&Source { path: path.into(), text: "x\n".repeat(lines) });
    assert_eq!(file("src/a.rs", MOST_LINES), None);
    assert_eq!(file("src/a.json", MOST_LINES + 1), None);
    assert_eq!(file("src/a.rs", MOST_LINES + 1), Some("src/a.rs: 601 lines, more than 600; split it".into()));
    assert!(file("shaders/a.wgsl", MOST_LINES + 1).is_some());
}

fn too_long(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    let counted = [".rs", ".wgsl"].iter().any(|ext| source.path.ends_with(ext));
    (counted && lines > MOST_LINES).then(|| format!("{}: {lines} lines, more than {MOST_LINES}; split it", source.path))
}

#[test]
fn functions_are_short() {
    assert_none(
        ["src", "tests", "benches", "examples"]
            .iter()
            .flat_map(|f| sources(f))
            .flat_map(|s| long_functions(&s))
            .collect(),
    );
}

#[test]
fn long_functions_are_found() {
    let broken = |lines: usize| {
        let body = "        x();\n".repeat(lines - 2);
        let text = format!("impl A {{\n    pub(super) fn f() {{\n{body}    }}\n\n    fn g() {{\n    }}\n}}\n");
        long_functions(&Source { path: "src/a.rs".into(), text })
    };
    assert!(broken(MOST_OF_A_FUNCTION).is_empty());
    assert_eq!(broken(MOST_OF_A_FUNCTION + 1), ["src/a.rs:2: a function of 91 lines, more than 90; split it"]);
}

/// By the indentation that rustfmt gives: a function ends with the brace under its first line.
fn long_functions(source: &Source) -> Vec<String> {
    let mut begun: Option<(usize, String)> = None;
    let mut broken = Vec::new();
    for (n, line) in source.text.lines().enumerate().filter(|_| source.path.ends_with(".rs")) {
        let code = line.trim_start();
        let words = code.split(' ').take_while(|w| *w != "fn").collect::<Vec<_>>();
        let modifier = |w: &&str| w.starts_with("pub") || ["const", "unsafe", "async", "in"].contains(w);
        if code.contains("fn ") && words.iter().all(modifier) {
            begun = Some((n, format!("{}}}", " ".repeat(line.len() - code.len()))));
        } else if let Some((first, _)) = begun.take_if(|(_, end)| line == end) {
            let lines = n - first + 1;
            let long = format!("{}:{}: a function of {lines} lines, more than", source.path, first + 1);
            broken.extend((lines > MOST_OF_A_FUNCTION).then(|| format!("{long} {MOST_OF_A_FUNCTION}; split it")));
        }
    }
    broken
}

#[test]
fn no_file_names_a_machine() {
    assert_none(sources("").iter().flat_map(machine_paths).collect());
}

#[test]
fn machine_paths_are_found() {
    let broken = |text: String| machine_paths(&Source { path: "a.md".into(), text }).len();
    assert_eq!(broken("cd /usr/share; https://a.b/working/c".into()), 0);
    for folder in MACHINE {
        assert_eq!(broken(format!("fine\nsee {folder}me/x")), 1);
    }
    // a path, not the end of another one
    assert_eq!(broken(format!("a.b/c{}d", MACHINE[0])), 0);
}

fn machine_paths(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for (n, line) in source.text.lines().enumerate() {
        for folder in MACHINE {
            let starts = |(at, _): (usize, &str)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_' || c == '-')
            };
            if line.match_indices(folder).any(starts) {
                broken.push(format!("{}:{}: names a folder of a machine ({folder})", source.path, n + 1));
            }
        }
    }
    broken
}
