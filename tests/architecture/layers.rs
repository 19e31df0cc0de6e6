//! The order of layers, and what only one of them may name.

use super::lexer::code;
use super::{Source, assert_none, sources};

/// The modules at the top of `src/`. Each may use itself and those before it.
const LAYERS: &[&str] = &[
    "shown", "error", "near", "env", "dtype", "rng", "csr", // vocabulary
    "io", "quant", "data", // bytes and text, no GPU
    "dist", // processes
    "device", "tensor", "kernels", "cases", // the GPU
    "autograd", "optim", "nn", "adapters", "generate", "evaluate", "train", "merge", "prelude", // training
    "report",  // pages
    "bench",   // speeds
    "cli",     // the program
];

/// Marks of shader text.
const WGSL: &[&str] = &["@compute", "@workgroup_size", "@group(", "var<storage", "var<workgroup>"];

#[test]
fn layers_use_only_layers_below() {
    assert_none(sources("src").iter().flat_map(upward).collect());
}

#[test]
fn upward_paths_are_found() {
    let broken = |path: &str, text: &str| upward(&Source { path: path.into(), text: text.into() });
    assert!(broken("src/nn/linear.rs", "use crate::tensor::Tensor;\nuse crate::nn::x;").is_empty());
    assert!(broken("src/io/mod.rs", "//! see crate::train\nlet t = \"crate::train\";").is_empty());
    assert_eq!(
        broken("src/io/mod.rs", "\nlet t = crate::train::Run::new();"),
        ["src/io/mod.rs:2: io uses train, a layer above it"]
    );
    assert_eq!(broken("src/csr.rs", "use crate::{\n error::Error,\n io::{atomic, train},\n};").len(), 1);
    assert_eq!(broken("src/tensor/mod.rs", "pub(crate) fn f() -> crate :: nn::X").len(), 1);
    assert_eq!(
        broken("src/cli/mod.rs", "use crate::nonsense;"),
        ["src/cli/mod.rs:1: nonsense is no layer; add it to LAYERS"]
    );
    assert_eq!(broken("src/fresh/mod.rs", ""), ["src/fresh/mod.rs: fresh is no layer; add it to LAYERS"]);
}

/// What in a file points to a layer above its own.
fn upward(source: &Source) -> Vec<String> {
    let path = &source.path;
    let layer = path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
    if ["lib", "main"].contains(&layer) {
        return Vec::new();
    }
    let rank = |name: &str| LAYERS.iter().position(|l| *l == name);
    let Some(own) = rank(layer) else {
        return vec![format!("{path}: {layer} is no layer; add it to LAYERS")];
    };
    let mut broken = Vec::new();
    for (line, name) in crate_paths(&code(&source.text, false)) {
        match rank(&name) {
            None => broken.push(format!("{path}:{line}: {name} is no layer; add it to LAYERS")),
            Some(other) if other > own => broken.push(format!("{path}:{line}: {layer} uses {name}, a layer above it")),
            Some(_) => {}
        }
    }
    broken
}

/// The first segment behind each `crate::`, every one of a group, with its line.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    paths_from("crate", code)
}

/// The first segment behind each `root::`, every one of a group, with its line.
pub(super) fn paths_from(root: &str, code: &str) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t: &(usize, &str)| t.1 == text);
    let mut found = Vec::new();
    for i in 0..tokens.len() {
        if !(is(i, root) && is(i + 1, "::")) {
            continue;
        }
        if !is(i + 2, "{") {
            found.extend(tokens.get(i + 2).map(|t| (t.0, t.1.to_string())));
            continue;
        }
        let (mut depth, mut at) = (1, i + 3);
        while depth > 0 && at < tokens.len() {
            match tokens[at].1 {
                "{" => depth += 1,
                "}" => depth -= 1,
                name if depth == 1 && (is(at - 1, "{") || is(at - 1, ",")) => {
                    found.push((tokens[at].0, name.to_string()))
                }
                _ => {}
            }
            at += 1;
        }
    }
    found
}

/// Words, `::` and other characters, with their lines from 1.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    for (n, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let len = if word > 0 {
                word
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            out.push((n + 1, &rest[..len]));
            rest = rest[len..].trim_start();
        }
    }
    out
}

