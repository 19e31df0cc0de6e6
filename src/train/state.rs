//! The state of a run on disk, from which it goes on as if it had never stopped.
//!
//! A state is a folder: `state.json` (where the run stands, and what it was started with), `tensors.bin` (f32, one
//! tensor behind the other, as `state.json` lists them), `masks.safetensors` where there are masks, and last `DONE` with
//! the size and digest of each. It is written beside the one before and takes its place only when it is complete; at
//! every moment one of `state`, `state.new` and `state.old` can be read, whichever way the process ends.

use super::report::Skipped;
use crate::adapters::MaskCollector;
use crate::csr::CsrPattern;
use crate::data::Position;
use crate::device::tiles::TileTable;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::digest::{Digest, digest_file};
use crate::io::mask::{read_masks, write_masks};
use crate::optim::{Block, Group, LossScale};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Raised whenever a state of before could not be read any more.
const VERSION: u32 = 3;

const HEADER: &str = "state.json";
const TENSORS: &str = "tensors.bin";
const MASKS: &str = "masks.safetensors";
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
    /// Parameters in the order of `tensors.bin`, each with its value and two moments.
    pub blocks: Vec<BlockHeader>,
    /// While masks are collected: their scores, behind the parameters.
    pub scores: Option<Vec<ScoreHeader>>,
    pub has_masks: bool,
    /// The measured tiles of its products; none in states from before there were any.
    #[serde(default)]
    pub tiles: Option<SavedTiles>,
}

/// Tiles, and what they were measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedTiles {
    /// [`Caps::identity`](crate::device::Caps::identity)
    pub device: String,
    pub table: TileTable,
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
    folder: PathBuf,
}

/// The three places where the state of the run in `out` can be: in use, being written, and the one before.
fn places(out: &Path) -> [PathBuf; 3] {
    ["state", "state.new", "state.old"].map(|name| out.join(name))
}

/// Writes the state of the run in `out`; `header` is completed from `parts`. Waits for the device.
///
/// # Errors
/// [`Error::Io`]; those of a read-back. The state before is as it was then.
pub fn save(out: &Path, mut header: Header, parts: &Parts<'_>) -> Result<()> {
    let [now, fresh, old] = places(out);
    remove(&fresh)?;
    std::fs::create_dir(&fresh).map_err(Error::io(&fresh))?;

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

    let mut done = Done { files: BTreeMap::new() };
    done.files.insert(TENSORS.into(), write_tensors(&fresh.join(TENSORS), parts)?);
    if header.has_masks {
        write_masks(&fresh.join(MASKS), &parts.masks)?;
    }
    let text = serde_json::to_string_pretty(&header).map_err(|e| Error::invalid(HEADER, e.to_string()))?;
    write_atomic(&fresh.join(HEADER), |w| w.write_all(text.as_bytes()))?;
    for name in [HEADER, MASKS].into_iter().filter(|n| *n == HEADER || header.has_masks) {
        let (digest, bytes) = digest_file(&fresh.join(name))?;
        done.files.insert(name.into(), (bytes, digest));
    }
    let text = serde_json::to_string_pretty(&done).map_err(|e| Error::invalid(DONE, e.to_string()))?;
    write_atomic(&fresh.join(DONE), |w| w.write_all(text.as_bytes()))?;
    sync_folder(&fresh);

    if now.exists() {
        remove(&old)?;
        std::fs::rename(&now, &old).map_err(Error::io(&now))?;
    }
    std::fs::rename(&fresh, &now).map_err(Error::io(&fresh))?;
    sync_folder(out);
    remove(&old)
}

/// Removes every state of the run in `out`: the run is over.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_all(out: &Path) -> Result<()> {
    places(out).iter().try_for_each(|place| remove(place))
}

/// Whether the run in `out` has written a state, whole or not.
pub fn is_there(out: &Path) -> bool {
    places(out).iter().any(|place| place.exists())
}

/// The latest whole state of the run in `out`, or `None` if none was ever written.
///
/// # Errors
/// [`Error::File`] that names what is damaged, if all there is, is.
pub fn find(out: &Path) -> Result<Option<Saved>> {
    let mut best: Option<Saved> = None;
    let mut damage = None;
    for folder in places(out).into_iter().filter(|f| f.exists()) {
        match open(&folder) {
            Ok(saved) if best.as_ref().is_none_or(|b| b.header.step < saved.header.step) => best = Some(saved),
            Ok(_) => {}
            // one without its mark was being written when the process ended: no damage, but no state either
            Err(_) if !folder.join(DONE).exists() => {}
            Err(e) => damage = damage.or(Some(e)),
        }
    }
    match (best, damage) {
        (None, Some(e)) => Err(e),
        (best, _) => Ok(best),
    }
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
    let header: Header = read_json(&path)?;
    if header.version != VERSION {
        let reason = format!("is {}, this program reads {VERSION}; go on with the one that wrote it", header.version);
        return Err(Error::file(path, "version", reason));
    }
    Ok(Saved { header, folder: folder.to_path_buf() })
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
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::io(path))?);
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
    let file = out.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    file.sync_all().map_err(Error::io(path))?;
    Ok((bytes, digest.finish()))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&text).map_err(|e| Error::file(path, "JSON", e.to_string()))
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(e)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder last through a loss of power, where the system can do that.
fn sync_folder(folder: &Path) {
    if let Ok(file) = File::open(folder) {
        let _ = file.sync_all(); // Windows refuses: it has no such thing, and no need of it
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
