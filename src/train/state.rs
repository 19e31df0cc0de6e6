//! The states of a run on disk, from each of which it goes on as if it had never stopped.
//!
//! A state is a folder, `state/step-N` for the one before step N (from 0): `state.json` (where the run stands, and what it was
//! started with), `tensors.bin` (f32, one tensor behind the other, as `state.json` lists them), `masks.safetensors` where there
//! are masks, `best.bin` with the values behind the best evaluation where those are to be kept, the adapter as it is, in the files
//! that a finished run has, and last `DONE` with the size and digest of each.
//! `DONE` makes the state: it is there only once the disk has all the rest, and it is what is removed first. So whichever way
//! the process ends, the last state that was written is whole, and those before it are as they were.

use super::evaluator::Standing;
use super::report::Skipped;
use crate::adapters::MaskCollector;
use crate::csr::CsrPattern;
use crate::data::Position;
use crate::device::Precision;
use crate::device::tiles::TileTable;
use crate::error::{Error, Result};
use crate::io::adapter::{self, AdapterFolder};
use crate::io::atomic::write_atomic;
use crate::io::digest::{Digest, digest_file};
use crate::io::disk::{self, OutFile};
use crate::io::mask::{read_masks, write_masks};
use crate::optim::{Block, Group, LossScale};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Raised whenever a state of before could not be read any more.
const VERSION: u32 = 5;

/// The folder of the states in that of a run, and what a state's name begins with.
pub const FOLDER: &str = "state";
const STEP: &str = "step-";

const HEADER: &str = "state.json";
const TENSORS: &str = "tensors.bin";
const MASKS: &str = "masks.safetensors";
const BEST: &str = "best.bin";
const DONE: &str = "DONE";

/// Where a run stands between two optimiser steps, and what it was started with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    /// The step that comes next, counted over all phases.
    pub step: u64,
    /// The sequences that come next.
    pub position: Position,
    /// Steps that changed nothing, up to here.
    pub skipped: Skipped,
    /// Of the last step, where it was finite.
    pub loss: Option<f64>,
    pub loss_scale: LossScale,
    /// The run's `config.toml`.
    pub config: String,
    /// Digests of what the configuration names, by its key: `model`, `data`, `mask`, `init_adapter`.
    pub sources: BTreeMap<String, String>,
    /// What chat templates saw as the time, in seconds since 1970.
    pub clock: i64,
    /// Parameters in the order of `tensors.bin`, each with its value and two moments.
    pub blocks: Vec<BlockHeader>,
    /// While masks are collected: their scores, behind the parameters.
    pub scores: Option<Vec<ScoreHeader>>,
    pub has_masks: bool,
    /// Of the evaluations.
    pub standing: Standing,
    /// Whether there are values behind the best of them.
    pub has_best: bool,
    /// The measured tiles of its products.
    pub tiles: SavedTiles,
    pub platform: Platform,
}

/// Tiles, and what they were measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedTiles {
    /// [`Caps::identity`](crate::device::Caps::identity)
    pub device: String,
    pub table: TileTable,
}

/// What a run's numbers depend on beside its configuration and its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// What products are rounded to: `--precision f16` is f32 on a device without matrix units.
    pub precision: Precision,
    /// By what it is called in messages: the program's version, the device, its driver and API, and the environment variables that
    /// are set.
    pub other: BTreeMap<String, String>,
}

/// One of the optimiser's blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockHeader {
    pub group: Group,
    /// Elements.
    pub elements: usize,
    /// Optimiser steps taken; skipped ones are none.
    pub steps: u64,
}

/// The scores of a matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreHeader {
    pub module: String,
    /// Elements.
    pub elements: usize,
    /// Gradients in them.
    pub taken: u32,
    /// Gradients that were not finite.
    pub lost: u32,
}

