//! Models and rows by their names on the Hugging Face Hub: `hf:org/name`, `hf:org/name@revision`, `hf:org/name/file.gguf`.
//!
//! [`local`] is all that readers of files need: it gives the path of what a name stands for, and fetches it first where it must. The
//! cache is the one that `huggingface_hub` has, with its environment variables. Without the feature `hub` every such name is refused.

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod fetch;
mod name;
#[cfg(feature = "hub")]
mod part;
#[cfg(feature = "hub")]
mod pick;
#[cfg(feature = "hub")]
mod settings;
#[cfg(all(test, feature = "hub"))]
mod tests;

pub use name::{HubName, PREFIX, RepoKind};
#[cfg(feature = "hub")]
pub use settings::Settings;

use crate::error::Result;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What happens while files are fetched.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Some files will be fetched: so many bytes, as far as that is known.
    Begin { name: &'a str, files: usize, bytes: u64 },
    /// So much of a file is there.
    Bytes { file: &'a str, done: u64 },
    /// Nothing happens for a moment.
    Waiting,
    /// A line for the user.
    Note(&'a str),
    /// All of them are there.
    End,
}

/// Sees what happens; false: the user wants no more of it.
pub type Watch<'a> = &'a (dyn Fn(Event<'_>) -> bool + Sync);

type Watcher = dyn Fn(Event<'_>) -> bool + Send + Sync;

static WATCH: OnceLock<Box<Watcher>> = OnceLock::new();

/// Shows every later download of this process to `watch`. To be called once; later calls change nothing.
pub fn set_watch(watch: impl Fn(Event<'_>) -> bool + Send + Sync + 'static) {
    let _ = WATCH.set(Box::new(watch));
}

/// The path of what `path` names: itself, or for a name on the Hub the model's folder or the file in the cache. In one process a
/// name stands for one commit.
///
/// # Errors
/// [`crate::error::Error::Invalid`] with the name, the reason and the way out where it cannot be had.
pub fn local(path: &Path, kind: RepoKind) -> Result<Cow<'_, Path>> {
    match HubName::of(path, kind)? {
        None => Ok(Cow::Borrowed(path)),
        Some(name) => Ok(Cow::Owned(resolve(&name)?.0)),
    }
}

/// `path`, where it is a name on the Hub with the commit that it stands for now: it will stand for the same files later.
///
/// # Errors
/// As [`local`].
pub fn pinned(path: &Path, kind: RepoKind) -> Result<PathBuf> {
    let Some(name) = HubName::of(path, kind)? else { return Ok(path.to_path_buf()) };
    let commit = resolve(&name)?.1;
    Ok(PathBuf::from(HubName { revision: Some(commit), ..name }.to_string()))
}

/// The path and the commit of a name.
#[cfg(feature = "hub")]
fn resolve(name: &HubName) -> Result<(PathBuf, String)> {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    type Known = BTreeMap<(&'static str, String), (PathBuf, String)>;
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    let key = |name: &HubName| (name.kind.plural(), name.to_string());
    if let Some(found) = known.get(&key(name)) {
        return Ok(found.clone());
    }
    let settings = Settings::from_env()?;
    let client = client::Client::new(settings.clone());
    let watch = |event: Event<'_>| WATCH.get().is_none_or(|watch| watch(event));
    let found = fetch::fetch(&settings, &client, name, &watch)?;
    let found = (found.path, found.commit);
    known.insert(key(name), found.clone());
    known.insert(key(&HubName { revision: Some(found.1.clone()), ..name.clone() }), found.clone());
    Ok(found)
}

#[cfg(not(feature = "hub"))]
fn resolve(name: &HubName) -> Result<(PathBuf, String)> {
    let reason = "this rugosa was built without the feature hub, which fetches by name: build it with --features hub, or download the files and give their path";
    Err(name.error(reason))
}

#[cfg(all(test, not(feature = "hub")))]
mod without {
    use super::*;

    #[test]
    fn names_are_refused_in_a_line_and_paths_are_not() {
        let said = local(Path::new("hf:org/name"), RepoKind::Model).unwrap_err().to_string();
        assert!(said.starts_with("hf:org/name: this rugosa was built without the feature hub"), "{said}");
        assert_eq!(local(Path::new("org/name"), RepoKind::Model).unwrap(), Path::new("org/name"));
    }
}
