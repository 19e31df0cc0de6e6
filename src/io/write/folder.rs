//! A model folder: weights in one file or in shards with an index, and what lies beside them.

use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::disk::{self, Operation};
use crate::io::safetensors::{INDEX, OutEntry, SINGLE, stream_safetensors};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a shard, where nothing else is asked for: what Hugging Face's own tools take.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Room for what lies beside the weights: a large tokenizer has some 30 MB.
const BESIDE: u64 = 64 << 20;

/// Refuses to write to what is there already.
///
/// # Errors
/// [`Error::File`].
pub fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        let reason = "is there already, and stays as it is: choose another name, or remove it first";
        return Err(Error::file(path, "⟨out⟩", reason));
    }
    Ok(())
}

/// Writes the folder `path`, which must not be there: `entries` into files of at most `shard_bytes` bytes (a tensor is never cut),
/// an index where there are several, and what `beside` puts into the folder that it is given. All of it is written under another
/// name that is changed at the end. The bytes of each tensor are asked for by its place in `entries`.
///
/// # Errors
/// [`Error::File`] where `path` is there, or the disk has no room; [`Error::Io`]; those of `data` and `beside`.
pub fn write_folder<'d>(
    path: &Path,
    entries: &[OutEntry],
    shard_bytes: u64,
    mut data: impl FnMut(usize) -> Result<Cow<'d, [u8]>>,
    beside: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    refuse_existing(path)?;
    let total: u64 = entries.iter().map(OutEntry::bytes).sum();
    disk::require_space(path, total + BESIDE)?;
    let parent = disk::parent(path);
    disk::create_folder(parent)?;
    let unfinished = new_folder(parent)?;
    let at = unfinished.path();
    let shards = shards(entries, shard_bytes);
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut places = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => SINGLE.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let own = &entries[shard.clone()];
        stream_safetensors(&at.join(&name), own, &metadata, |i| data(shard.start + i))?;
        places.extend(own.iter().map(|e| (e.name.clone(), Value::from(name.as_str()))));
    }
    if shards.len() > 1 {
        places.sort_keys();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
        write_atomic(&at.join(INDEX), |w| writeln!(w, "{index:#}"))?;
    }
    beside(at)?;
    disk::rename(at, path)?;
    let _ = unfinished.keep(); // it has another name now
    disk::sync_folder(parent)
}

/// A folder that is removed again unless it gets another name.
pub(in crate::io) fn new_folder(parent: &Path) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rugosa-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let create = || {
        disk::check(Operation::Create, parent)?;
        builder.tempdir_in(parent)
    };
    create().map_err(Error::io(parent))
}

/// Runs of entries that a file holds.
fn shards(entries: &[OutEntry], most: u64) -> Vec<std::ops::Range<usize>> {
    let mut all: Vec<std::ops::Range<usize>> = Vec::new();
    let mut held = 0;
    for (i, entry) in entries.iter().enumerate() {
        match all.last_mut() {
            Some(shard) if held + entry.bytes() <= most => {
                shard.end = i + 1;
                held += entry.bytes();
            }
            _ => {
                all.push(i..i + 1);
                held = entry.bytes();
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::safetensors::{Dtype, SafetensorsFolder};

    fn entries() -> Vec<OutEntry> {
        let entry = |(name, n): (&str, usize)| OutEntry { name: name.into(), dtype: Dtype::U8, shape: vec![n] };
        [("c", 6), ("a", 5), ("b", 20), ("d", 1)].map(entry).into()
    }

    #[test]
    fn shards_hold_what_fits_and_the_index_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let (path, entries) = (dir.path().join("deep/model"), entries());
        let bytes = |i: usize| Ok(vec![i as u8; entries[i].bytes() as usize].into());
        write_folder(&path, &entries, 12, bytes, |at| write_atomic(&at.join("x"), |w| w.write_all(b"y"))).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let shard = |i| format!("model-{i:05}-of-00003.safetensors");
        assert_eq!(names, [shard(1), shard(2), shard(3), INDEX.into(), "x".into()]);
        let folder = SafetensorsFolder::open(&path).unwrap();
        assert_eq!(folder.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(folder.get("b").unwrap().unwrap().data, [2; 20]);
        assert!(folder.file_of("a").unwrap().ends_with(shard(1)) && folder.file_of("d").unwrap().ends_with(shard(3)));
        let index: Value = serde_json::from_slice(&std::fs::read(path.join(INDEX)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 32);
        // what is there stays
        let message = write_folder(&path, &entries, 12, bytes, |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("is there already"), "{message}");
    }

    #[test]
    fn a_folder_that_cannot_be_finished_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, entries) = (dir.path().join("model"), entries());
        let bytes = |i: usize| Ok(vec![0; entries[i].bytes() as usize].into());
        let lost = |i: usize| if i == 3 { Err(Error::file("m", "d", "is lost")) } else { bytes(i) };
        assert!(write_folder(&path, &entries, 100, lost, |_| Ok(())).unwrap_err().to_string().contains("is lost"));
        let beside = |_: &Path| Err(Error::invalid("x", "fails"));
        assert!(write_folder(&path, &entries, 100, bytes, beside).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // at every operation on a full disk
        for at in 1.. {
            let work = || write_folder(&path, &entries, 12, bytes, |_| Ok(()));
            let (outcome, came) = disk::with_fault(crate::env::FaultKind::ReadOnly, at, work);
            if !came {
                outcome.unwrap();
                break;
            }
            if outcome.is_err() {
                assert!(!path.join(INDEX).exists() || std::fs::read_dir(dir.path()).unwrap().count() == 1, "{at}");
            }
            let _ = std::fs::remove_dir_all(&path);
        }
        assert!(SafetensorsFolder::open(&path).is_ok());
    }
}