/// What of a run lies on the device.
pub struct Parts<'a> {
    pub blocks: &'a [Block],
    pub collector: Option<&'a MaskCollector>,
    /// Empty where there are none.
    pub masks: BTreeMap<String, CsrPattern>,
    /// Where the run is to make one.
    pub adapter: Option<AdapterFolder>,
    /// The values of each block behind the best evaluation; empty where they are not kept.
    pub best: &'a [Vec<u8>],
}

/// The files of a state with their sizes in bytes and digests.
#[derive(Serialize, Deserialize)]
struct Done {
    files: BTreeMap<String, (u64, String)>,
}

/// A state that was found, whole.
#[derive(Debug)]
pub struct Saved {
    pub header: Header,
    pub folder: PathBuf,
    /// Lines about later states, which are damaged.
    pub damaged: Vec<String>,
}

/// Writes the state of the run in `out`; `header` is completed from `parts`. Waits for the device and the disk. Of the states
/// before it the last are kept, `keep` with this one.
///
/// # Errors
/// [`Error::Io`]; those of a read-back. The states before are as they were then.
pub fn save(out: &Path, mut header: Header, parts: &Parts<'_>, keep: usize) -> Result<()> {
    let (all, step) = (out.join(FOLDER), header.step);
    disk::create_folder(&all)?;
    let folder = all.join(format!("{STEP}{step}"));
    if open(&folder).is_ok() {
        return Ok(()); // a run that was resumed from it and has not moved on
    }
    header.version = VERSION;
    header.blocks = (parts.blocks.iter())
        .map(|b| Ok(BlockHeader { group: b.group, elements: b.value.len(), steps: b.steps.get()? }))
        .collect::<Result<_>>()?;
    header.scores = parts.collector.map(|c| {
        let score = |(module, t, [taken, lost]): (&str, &Tensor, [u32; 2])| ScoreHeader {
            module: module.to_owned(),
            elements: t.len(),
            taken,
            lost,
        };
        c.scores().map(score).collect()
    });
    header.has_masks = !parts.masks.is_empty();
    header.has_best = !parts.best.is_empty();

    remove_unfinished(out)?;
    remove(&folder)?; // a damaged one
    write(&folder, &header, parts).inspect_err(|_| {
        let _ = remove(&folder); // on a full disk it makes room again
    })?;
    // what lies ahead is damaged, or this step would not have come again
    let behind = |(other, _): &(u64, PathBuf)| *other < step;
    let (behind, ahead): (Vec<_>, Vec<_>) = folders(out)?.into_iter().filter(|(s, _)| *s != step).partition(behind);
    let old = behind.iter().rev().skip(keep.saturating_sub(1));
    ahead.iter().chain(old).try_for_each(|(_, folder)| remove(folder))
}

/// Writes the files of a state, its mark last.
fn write(folder: &Path, header: &Header, parts: &Parts<'_>) -> Result<()> {
    disk::create_folder(folder)?;
    let mut done = Done { files: BTreeMap::new() };
    done.files.insert(TENSORS.into(), write_tensors(&folder.join(TENSORS), parts)?);
    let mut names = vec![HEADER];
    if header.has_masks {
        write_masks(&folder.join(MASKS), &parts.masks)?;
        names.push(MASKS);
    }
    if header.has_best {
        write_best(&folder.join(BEST), parts.best)?;
        names.push(BEST);
    }
    if let Some(adapter) = &parts.adapter {
        adapter.write(folder)?;
        names.extend([adapter::CONFIG_FILE, adapter::TENSORS_FILE]);
    }
    write_json(&folder.join(HEADER), header)?;
    for name in names {
        let (digest, bytes) = digest_file(&folder.join(name))?;
        done.files.insert(name.into(), (bytes, digest));
    }
    write_json(&folder.join(DONE), &done)
}

/// Removes every state of the run in `out`, the last one last: the run is over.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_all(out: &Path) -> Result<()> {
    folders(out)?.iter().try_for_each(|(_, folder)| remove(folder))?;
    disk::remove_folder(&out.join(FOLDER))
}

