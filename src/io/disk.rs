//! Operations that change the disk, each of which a test can let go wrong.
//!
//! What must survive the end of the process at any moment is written through here. [`env::FAULT`] names an operation, counted
//! from 1 in each thread: the process ends there, or that operation and later ones fail as on a full disk or one that takes
//! nothing. A write at which that happens has put half of its bytes there.

use crate::env::{self, Fault, FaultKind};
use crate::error::{Error, Result};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Write,
    /// Waits until the disk has a file's bytes, or a folder's names.
    Sync,
    Rename,
    Remove,
}

thread_local! {
    /// The fault to come, and the operations up to it.
    static FAULT: Cell<Option<Fault>> = Cell::new(env::settings().fault);
}

/// The fault of an operation that is about to happen, if it is to have one.
fn due(operation: Operation, path: &Path) -> Option<FaultKind> {
    #[cfg(test)]
    record::note(operation, path);
    let _ = path; // of tests alone
    let mut fault = FAULT.get()?;
    fault.at = fault.at.saturating_sub(1);
    FAULT.set(Some(fault));
    // a full disk still does what needs no room
    let needs_room = matches!(operation, Operation::Create | Operation::Write);
    (fault.at == 0 && (needs_room || fault.kind != FaultKind::Full)).then_some(fault.kind)
}

fn fail(kind: FaultKind) -> std::io::Error {
    match kind {
        FaultKind::Kill => std::process::abort(),
        FaultKind::Full => ErrorKind::StorageFull.into(),
        FaultKind::ReadOnly => ErrorKind::ReadOnlyFilesystem.into(),
    }
}

/// To be called before an operation.
pub(super) fn check(operation: Operation, path: &Path) -> std::io::Result<()> {
    due(operation, path).map_or(Ok(()), |kind| Err(fail(kind)))
}

/// A file that is being written.
#[derive(Debug)]
pub struct OutFile<F = File> {
    file: F,
    path: std::path::PathBuf,
}

impl OutFile {
    /// An empty file at `path`; what was there is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<OutFile> {
        let create = || check(Operation::Create, path).and_then(|()| File::create(path));
        Ok(OutFile::over(create().map_err(Error::io(path))?, path))
    }

    /// The file at `path`, which is there, to be written at its end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(path: &Path) -> Result<OutFile> {
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(OutFile::over(file, path))
    }

    /// Cuts the file off after `bytes`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn truncate(&mut self, bytes: u64) -> Result<()> {
        check(Operation::Write, &self.path).and_then(|()| self.file.set_len(bytes)).map_err(Error::io(&self.path))
    }

    /// Waits until the disk has all of it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        check(Operation::Sync, &self.path).and_then(|()| self.file.sync_all()).map_err(Error::io(&self.path))
    }

    pub fn file(&self) -> &File {
        &self.file
    }
}

impl<F> OutFile<F> {
    pub(super) fn over(file: F, path: &Path) -> OutFile<F> {
        OutFile { file, path: path.to_path_buf() }
    }

    pub(super) fn into_inner(self) -> F {
        self.file
    }
}

impl<F: Write> Write for OutFile<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match due(Operation::Write, &self.path) {
            Some(kind) => {
                let _ = self.file.write(&bytes[..bytes.len() / 2]);
                Err(fail(kind))
            }
            None => self.file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Makes a folder, and those above it that are missing, so that they last through a loss of power.
///
/// # Errors
/// [`Error::Io`].
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    if !parent.exists() {
        create_folder(parent)?;
    }
    let create = || check(Operation::Create, path).and_then(|()| std::fs::create_dir(path));
    match create() {
        Err(e) if e.kind() != ErrorKind::AlreadyExists || !path.is_dir() => Err(Error::io(path)(e)),
        _ => sync_folder(parent),
    }
}

/// Gives the file or folder `from` the name `to`, on the same disk.
///
/// # Errors
/// [`Error::Io`].
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    check(Operation::Rename, to).and_then(|()| std::fs::rename(from, to)).map_err(Error::io(to))
}

/// Removes a file, if it is there.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_file(path: &Path) -> Result<()> {
    gone(path, |path| std::fs::remove_file(path))
}

/// Removes a folder and what is in it, if it is there.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_folder(path: &Path) -> Result<()> {
    gone(path, |path| std::fs::remove_dir_all(path))
}

