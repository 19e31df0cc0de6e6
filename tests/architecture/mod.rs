//! Holds the house to its plan: the order of layers, the order of files in `kernels`, the boundary to the GPU's API, the interface of every shader
//! variant on every platform, and the size of files. Each rule is a function that returns what breaks it; beside it
//! stands a test that shows it able to.

#[cfg(feature = "cuda")]
mod cuda;
mod environment;
mod files;
mod flags;
mod layers;
mod lexer;
mod shaders;
mod siblings;

use std::path::Path;

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the repository: its path from the root, with `/` on every system, and its text.
struct Source {
    path: String,
    text: String,
}

/// All text files under `folder` of the repository, in the order of their paths; build outputs are left out.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    walk(Path::new(ROOT), &Path::new(ROOT).join(folder), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|n| n == ".git") {
            continue; // a folder, or a file in a second work tree
        }
        let relative = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        if path.is_dir() {
            if !["target", "out"].contains(&relative.as_str()) {
                walk(root, &path, found);
            }
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            found.push(Source { path: relative, text });
        }
    }
}

/// Fails with every line of `broken`.
#[track_caller]
fn assert_none(broken: Vec<String>) {
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}
