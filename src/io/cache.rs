//! Where things lie that only save time when they are there.

use std::path::PathBuf;

/// Another folder for them, or `off`.
pub const SWITCH: &str = "RUGOSA_CACHE";

/// The program's folder in the user's cache, where the system has one; none if the user wants none. It may not exist yet.
pub fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = var(SWITCH) {
        return Some(folder).filter(|f| f.as_os_str() != "off");
    }
    let base = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|home| home.join("Library/Caches"))
    } else {
        var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")))
    };
    base.map(|folder| folder.join("rugosa"))
}
