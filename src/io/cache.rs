//! Where things lie that only save time when they are there.

use super::atomic::write_atomic;
use crate::env::{self, Cache};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The program's folder in the user's cache, where the system has one; none if the user wants none. It may not exist yet.
/// A folder that somebody asked for and that cannot be written is named once in a warning, and then none.
pub fn cache_folder() -> Option<PathBuf> {
    static ASKED_FOR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = |name: &str| env::system(name).map(PathBuf::from);
    let base = match &env::settings().cache {
        Cache::Folder(folder) => {
            return ASKED_FOR
                .get_or_init(|| match usable(folder) {
                    Ok(()) => Some(folder.clone()),
                    Err(e) => {
                        tracing::warn!("{}: {e}; nothing is kept from run to run", env::CACHE);
                        None
                    }
                })
                .clone();
        }
        Cache::Off => None,
        Cache::User if cfg!(windows) => folder("LOCALAPPDATA"),
        Cache::User if cfg!(target_os = "macos") => folder("HOME").map(|home| home.join("Library/Caches")),
        Cache::User => folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache"))),
    };
    base.map(|folder| folder.join("rugosa"))
}

/// Makes `folder` if it is missing, and tries whether a file can be written there.
fn usable(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let trial = folder.join(format!("trial-{}", std::process::id()));
    write_atomic(&trial, |w| w.write_all(b"rugosa"))?;
    std::fs::remove_file(&trial).map_err(Error::io(&trial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_and_left_empty_or_its_fault_is_named() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("a/b");
        usable(&folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        let file = outer.path().join("file");
        std::fs::write(&file, "").unwrap();
        let said = usable(&file.join("below")).unwrap_err().to_string();
        assert!(said.contains("below"), "{said}");
    }
}
