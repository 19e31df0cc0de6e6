//! Files that appear whole or not at all.

use super::disk::{self, Operation, OutFile};
use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::Path;

/// What the names of files begin and end with that are being written.
const UNFINISHED: (&str, &str) = (".rugosa-", ".part");

/// Writes `path` through a temporary file in the same folder that is synced and renamed over it at the end, and syncs the
/// folder. If `write` fails or the process dies, what was at `path` is untouched.
///
/// # Errors
/// The error of `write`, or [`Error::Io`] with `path`.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    write_atomic_with(path, |w| write(w).map_err(Error::io(path)))
}

/// The same, where what is written is made on the way, which may fail in its own way.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = disk::parent(path);
    let create = || -> std::io::Result<_> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED.0).suffix(UNFINISHED.1);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        disk::check(Operation::Create, path)?;
        builder.tempfile_in(folder)
    };
    let mut out = BufWriter::new(OutFile::over(create().map_err(Error::io(path))?, path));
    write(&mut out)?;
    let finish = || -> std::io::Result<()> {
        let file = out.into_inner().map_err(|e| e.into_error())?.into_inner();
        disk::check(Operation::Sync, path)?;
        file.as_file().sync_all()?;
        disk::check(Operation::Rename, path)?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    finish().map_err(Error::io(path))?;
    disk::sync_folder(folder)
}

/// Whether a file of this name is what a process left behind that died in [`write_atomic`].
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{Create, Rename, Sync};

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let err = write_atomic(&path, |w| {
            w.write_all(b"new")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(err.to_string().contains("a.txt") && err.to_string().contains("free some space"), "{err}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn bytes_are_synced_before_the_name_and_the_name_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let done = disk::recorded(|| write_atomic(&path, |w| w.write_all(b"x")).unwrap());
        let file = |operation| (operation, path.clone());
        let folder = (Sync, dir.path().to_path_buf());
        assert_eq!(done, [file(Create), file(Operation::Write), file(Sync), file(Rename), folder]);
    }

    #[test]
    fn what_was_being_written_is_known_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        write_atomic(&dir.path().join("a.txt"), |_| {
            let mut names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
            assert!(is_unfinished(names.next().unwrap().to_str().unwrap()));
            Ok(())
        })
        .unwrap();
        assert!(!is_unfinished("a.txt"));
    }
}
