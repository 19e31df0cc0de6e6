//! The cache that `huggingface_hub` and its kin share: `models--org--name/{refs,blobs,snapshots}`. What one of them has fetched, the
//! others find.

use super::name::{HubName, is_path};
use super::pick::{Wanted, wanted};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::disk::create_folder;
use crate::io::kind;
use crate::io::safetensors::INDEX;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Folders in a snapshot that are looked into, at most.
const DEPTH: usize = 4;

/// A repository that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A model's folder, or the file that was named.
    pub path: PathBuf,
    pub commit: String,
}

/// One repository's folder in the cache.
pub struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub fn of(settings: &Settings, name: &HubName) -> RepoCache {
        let folder = name.folder();
        RepoCache { folder: settings.cache.join(&folder), locks: settings.cache.join(".locks").join(folder) }
    }

    /// The commit that a revision was when it was last fetched.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let bytes = kind::read_up_to(&self.folder.join("refs").join(revision), 256).ok()?;
        let commit = String::from_utf8(bytes).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// Notes that `revision` is `commit`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn note_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        path.parent().map_or(Ok(()), create_folder)?;
        write_atomic(&path, |w| w.write_all(commit.as_bytes()))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// What of a blob has arrived.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Keeps other processes from fetching the same blob, for as long as the file is open. `waiting` is called where one does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<File> {
        create_folder(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().map_err(Error::io(&path))?;
        }
        Ok(file)
    }

    /// Makes a blob the file of a snapshot: a link, or the blob itself where the system has no links for us.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(file);
        if path.exists() {
            return Ok(path);
        }
        path.parent().map_or(Ok(()), create_folder)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        // a link whose blob is gone
        let _ = std::fs::remove_file(&path);
        if symlink(&target, &path).is_err() {
            std::fs::rename(self.blob(etag), &path).map_err(Error::io(&path))?;
        }
        Ok(path)
    }

    /// What `name` stands for, if all of it is here.
    pub fn find(&self, name: &HubName) -> Option<Found> {
        let commit = self.commit(name.revision())?;
        let snapshot = self.snapshot(&commit);
        let mut files = Vec::new();
        collect(&snapshot, "", DEPTH, &mut files);
        // one that is named may lie deeper
        files.extend(name.file.iter().filter(|file| snapshot.join(file).is_file()).cloned());
        files.sort();
        files.dedup();
        let (path, indexed) = match wanted(name, &files).ok()? {
            Wanted::Files(picked) if !is_whole(&picked) => return None,
            Wanted::Files(picked) if name.file.is_some() => (snapshot.join(&picked[0]), false),
            Wanted::Files(_) => (snapshot, false),
            Wanted::Indexed(_) => (snapshot, true),
        };
        let complete = || shards(&path.join(INDEX)).is_ok_and(|all| all.iter().all(|s| path.join(s).exists()));
        (!indexed || complete()).then(|| Found { path: path.clone(), commit })
    }
}

/// Whether files that say of how many they are one, as in `x-00001-of-00003.gguf`, are all there.
fn is_whole(files: &[String]) -> bool {
    let of = |file: &str| -> Option<usize> {
        let (stem, _) = file.rsplit_once('.')?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        rest.rsplit_once('-').filter(|(_, part)| part.bytes().all(|b| b.is_ascii_digit()))?;
        count.parse().ok()
    };
    let counts: Vec<usize> = files.iter().filter_map(|file| of(file)).collect();
    counts.first().is_none_or(|first| *first == counts.len())
}

/// The shards that an index names.
///
/// # Errors
/// [`Error::File`] for what is no index.
pub fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let wrong = |reason: &str| Error::file(index, "weight_map", reason);
    let json: serde_json::Value = serde_json::from_slice(&kind::read(index)?).map_err(|e| wrong(&e.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| wrong("must map tensor names to file names"))?;
    let name = |v: &serde_json::Value| v.as_str().filter(|s| is_path(s) && !s.contains('/')).map(str::to_owned);
    map.values().map(|v| name(v).ok_or_else(|| wrong("names what is no file of this folder"))).collect()
}

/// Whether a revision is a commit's full name.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The files below a folder, with `/` between the parts of their names. A link whose blob is gone is none.
fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        match std::fs::metadata(&path) {
            Ok(m) if m.is_file() => files.push(format!("{prefix}{name}")),
            Ok(m) if m.is_dir() && depth > 1 => collect(&path, &format!("{prefix}{name}/"), depth - 1, files),
            _ => {}
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
