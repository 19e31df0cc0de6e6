//! Whose the run folder is: one process's at a time, and a new run's only where nothing of worth is in it.

use super::config::{PartialConfig, TrainConfig};
use super::output::{CONFIG_FILE, INIT_ADAPTER, METRICS_FILE, REPORT_FILE, SAMPLES_FILE, SUMMARY_FILE};
use super::summary::Summary;
use super::{events, full, resume, state};
use crate::data::{now, strftime};
use crate::error::{Error, Result};
use crate::io::adapter::{self, AdapterFolder};
use crate::io::atomic::{is_unfinished, write_atomic};
use crate::io::{disk, kind};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Holds the lock of a run folder, and the number of the process that does.
const LOCK_FILE: &str = "rugosa.lock";

/// A run folder that no other process trains in while this value lives. The system lets go of it when the process ends, however
/// that happens, so a lock file that was left behind locks nothing.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    /// Locked.
    _file: File,
}

impl RunLock {
    /// Locks the folder `out`, if it is one of a run.
    ///
    /// # Errors
    /// As [`RunLock::take`].
    pub fn take_existing(out: &Path) -> Result<Option<RunLock>> {
        let is_run = [LOCK_FILE, CONFIG_FILE].iter().any(|name| out.join(name).exists());
        is_run.then(|| RunLock::take(out)).transpose()
    }

    /// Locks the run folder `out`, which is there.
    ///
    /// # Errors
    /// [`Error::File`] that names the process which has it; [`Error::Io`].
    pub fn take(out: &Path) -> Result<RunLock> {
        let path = out.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        loop {
            let mut file = options.open(&path).map_err(Error::io(&path))?;
            match file.try_lock() {
                // another process may have removed the file between the two calls
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(out, &mut file)),
                // some network file systems have no locks; a run is worth more than one
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
            }
            // only to be told; a disk without room for it is noticed where it matters
            let number = format!("{}\n", std::process::id());
            let _ = file.set_len(0).and_then(|()| file.write_all(number.as_bytes()));
            return Ok(RunLock { path, _file: file });
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // before it is unlocked: whoever has opened it sees that it is gone
        let _ = std::fs::remove_file(&self.path);
    }
}

fn taken(out: &Path, file: &mut File) -> Error {
    let mut number = String::new();
    let _ = file.take(20).read_to_string(&mut number); // Windows lets nobody else read it
    let process = match number.trim().parse::<u32>() {
        Ok(number) => format!("process {number}"),
        Err(_) => "another process".to_owned(),
    };
    let reason = format!("{process} is training in this folder; wait for its end or stop it, or choose another ⟨out⟩");
    Error::file(out, "⟨out⟩", reason)
}

/// Whether the open file is still the one at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::io::Result<std::fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    id(file.metadata()) == id(std::fs::metadata(path))
}

/// Windows keeps the name of a file that is open.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Makes the folder of a new run and locks it, with its configuration in it: whether it can be written to is found out now, not
/// after hours. `lock` is its lock, if it was there before and was found to be free; `init` an adapter that it keeps in
/// [`INIT_ADAPTER`].
///
/// # Errors
/// As [`check_free`]; those of [`RunLock::take`]; [`Error::Io`].
pub fn create(config: &TrainConfig, init: Option<&AdapterFolder>, lock: Option<RunLock>) -> Result<RunLock> {
    let (out, text) = (&config.out, config.located()?.to_toml()?);
    disk::create_folder(out)?;
    let lock = match lock {
        Some(lock) => lock,
        None => {
            let lock = RunLock::take(out)?;
            check_free(config)?; // another process may have made it meanwhile
            lock
        }
    };
    sweep(out)?;
    let kept = out.join(INIT_ADAPTER);
    match init {
        Some(adapter) => {
            disk::create_folder(&kept)?;
            adapter.write(&kept)?;
        }
        // of a run that stopped before its first state
        None if kept.exists() && !config.init_adapter.as_ref().is_some_and(|own| is_same(own, &kept)) => {
            disk::remove_folder(&kept)?;
        }
        None => {}
    }
    write_atomic(&out.join(CONFIG_FILE), |w| w.write_all(text.as_bytes()))?;
    Ok(lock)
}