/// Whether the run in `out` has written a state.
pub fn is_there(out: &Path) -> bool {
    folders(out).is_ok_and(|all| all.iter().any(|(_, folder)| folder.join(DONE).exists()))
}

/// The last whole state of the run in `out`, or `None` if none was ever written.
///
/// # Errors
/// [`Error::File`] that names what is damaged, if all there is, is; one of another version of this program.
pub fn find(out: &Path) -> Result<Option<Saved>> {
    let old = out.join(FOLDER);
    if old.join(DONE).exists() {
        return open(&old).map(Some); // of a version that kept one: refused
    }
    let mut damaged: Vec<Error> = Vec::new();
    for (step, folder) in folders(out)?.into_iter().rev() {
        // one without its mark was being written when the process ended: no damage, but no state either
        if !folder.join(DONE).exists() {
            continue;
        }
        match open(&folder) {
            Ok(saved) => {
                let line = |e: &Error| format!("{e}; the state before it is taken, that of step {step}");
                return Ok(Some(Saved { damaged: damaged.iter().map(line).collect(), ..saved }));
            }
            Err(e) if is_of_another_version(&e) => return Err(e),
            Err(e) => damaged.push(e),
        }
    }
    damaged.into_iter().next().map_or(Ok(None), Err)
}

/// States of the run in `out`, whole or not, by their steps.
fn folders(out: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = out.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(&folder))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(&folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let step = name.strip_prefix(STEP).and_then(|step| step.parse().ok());
        all.extend(step.map(|step: u64| (step, path)));
    }
    all.sort();
    Ok(all)
}

/// Removes a state. Without its mark it is none, whatever of it is left.
fn remove(folder: &Path) -> Result<()> {
    if folder.join(DONE).exists() {
        disk::remove_file(&folder.join(DONE))?;
    }
    if folder.exists() { disk::remove_folder(folder) } else { Ok(()) }
}

/// Removes what a process left behind that died while it wrote or removed a state.
fn remove_unfinished(out: &Path) -> Result<()> {
    let torn = folders(out)?.into_iter().filter(|(_, folder)| !folder.join(DONE).exists());
    torn.map(|(_, folder)| folder).try_for_each(|folder| disk::remove_folder(&folder))
}

const OTHER_VERSION: &str = "version";

fn is_of_another_version(error: &Error) -> bool {
    matches!(error, Error::File { field, .. } if field == OTHER_VERSION)
}

/// Opens the state in `folder` and checks each file against its mark.
fn open(folder: &Path) -> Result<Saved> {
    let done: Done = read_json(&folder.join(DONE))?;
    for (name, (bytes, digest)) in &done.files {
        let path = folder.join(name);
        if digest_file(&path)? != (digest.clone(), *bytes) {
            let reason = "is not as it was written; the disk or a copy has damaged it";
            return Err(Error::file(path, "digest", reason));
        }
    }
    let path = folder.join(HEADER);
    let Version { version } = read_json(&path)?;
    if version != VERSION {
        let reason = format!("is {version}, this program reads {VERSION}; go on with the one that wrote it");
        return Err(Error::file(path, OTHER_VERSION, reason));
    }
    Ok(Saved { header: read_json(&path)?, folder: folder.to_path_buf(), damaged: Vec::new() })
}

