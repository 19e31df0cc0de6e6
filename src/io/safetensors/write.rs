//! The writer: one tensor in memory at a time.

use super::{Dtype, OutTensor};
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic_with;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// What a tensor of a file that is written is; its bytes come when it is their turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutEntry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl OutEntry {
    /// Bytes of the tensor.
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8) as u64
    }
}

/// Writes `tensors` and the string pairs `metadata` to `path`, whole or not at all. The same input gives the same bytes.
///
/// # Errors
/// [`Error::Io`]; [`Error::Shape`] if data does not fit a shape or a name comes twice.
pub fn write_safetensors(path: &Path, tensors: &[OutTensor<'_>], metadata: &BTreeMap<String, String>) -> Result<()> {
    let entry = |t: &OutTensor<'_>| OutEntry { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() };
    let entries: Vec<OutEntry> = tensors.iter().map(entry).collect();
    if let Some((_, t)) = entries.iter().zip(tensors).find(|(e, t)| e.bytes() != t.data.len() as u64) {
        return Err(misfit(&t.name, &t.shape, t.dtype, t.data.len()));
    }
    stream_safetensors(path, &entries, metadata, |i| Ok(Cow::Borrowed(&tensors[i].data)))
}

/// The same, with the bytes of each tensor asked for by its place in `entries` when they are written.
///
/// # Errors
/// As [`write_safetensors`]; those of `data`.
pub fn stream_safetensors<'d>(
    path: &Path,
    entries: &[OutEntry],
    metadata: &BTreeMap<String, String>,
    mut data: impl FnMut(usize) -> Result<Cow<'d, [u8]>>,
) -> Result<()> {
    // wide elements first, so that every tensor is aligned to its type
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&entries[a], &entries[b]);
        b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name))
    });
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_string(), json!(metadata));
    }
    let mut at = 0;
    for e in order.iter().map(|&i| &entries[i]) {
        let end = at + e.bytes();
        let entry = json!({"dtype": e.dtype, "shape": e.shape, "data_offsets": [at, end]});
        if header.insert(e.name.clone(), entry).is_some() {
            return Err(Error::shape("write_safetensors", format!("{} comes twice", e.name)));
        }
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomic_with(path, |w| {
        let io = |e| Error::io(path)(e);
        w.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        w.write_all(&header).map_err(io)?;
        for i in order {
            let (entry, data) = (&entries[i], data(i)?);
            if data.len() as u64 != entry.bytes() {
                return Err(misfit(&entry.name, &entry.shape, entry.dtype, data.len()));
            }
            w.write_all(&data).map_err(io)?;
        }
        Ok(())
    })
}

fn misfit(name: &str, shape: &[usize], dtype: Dtype, bytes: usize) -> Error {
    Error::shape("write_safetensors", format!("{name}: {shape:?} of {dtype} does not fit {bytes} bytes"))
}