fn gone(path: &Path, remove: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    match check(Operation::Remove, path).and_then(|()| remove(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Waits until the disk has the names in a folder, where the system can do that: Windows cannot, and its file systems keep a
/// journal of names.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_folder(path: &Path) -> Result<()> {
    let sync = || {
        check(Operation::Sync, path)?;
        match File::open(path) {
            Ok(folder) if cfg!(unix) => folder.sync_all(),
            _ => Ok(()), // a folder that can be written to need not be readable
        }
    };
    match sync() {
        // some network file systems
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        outcome => outcome.map_err(Error::io(path)),
    }
}

/// Asks the disk that `path` is to be written to whether it has room for `bytes`.
///
/// # Errors
/// [`Error::File`] with both sizes where it has not.
pub fn require_space(path: &Path, bytes: u64) -> Result<()> {
    match free_bytes(parent(path)) {
        Some(free) if free < bytes => {
            let reason = format!(
                "needs {} of disk space, and {} are free there; free some, or write to another disk",
                size(bytes),
                size(free)
            );
            Err(Error::file(path, "size", reason))
        }
        _ => Ok(()),
    }
}

/// What may still be written to the disk that `folder` is on; none where the system is not asked, or does not say.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let existing = folder.ancestors().find(|f| f.as_os_str().is_empty() || f.exists())?;
        let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
        let stat = rustix::fs::statvfs(existing).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib < 1024.0 => format!("{mib:.1} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// The folder that `path` is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Runs `work` with a fault at its `at`th operation; whether it came to that.
#[cfg(test)]
pub fn with_fault<T>(kind: FaultKind, at: u64, work: impl FnOnce() -> T) -> (T, bool) {
    FAULT.set(Some(Fault { kind, at }));
    let outcome = work();
    let left = FAULT.replace(None);
    (outcome, left.is_some_and(|fault| fault.at == 0))
}

#[cfg(test)]
pub use record::recorded;

#[cfg(test)]
mod record {
    use super::Operation;
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local! {
        static NOTES: RefCell<Vec<(Operation, PathBuf)>> = const { RefCell::new(Vec::new()) };
    }

    pub fn note(operation: Operation, path: &Path) {
        NOTES.with_borrow_mut(|notes| notes.push((operation, path.to_path_buf())));
    }

    /// What `work` does to the disk, in order.
    pub fn recorded(work: impl FnOnce()) -> Vec<(Operation, PathBuf)> {
        NOTES.take();
        work();
        NOTES.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_that_is_named_fails_and_so_do_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let work = || -> Result<()> {
            let mut file = OutFile::create(&path)?;
            file.write_all(b"12345678").map_err(Error::io(&path))?;
            file.sync()?;
            remove_file(&path)
        };
        for (kind, at, left) in [
            (FaultKind::ReadOnly, 1, None),
            (FaultKind::Full, 2, Some("1234")),
            (FaultKind::ReadOnly, 3, Some("12345678")),
        ] {
            let (outcome, came) = with_fault(kind, at, work);
            assert!(matches!(outcome, Err(Error::Io { .. })) && came, "{kind:?} at {at}");
            assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), left);
            let _ = std::fs::remove_file(&path);
        }
        let (outcome, came) = with_fault(FaultKind::Full, 3, work);
        assert!(outcome.is_ok() && came, "a full disk syncs and removes");
        let (outcome, came) = with_fault(FaultKind::ReadOnly, 9, work);
        assert!(outcome.is_ok() && !came);
    }

    #[test]
    fn room_is_asked_for_before_a_file_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        // the folders above it need not be there yet
        let path = dir.path().join("not/yet/a.gguf");
        assert!(require_space(&path, 1).is_ok());
        if cfg!(unix) {
            let message = require_space(&path, 1 << 60).unwrap_err().to_string();
            assert!(message.contains("a.gguf: size: needs 1073741824.0 GiB of disk space"), "{message}");
            assert!(message.contains("are free there; free some"), "{message}");
        }
    }

    #[test]
    fn folders_are_made_with_those_above_them_and_each_name_is_synced() {
        use Operation::*;
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("a/b"));
        let top = dir.path().to_path_buf();
        assert_eq!(
            recorded(|| create_folder(&b).unwrap()),
            [(Create, a.clone()), (Sync, top), (Create, b.clone()), (Sync, a)]
        );
        assert_eq!(recorded(|| create_folder(&b).unwrap()), []);
        std::fs::write(b.join("file"), "").unwrap();
        let error = create_folder(&b.join("file/c")).unwrap_err().to_string();
        assert!(error.contains("a part of this path is a file"), "{error}");
    }
}