/// What every version's header has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Saved {
    /// The masks, where there are any. `shape_of` as in [`read_masks`].
    ///
    /// # Errors
    /// Those of [`read_masks`].
    pub fn masks(
        &self,
        shape_of: impl Fn(&str) -> Option<(usize, usize)>,
    ) -> Result<Option<BTreeMap<String, CsrPattern>>> {
        self.header.has_masks.then(|| read_masks(&self.folder.join(MASKS), shape_of)).transpose()
    }

    /// The values of each block behind the best evaluation; none where they are not kept.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where they are not those of the blocks.
    pub fn best_values(&self) -> Result<Vec<Vec<u8>>> {
        if !self.header.has_best {
            return Ok(Vec::new());
        }
        let path = self.folder.join(BEST);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let mut rest = &bytes[..];
        let mut values = Vec::with_capacity(self.header.blocks.len());
        for block in &self.header.blocks {
            let (value, behind) = rest
                .split_at_checked(4 * block.elements)
                .ok_or_else(|| Error::file(&path, "size", "is not that of the run's adapters; start another run"))?;
            values.push(value.to_vec());
            rest = behind;
        }
        Ok(values)
    }

    /// Puts parameters, moments and scores back. The blocks must be those of the same configuration and masks.
    ///
    /// # Errors
    /// [`Error::File`] if they are not; [`Error::Io`].
    pub fn restore(&self, blocks: &mut [Block], collector: Option<&MaskCollector>) -> Result<()> {
        let mismatch = |field: &str| {
            Error::file(self.folder.join(HEADER), field, "does not fit the run's adapters; start another run")
        };
        let found = blocks.iter().map(|b| (b.group, b.value.len()));
        if !found.eq(self.header.blocks.iter().map(|b| (b.group, b.elements))) {
            return Err(mismatch("blocks"));
        }
        let path = self.folder.join(TENSORS);
        let mut file = BufReader::with_capacity(1 << 20, File::open(&path).map_err(Error::io(&path))?);
        let mut fill = |t: &Tensor| -> Result<()> {
            let mut bytes = vec![0u8; 4 * t.len()];
            file.read_exact(&mut bytes).map_err(Error::io(&path))?;
            t.write(&bytes)
        };
        for (block, saved) in blocks.iter_mut().zip(&self.header.blocks) {
            [&block.value, &block.m, &block.v].into_iter().try_for_each(&mut fill)?;
            block.steps.set(saved.steps)?;
        }
        let Some(collector) = collector else { return Ok(()) };
        let scores = self.header.scores.as_deref().unwrap_or_default();
        if !collector.scores().map(|(m, t, _)| (m, t.len())).eq(scores.iter().map(|s| (s.module.as_str(), s.elements)))
        {
            return Err(mismatch("scores"));
        }
        for (i, ((_, score, _), saved)) in collector.scores().zip(scores).enumerate() {
            fill(score)?;
            collector.set_counts(i, [saved.taken, saved.lost]);
        }
        Ok(())
    }
}

/// Streams all tensors to `path`, one in host memory at a time.
fn write_tensors(path: &Path, parts: &Parts<'_>) -> Result<(u64, String)> {
    let mut out = BufWriter::with_capacity(1 << 20, OutFile::create(path)?);
    let (mut digest, mut bytes) = (Digest::default(), 0);
    let mut put = |t: &Tensor| -> Result<()> {
        let data = t.read::<u8>()?;
        digest.update(&data);
        bytes += data.len() as u64;
        out.write_all(&data).map_err(Error::io(path))
    };
    for block in parts.blocks {
        [&block.value, &block.m, &block.v].into_iter().try_for_each(&mut put)?;
    }
    for (_, score, _) in parts.collector.iter().flat_map(|c| c.scores()) {
        put(score)?;
    }
    out.into_inner().map_err(|e| Error::io(path)(e.into_error()))?.sync()?;
    Ok((bytes, digest.finish()))
}

/// The values of all blocks, one behind the other.
fn write_best(path: &Path, values: &[Vec<u8>]) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, OutFile::create(path)?);
    values.iter().try_for_each(|value| out.write_all(value)).map_err(Error::io(path))?;
    out.into_inner().map_err(|e| Error::io(path)(e.into_error()))?.sync()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&text).map_err(|e| Error::file(path, "JSON", e.to_string()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, "JSON", e.to_string()))?;
    write_atomic(path, |w| w.write_all(text.as_bytes()))
}

#[cfg(test)]
impl Parts<'_> {
    pub fn none() -> Self {
        Parts { blocks: &[], collector: None, masks: BTreeMap::new(), adapter: None, best: &[] }
    }
}

#[cfg(test)]
pub use tests::header as header_for_tests;

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
