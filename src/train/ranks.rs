//! What a run does where several ranks train together: each has the whole model and the whole of every step's rows, and computes
//! the micro-batches that are dealt to it.
//!
//! Gradients and the loss are summed before the optimiser sees them, so clipping, skipped steps and loss scales are decided alike
//! everywhere, and so are masks, for which the scores are summed. The first rank writes the run's folder and evaluates; the others
//! keep what a run keeps in a folder of their own, which is gone with them.

use super::evaluation::Evaluated;
use super::output::{CONFIG_FILE, INIT_ADAPTER, METRICS_FILE};
use super::resume::{FREE, SOURCES};
use super::state;
use super::trainable::Trainable;
use crate::adapters::MaskCollector;
use crate::csr::CsrPattern;
use crate::data::{Batch, now};
use crate::device::choose::{AdapterRow, list_devices};
use crate::device::{Device, DeviceClass, DeviceOptions};
use crate::dist::{Ranks, deal};
use crate::error::{Error, Result};
use crate::io::digest::Digest;
use crate::nn::Decoder;
use crate::optim::{Block, Rates};
use crate::tensor::Tensor;
use crate::train::config::TrainConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Steps between two looks at whether all ranks have the same adapter.
const COMPARED: u64 = 64;
/// How far the values of ranks on different devices may be apart by then, as a part of the largest: their sums round otherwise.
const APART: f32 = 0.05;

/// The configuration as this rank follows it, with the folder that it keeps its files in, unless it is the first: that one has the
/// run's.
///
/// # Errors
/// [`Error::Io`].
pub fn own_folder(mut config: TrainConfig) -> Result<(TrainConfig, Option<TempDir>)> {
    if Ranks::current().is_first() {
        return Ok((config, None));
    }
    let folder = tempfile::Builder::new().prefix("rugosa-rank-").tempdir();
    let folder = folder.map_err(Error::io(std::env::temp_dir()))?;
    config.out = folder.path().join("run");
    std::fs::create_dir(&config.out).map_err(Error::io(&config.out))?;
    Ok((config, Some(folder)))
}

/// Gives what the first rank has in the folder of a run that is resumed, its `out`, to the others, in theirs.
///
/// # Errors
/// Those of [`state::find`] and of the ranks; [`Error::Io`].
pub fn hand_out(out: &Path) -> Result<()> {
    let ranks = Ranks::current();
    if ranks.is_alone() {
        return Ok(());
    }
    let mut packed = Vec::new();
    if ranks.is_first() {
        let mut files: Vec<PathBuf> = [CONFIG_FILE, METRICS_FILE].map(PathBuf::from).into();
        let saved = state::find(out)?.map(|saved| saved.folder);
        for folder in saved.iter().cloned().chain([out.join(INIT_ADAPTER)]).filter(|folder| folder.is_dir()) {
            for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
                let path = entry.map_err(Error::io(&folder))?.path();
                files.extend(path.strip_prefix(out).map(Path::to_path_buf).ok().filter(|_| path.is_file()));
            }
        }
        for file in files.into_iter().filter(|file| out.join(file).exists()) {
            let bytes = std::fs::read(out.join(&file)).map_err(Error::io(&file))?;
            [file.to_string_lossy().as_bytes(), &bytes].into_iter().for_each(|part| pack(&mut packed, part));
        }
    }
    let packed = ranks.broadcast(packed)?;
    let mut rest = &packed[..];
    while let (false, Some((name, bytes))) = (ranks.is_first(), unpack(&mut rest).zip(unpack(&mut rest))) {
        let path = out.join(String::from_utf8_lossy(name).as_ref());
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(Error::io(&path))?;
        std::fs::write(&path, bytes).map_err(Error::io(&path))?;
    }
    Ok(())
}

fn pack(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u64).to_le_bytes());
    to.extend(bytes);
}

fn unpack<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<8>()?;
    let (bytes, rest) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
    *from = rest;
    Some(bytes)
}