#[test]
fn only_the_backend_names_wgpu() {
    let all = sources("src");
    let module = all.iter().find(|s| s.path == "src/device/wgpu/mod.rs").expect("the backend");
    let exported = exported(&module.text);
    assert!(exported.iter().any(|e| e == "WgpuBackend"), "{exported:?}");
    assert_none(all.iter().flat_map(|s| api_names(s, &exported)).collect());
}

#[test]
fn names_of_the_api_are_found() {
    let exported = exported("mod a;\npub use a::{B, list};\npub use c::D;\nfn f() {}");
    assert_eq!(exported, ["B", "list", "D"]);
    let broken = |path: &str, text: &str| api_names(&Source { path: path.into(), text: text.into() }, &exported).len();
    assert_eq!(broken("src/device/mod.rs", "pub mod wgpu; // wgpu::Device\nlet b = wgpu::B::new();"), 0);
    assert_eq!(broken("src/cli/mod.rs", "use crate::device::wgpu::{D, list};\nuse crate::device::{wgpu, Caps};"), 0);
    assert_eq!(broken("src/device/wgpu/queue.rs", "use wgpu::Buffer;"), 0);
    assert_eq!(broken("src/tensor/mod.rs", "use wgpu::Buffer;"), 1);
    assert_eq!(broken("src/tensor/mod.rs", "fn f(x: &::wgpu::B) {}"), 1);
    assert_eq!(broken("src/tensor/mod.rs", "use wgpu as gpu;"), 1);
    assert_eq!(broken("src/tensor/mod.rs", "use wgpu::{B, Buffer};"), 1);
}

/// Uses of the crate `wgpu` outside of its backend: everything behind `wgpu::` that the backend's own module, which has
/// the same name, does not export.
fn api_names(source: &Source, exported: &[String]) -> Vec<String> {
    if source.path.starts_with("src/device/wgpu/") {
        return Vec::new();
    }
    let code = code(&source.text, false);
    let tokens = tokens(&code);
    let word = |i: usize| tokens.get(i).map_or("", |t| t.1);
    let known = |i: usize| exported.iter().any(|e| e == word(i));
    let mut broken = Vec::new();
    for i in (0..tokens.len()).filter(|&i| tokens[i].1 == "wgpu") {
        let before = if i > 0 { word(i - 1) } else { "" };
        let absolute = before == "::" && (i < 2 || !word(i - 2).starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        let fine = match word(i + 1) {
            "::" if word(i + 2) == "{" => {
                let names = (i + 3..tokens.len()).take_while(|&j| word(j) != "}");
                names.filter(|&j| word(j) != ",").all(known)
            }
            "::" => known(i + 2),
            "as" => before == "::",
            _ => before != "use" && before != "crate",
        };
        if absolute || !fine {
            broken.push(format!("{}:{}: names the crate wgpu; that is for src/device/wgpu", source.path, tokens[i].0));
        }
    }
    broken
}

/// The names that `pub use` brings out of a module.
fn exported(text: &str) -> Vec<String> {
    let code = code(text, false);
    let uses = code.split("pub use ").skip(1).filter_map(|u| u.split(';').next());
    uses.flat_map(|u| {
        let last = u.rsplit("::").next().unwrap_or(u);
        last.split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|n| !n.is_empty())
            .map(str::to_string)
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn shaders_are_files() {
    assert_none(sources("src").iter().flat_map(shader_text).collect());
}

#[test]
fn shader_text_is_found() {
    let broken = |text: &str| shader_text(&Source { path: "src/a.rs".into(), text: text.into() });
    assert!(broken("//! a kernel has one `@compute` entry point").is_empty());
    assert_eq!(
        broken("\nconst K: &str = \"@compute fn main() {}\";"),
        ["src/a.rs:2: shader text (@compute); put it under shaders/"]
    );
}

/// WGSL in Rust.
fn shader_text(source: &Source) -> Vec<String> {
    let code = code(&source.text, true);
    let lines = code.lines().enumerate();
    lines
        .filter_map(|(n, line)| {
            let mark = WGSL.iter().find(|mark| line.contains(**mark))?;
            Some(format!("{}:{}: shader text ({mark}); put it under shaders/", source.path, n + 1))
        })
        .collect()
}
