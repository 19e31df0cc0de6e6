//! Files of `src/kernels` use each other in one direction only: what two of them share lies in a third. `mod.rs` has the table of
//! kernels and `kernel!`, so it stands on both sides and is left out.

use super::layers::paths_from;
use super::lexer::code;
use super::{Source, assert_none, sources};
use std::collections::{BTreeMap, BTreeSet};

/// The folder whose files are held to it.
const FOLDER: &str = "src/kernels/";

#[test]
fn kernels_use_each_other_in_one_direction() {
    let found = sources(FOLDER.trim_end_matches('/'));
    assert!(found.len() > 20, "{} files", found.len());
    assert_none(circles(&found));
}

#[test]
fn circles_are_found() {
    let broken = |files: &[(&str, &str)]| {
        let all: Vec<Source> = files
            .iter()
            .map(|(name, text)| Source { path: format!("{FOLDER}{name}.rs"), text: text.to_string() })
            .collect();
        circles(&all)
    };
    assert!(
        broken(&[("a", "use super::b::B;"), ("b", "use super::{kernel, launch};"), ("mod", "mod a; use self::a;")])
            .is_empty()
    );
    let circle = ["src/kernels: a uses b uses a"];
    assert_eq!(broken(&[("a", "use super::{b::B, launch};"), ("b", "fn f() { super::a::f() }")]), circle);
    assert_eq!(broken(&[("a", "use super::b;"), ("b", "use crate::kernels::a::A;")]), circle);
    let three =
        broken(&[("a", "use super::b;"), ("b", "use super::c;"), ("c", "use super::a;"), ("d", "use super::a;")]);
    assert_eq!(three, ["src/kernels: a uses b uses c uses a"]);
    // tests may use what they like, and comments name what they like
    let in_tests = "/// [`super::a`]\n#[cfg(test)]\nmod tests { use crate::kernels::a; }";
    assert!(broken(&[("a", "use super::b;"), ("b", in_tests)]).is_empty());
}

/// One circle for each file that is the first of one.
fn circles(files: &[Source]) -> Vec<String> {
    let stem = |s: &Source| s.path.strip_prefix(FOLDER).and_then(|p| p.strip_suffix(".rs")).map(str::to_string);
    let names: BTreeSet<String> = files.iter().filter_map(stem).filter(|name| name != "mod").collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in files {
        let Some(name) = stem(source).filter(|name| names.contains(name)) else { continue };
        let text = source.text.split("#[cfg(test)]").next().unwrap_or_default();
        let text = code(text, false).replace("crate::kernels::", "super::");
        let used = paths_from("super", &text).into_iter().map(|(_, used)| used);
        let others = used.filter(|used| names.contains(used) && *used != name).collect();
        uses.insert(name, others);
    }
    let mut done = BTreeSet::new();
    names.iter().filter_map(|name| circle(name, &uses, &mut Vec::new(), &mut done)).collect()
}

/// A way from `name` back to a file of `path`.
fn circle(
    name: &str,
    uses: &BTreeMap<String, BTreeSet<String>>,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<String> {
    if let Some(at) = path.iter().position(|p| p == name) {
        return Some(format!("src/kernels: {} uses {name}", path[at..].join(" uses ")));
    }
    if !done.insert(name.to_string()) {
        return None;
    }
    path.push(name.to_string());
    let found = uses.get(name)?.iter().find_map(|other| circle(other, uses, path, done));
    path.pop();
    found
}