/// What chat templates see as the time where the run begins, the same on all ranks.
///
/// # Errors
/// Those of the ranks.
pub fn clock(began: Option<i64>) -> Result<Option<i64>> {
    let ranks = Ranks::current();
    if ranks.is_alone() {
        return Ok(began);
    }
    let first = ranks.broadcast(began.unwrap_or_else(now).to_le_bytes().to_vec())?;
    Ok(first.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)))
}

/// The device of this rank: the one of a list of numbers that is its turn on its machine, or, where none is asked for, of those that
/// are like the best. Several ranks may share one.
///
/// # Errors
/// Those of [`list_devices`].
pub fn own_device(asked: Option<&String>) -> Result<Option<String>> {
    let ranks = Ranks::current();
    if ranks.is_alone() {
        return Ok(asked.cloned());
    }
    let turn = ranks.local_rank();
    let options = DeviceOptions::from_env(asked.cloned());
    let Some(selector) = &options.selector else {
        let rows = list_devices(&options)?;
        let best = rows.iter().find(|row| row.chosen);
        let is_alike = |row: &&AdapterRow| best.is_some_and(|best| kind(best) == kind(row));
        let alike: Vec<_> = rows.iter().filter(is_alike).collect();
        return Ok(if alike.len() < 2 { None } else { Some(alike[turn % alike.len()].index.to_string()) });
    };
    let listed: Vec<&str> = selector.split(',').map(str::trim).collect();
    let is_list = listed.len() > 1 && listed.iter().all(|n| n.parse::<usize>().is_ok());
    Ok(if is_list { Some(listed[turn % listed.len()].to_owned()) } else { asked.cloned() })
}

/// What ranks on one machine should have in common.
fn kind(row: &AdapterRow) -> (DeviceClass, &str) {
    (row.class, &row.api)
}

/// Refuses ranks that would not train one run, and more of them than a step has micro-batches. `sequences` are those of an epoch.
///
/// # Errors
/// [`Error::Invalid`] that names the rank and what differs; those of the ranks.
pub fn check_alike(
    config: &TrainConfig,
    sources: &BTreeMap<String, String>,
    device: &Device,
    sequences: usize,
) -> Result<()> {
    let ranks = Ranks::current();
    if ranks.is_alone() {
        return Ok(());
    }
    let text = config.located()?.to_toml()?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Error::invalid(CONFIG_FILE, e.message().to_owned()))?;
    let compared = table.into_iter().filter(|(key, _)| !FREE.iter().chain(SOURCES).any(|free| free == key));
    let mut facts: BTreeMap<String, String> =
        compared.map(|(key, value)| (format!("⟨{key}⟩"), value.to_string())).collect();
    facts.extend(sources.iter().map(|(key, digest)| (format!("the contents of ⟨{key}⟩"), digest.clone())));
    facts.insert("the version of rugosa".into(), env!("CARGO_PKG_VERSION").into());
    facts.insert("the precision".into(), format!("{:?}", device.precision()));
    let mine = serde_json::to_vec(&facts).map_err(|e| Error::invalid("the ranks", e.to_string()))?;
    let all: Vec<BTreeMap<String, String>> =
        ranks.gather(&mine)?.iter().map(|facts| serde_json::from_slice(facts).unwrap_or_default()).collect();
    for (rank, theirs) in all.iter().enumerate().skip(1) {
        if let Some(line) = difference(&all[0], theirs) {
            return Err(Error::invalid(format!("rank {rank}"), line));
        }
    }
    let of_step = sequences.div_ceil(config.batch_size.max(1)).min(config.micro_batches());
    if of_step < ranks.size() {
        let reason = format!(
            "{} of them, but a step has {of_step} micro-batches to deal out; start fewer, or use more \
             ⟨gradient_accumulation_steps⟩ (with a smaller ⟨batch_size⟩ for steps of as many rows) or more rows",
            ranks.size()
        );
        return Err(Error::invalid("ranks", reason));
    }
    Ok(())
}

