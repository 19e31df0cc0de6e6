//! Where things lie that only save time when they are there.

use crate::env::{self, Cache};
use std::path::PathBuf;

/// The program's folder in the user's cache, where the system has one; none if the user wants none. It may not exist yet.
pub fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| env::system(name).map(PathBuf::from);
    let base = match &env::settings().cache {
        Cache::Folder(folder) => return Some(folder.clone()),
        Cache::Off => None,
        Cache::User if cfg!(windows) => folder("LOCALAPPDATA"),
        Cache::User if cfg!(target_os = "macos") => folder("HOME").map(|home| home.join("Library/Caches")),
        Cache::User => folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache"))),
    };
    base.map(|folder| folder.join("rugosa"))
}