/// Refuses a folder that a new run would mix its files into. What a run left there that stopped before its first state is in
/// nobody's way: the same run makes it again, and where no step was done there is nothing to lose. The steps of the same run that
/// are lost.
///
/// # Errors
/// [`Error::File`] that says what is there; [`Error::Io`].
pub fn check_free(config: &TrainConfig) -> Result<usize> {
    let out = &config.out;
    let names = entries(out)?;
    let is_run = names.iter().any(|name| name == CONFIG_FILE);
    // the tensors of a run that stopped before it said what they are
    let watched = [METRICS_FILE, SAMPLES_FILE, SUMMARY_FILE, REPORT_FILE];
    let of_run = [CONFIG_FILE, INIT_ADAPTER, state::FOLDER, adapter::TENSORS_FILE, full::TENSORS_FILE];
    let is_of_run = |name: &str| watched.contains(&name) || of_run.contains(&name) || name.starts_with(events::PREFIX);
    let known = |name: &str| name == LOCK_FILE || is_unfinished(name) || (is_run && is_of_run(name));
    if !names.iter().all(|name| known(name)) || state::is_there(out) {
        return Err(in_use(out));
    }
    if !is_run {
        return Ok(0);
    }
    let then = configuration(out)?;
    // one that somebody wrote is not to be written over
    let again = PartialConfig::parse(&out.join(CONFIG_FILE), &then)
        .and_then(|options| TrainConfig::resolve(options, PartialConfig::default()))
        .and_then(|config| config.to_toml());
    if again.ok().as_ref() != Some(&then) {
        return Err(in_use(out));
    }
    let steps = steps_noted(out);
    match resume::same_run(config.clone(), &then, false) {
        Err(e) if steps > 0 => {
            let reason = format!(
                "it holds {steps} steps of another run, which stopped before its first state ({e}); choose another ⟨out⟩, or \
                 remove the folder"
            );
            Err(Error::file(out, "⟨out⟩", reason))
        }
        _ => Ok(steps),
    }
}

fn in_use(out: &Path) -> Error {
    let reason = "the run folder exists already and is not empty; choose another ⟨out⟩, or continue it with ⟨resume⟩";
    Error::file(out, "⟨out⟩", reason)
}

/// The line about a run that begins again, after so many steps.
pub fn again(steps: usize) -> Option<String> {
    let lost = format!("the run in this folder stopped before its first state: its {steps} steps are done again");
    (steps > 0).then_some(lost)
}

/// The configuration of the run in `out`.
///
/// # Errors
/// [`Error::Io`]; those of [`PartialConfig::parse`].
pub fn configuration(out: &Path) -> Result<String> {
    kind::read_text(&out.join(CONFIG_FILE))
}

/// Steps that the metrics in a run folder have.
pub fn steps_noted(out: &Path) -> usize {
    let is_step = |line: &&[u8]| line.ends_with(b"}") && line.starts_with(b"{\"step\":");
    std::fs::read(out.join(METRICS_FILE)).map_or(0, |text| text.split(|b| *b == b'\n').filter(is_step).count())
}

/// A folder in `runs` for a run on `data`, by the day and the file's name; one that is not there yet.
pub fn new_name(data: &Path) -> PathBuf {
    let stem = data.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
    let name: String = stem.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let first = format!("{}-{name}", strftime(now(), "%F"));
    let numbered = (2..).map(|n| format!("{first}-{n}"));
    let mut paths = std::iter::once(first.clone()).chain(numbered).map(|name| Path::new("runs").join(name));
    paths.find(|path| !path.exists()).unwrap_or_else(|| Path::new("runs").join(&first))
}

/// How a run stands, by what is in its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// A process has the folder.
    Running,
    Finished,
    /// There is a state to go on from.
    Stopped,
    /// There is none.
    Lost,
}

/// How the run in `out` stands.
pub fn state_of(out: &Path) -> RunState {
    let has = |name: &str| out.join(name).exists();
    let has_ended = || Summary::read(out).is_ok_and(|summary| summary.ended.is_some());
    match () {
        () if is_taken(out) => RunState::Running,
        () if state::is_there(out) => RunState::Stopped,
        () if has(adapter::CONFIG_FILE) || has("config.json") || has_ended() => RunState::Finished,
        () => RunState::Lost,
    }
}

/// Whether a process trains in the folder `out` now.
fn is_taken(out: &Path) -> bool {
    let lock = File::open(out.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Removes the files that a process left behind that died while it wrote them.
///
/// # Errors
/// [`Error::Io`].
pub fn sweep(out: &Path) -> Result<()> {
    let unfinished = entries(out)?.into_iter().filter(|name| is_unfinished(name));
    unfinished.map(|name| out.join(name)).try_for_each(|path| disk::remove_file(&path))
}

/// Whether two paths lead to one folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// Names in a folder; none where there is no folder.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into_owned());
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.and_then(|all| all.map(name).collect()).map_err(Error::io(folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_a_lock_that_was_left_behind_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        std::fs::write(out.join(LOCK_FILE), "4294967295 and more than a number\n").unwrap();
        let lock = RunLock::take_existing(out).unwrap().unwrap();
        let error = RunLock::take(out).unwrap_err().to_string();
        let named = format!("⟨out⟩: process {} is training in this folder", std::process::id());
        assert!(cfg!(windows) || error.contains(&named), "{error}");
        drop(lock);
        assert!(!out.join(LOCK_FILE).exists());
        assert!(RunLock::take_existing(out).unwrap().is_none(), "a folder without a run is left alone");
        drop(RunLock::take(out).unwrap());
    }
}