fn difference(first: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Option<String> {
    let keys: BTreeSet<&String> = first.keys().chain(other.keys()).collect();
    let key = keys.into_iter().find(|key| first.get(*key) != other.get(*key))?;
    let shown = |facts: &BTreeMap<String, String>| facts.get(key).map_or("not given".to_owned(), String::clone);
    Some(format!(
        "{key}: {} here, but {} on rank 0; all ranks train one run, so give them the same options, files and program",
        shown(other),
        shown(first)
    ))
}

/// Which micro-batches of a step this rank computes.
pub fn share(ranks: &Ranks, window: &[Batch]) -> Vec<bool> {
    let tokens: Vec<usize> = window.iter().map(Batch::len).collect();
    deal(&tokens, ranks.size()).into_iter().map(|rank| rank == ranks.rank()).collect()
}

/// Sums the `loss` and the gradients of the `blocks` that train over the ranks. Waits for the device.
///
/// # Errors
/// Those of the ranks and of the device.
pub fn sum_gradients(ranks: &Ranks, blocks: &[Block], rates: Rates, loss: &Tensor) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let grads = || blocks.iter().filter(|b| rates.get(b.group).is_some()).map(|b| &b.grad).chain([loss]);
    let mut arena = Vec::with_capacity(grads().map(Tensor::len).sum());
    for grad in grads() {
        arena.extend(grad.read::<f32>()?);
    }
    ranks.sum(&mut arena)?;
    let mut rest = &arena[..];
    grads().try_for_each(|grad| {
        let (values, behind) = rest.split_at(grad.len());
        rest = behind;
        grad.write(values)
    })
}

/// Makes the scores of each rank those of all: the mean over the gradients that any of them took.
///
/// # Errors
/// Those of the ranks and of the device.
pub fn merge_scores(ranks: &Ranks, collector: &MaskCollector) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    for (index, (_, score, [taken, lost])) in collector.scores().enumerate() {
        let mut counts = [taken as f32, lost as f32];
        ranks.sum(&mut counts)?;
        let mut values = score.read::<f32>()?;
        values.iter_mut().for_each(|value| *value *= taken as f32);
        ranks.sum(&mut values)?;
        if counts[0] > 0.0 {
            values.iter_mut().for_each(|value| *value /= counts[0]);
        }
        score.write(&values)?;
        collector.set_counts(index, counts.map(|count| count as u32));
    }
    Ok(())
}

/// Refuses to go on where a rank has other masks.
///
/// # Errors
/// [`Error::Invalid`] that names it; those of the ranks.
pub fn check_masks(ranks: &Ranks, masks: &BTreeMap<String, CsrPattern>) -> Result<()> {
    let mut digest = Digest::default();
    for (name, mask) in masks.iter().filter(|_| !ranks.is_alone()) {
        digest.update(name.as_bytes());
        [&mask.row_offs, &mask.col_idx].into_iter().for_each(|part| digest.update(bytemuck::cast_slice(part)));
    }
    match first_other(ranks, &digest.finish())? {
        Some(rank) => Err(other_than_first(rank, "masks")),
        None => Ok(()),
    }
}

/// Whether the ranks compare what they have behind `after` steps.
pub fn is_compared(after: u64) -> bool {
    after.is_multiple_of(COMPARED)
}

/// Sees to it that all ranks have the same adapter. On devices that are alike it must be so; where they round otherwise, all go on
/// with that of the first.
///
/// # Errors
/// [`Error::Invalid`] that names a rank which computes wrongly; those of the ranks and of the device.
pub fn keep_together(ranks: &Ranks, device: &Device, model: &Decoder, trainable: &mut Trainable) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let mut digest = Digest::default();
    for block in trainable.blocks().iter() {
        digest.update(&block.value.read::<u8>()?);
    }
    let Some(rank) = first_other(ranks, &digest.finish())? else { return Ok(()) };
    let kind = format!("{}{:?}", device.caps().identity(), device.tiles());
    if first_other(ranks, &kind)?.is_none() {
        return Err(other_than_first(rank, "adapter"));
    }
    let mut apart = 0f32;
    for tensor in trainable.blocks().iter().flat_map(|b| [&b.value, &b.m, &b.v]) {
        let mine: Vec<f32> = tensor.read()?;
        let first: Vec<f32> = bytemuck::pod_collect_to_vec(&ranks.broadcast(bytemuck::cast_slice(&mine).to_vec())?);
        let largest = first.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        let differences = mine.iter().zip(&first).map(|(a, b)| (a - b).abs());
        apart = differences.fold(apart, |most, difference| most.max(difference / largest));
        tensor.write(&first)?;
    }
    let wrong = ranks.gather(&apart.to_le_bytes())?;
    let is_far = |bytes: &Vec<u8>| bytes.first_chunk().is_some_and(|b| f32::from_le_bytes(*b) > APART);
    match wrong.iter().position(is_far) {
        Some(rank) => Err(other_than_first(rank, "adapter")),
        None => model.write_sparse(),
    }
}

/// The first rank that says something else than rank 0.
fn first_other(ranks: &Ranks, what: &str) -> Result<Option<usize>> {
    if ranks.is_alone() {
        return Ok(None);
    }
    let all = ranks.gather(what.as_bytes())?;
    Ok(all.iter().position(|theirs| *theirs != all[0]))
}

fn other_than_first(rank: usize, what: &str) -> Error {
    let reason = format!(
        "its {what} differ from rank 0's, so one of the two computes wrongly; run rugosa selftest on their devices; the last \
         state is whole"
    );
    Error::invalid(format!("rank {rank}"), reason)
}

/// What the first rank's evaluation says, which it alone makes; to the others the loss, on which decisions rest.
///
/// # Errors
/// Those of the evaluation, an interruption of the first rank's on all; those of the ranks.
pub fn evaluated(ranks: &Ranks, evaluate: impl FnOnce() -> Result<Evaluated>) -> Result<Evaluated> {
    if ranks.is_alone() {
        return evaluate();
    }
    let found = ranks.is_first().then(evaluate);
    let said = match &found {
        Some(Err(Error::Interrupted)) => vec![0],
        Some(Ok(Evaluated { loss: Some(loss), .. })) => loss.to_le_bytes().to_vec(),
        Some(Ok(_)) | None => Vec::new(),
        Some(Err(_)) => return found.unwrap_or_else(|| Ok(Evaluated::default())),
    };
    let said = ranks.broadcast(said)?;
    match found {
        Some(found) => found,
        None if said == [0] => Err(Error::Interrupted),
        None => Ok(Evaluated { loss: said.first_chunk().map(|b| f64::from_le_bytes(*b)), ..Evaluated::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_packed_and_unpacked() {
        let mut packed = Vec::new();
        [&b"name"[..], b"", b"bytes"].into_iter().for_each(|part| pack(&mut packed, part));
        let mut rest = &packed[..];
        let parts: Vec<_> = std::iter::from_fn(|| unpack(&mut rest)).collect();
        assert_eq!(parts, [&b"name"[..], b"", b"bytes"]);
        assert!(unpack(&mut &packed[..packed.len() - 1][12..]).is_some(), "the empty one");
        assert!(unpack(&mut &[9, 0, 0, 0, 0, 0, 0, 0, 1][..]).is_none(), "cut short");
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let facts = |lr: &str| BTreeMap::from([("⟨lr⟩".to_owned(), lr.to_owned()), ("⟨seed⟩".into(), "1".into())]);
        assert_eq!(difference(&facts("0.1"), &facts("0.1")), None);
        let line = difference(&facts("0.1"), &facts("0.2")).unwrap();
        assert!(line.starts_with("⟨lr⟩: 0.2 here, but 0.1 on rank 0; "), "{line}");
        let line = difference(&facts("0.1"), &BTreeMap::new()).unwrap();
        assert!(line.starts_with("⟨lr⟩: not given here"), "{line}");
    }
}
