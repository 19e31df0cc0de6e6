//! The writer: any metadata, any tensors, one tensor in memory at a time.

use super::types::value_type as vt;
use super::value::{Metadata, Value};
use super::{DEFAULT_ALIGNMENT, GgufTensor, MAGIC, MAX_DIMS};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic_with;
use crate::io::disk;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

/// What a tensor of a file that is written is; its bytes come when it is their turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufEntry {
    pub name: String,
    pub dtype: DType,
    /// Outermost dimension first, `[out, in]` for a matrix.
    pub shape: Vec<usize>,
}

/// Writes a GGUF file of version 3, whole or not at all; tensors in the order given, aligned to `general.alignment` or 32 bytes.
///
/// # Errors
/// As [`stream_gguf`].
pub fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[GgufTensor<'_>]) -> Result<()> {
    let entry = |t: &GgufTensor<'_>| GgufEntry { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() };
    let entries: Vec<GgufEntry> = tensors.iter().map(entry).collect();
    stream_gguf(path, metadata, &entries, |i| Ok(Cow::Borrowed(&tensors[i].data)))
}

/// As [`write_gguf`], with the bytes of each tensor asked for by its place in `entries`, in that order, when they are written.
/// The disk is asked for room before it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Shape`] if data does not fit a shape; [`Error::Invalid`] for an array of mixed types, an alignment
/// that is none or too little room on the disk; those of `data`.
pub fn stream_gguf<'d>(
    path: &Path,
    metadata: &Metadata,
    entries: &[GgufEntry],
    mut data: impl FnMut(usize) -> Result<Cow<'d, [u8]>>,
) -> Result<()> {
    let layout = Layout::of(metadata, entries)?;
    disk::require_space(path, layout.bytes())?;
    write_atomic_with(path, |w| {
        let io = |e| Error::io(path)(e);
        w.write_all(&layout.head).map_err(io)?;
        for (i, (entry, bytes)) in entries.iter().zip(&layout.sizes).enumerate() {
            let data = data(i)?;
            if data.len() as u64 != *bytes {
                return Err(misfit(entry, data.len() as u64));
            }
            w.write_all(&data).map_err(io)?;
            let gap = bytes.next_multiple_of(layout.alignment) - bytes;
            w.write_all(&vec![0; gap as usize]).map_err(io)?;
        }
        Ok(())
    })
}

/// Bytes of the file that [`stream_gguf`] writes.
///
/// # Errors
/// As [`stream_gguf`], but for the disk's.
pub fn gguf_bytes(metadata: &Metadata, entries: &[GgufEntry]) -> Result<u64> {
    Ok(Layout::of(metadata, entries)?.bytes())
}

/// Where everything of a file lies.
struct Layout {
    /// All that comes before the tensors.
    head: Vec<u8>,
    alignment: u64,
    /// Bytes of each tensor.
    sizes: Vec<u64>,
}

impl Layout {
    fn of(metadata: &Metadata, entries: &[GgufEntry]) -> Result<Layout> {
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(v) => v.as_u64().filter(|a| a.is_power_of_two() && (8..=1 << 20).contains(a)).ok_or_else(|| {
                Error::invalid("general.alignment", format!("{v:?} is no power of two from 8 to 1048576"))
            })?,
        };
        let mut head = Vec::new();
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&3u32.to_le_bytes());
        head.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut head, key);
            head.extend_from_slice(&type_of(value).to_le_bytes());
            put_value(&mut head, value).map_err(|reason| Error::invalid(key, reason))?;
        }
        let (mut offset, mut sizes, mut names) = (0u64, Vec::with_capacity(entries.len()), BTreeSet::new());
        for entry in entries {
            if !names.insert(&entry.name) {
                return Err(Error::shape("write_gguf", format!("{} comes twice", entry.name)));
            }
            let bytes = put_info(&mut head, entry, offset)?;
            sizes.push(bytes);
            offset = (offset + bytes).next_multiple_of(alignment);
        }
        head.resize(head.len().next_multiple_of(alignment as usize), 0);
        Ok(Layout { head, alignment, sizes })
    }

    fn bytes(&self) -> u64 {
        let tensors: u64 = self.sizes.iter().map(|bytes| bytes.next_multiple_of(self.alignment)).sum();
        self.head.len() as u64 + tensors
    }
}

/// Appends the info of a tensor that lies at `offset` of the tensors; its bytes.
fn put_info(head: &mut Vec<u8>, entry: &GgufEntry, offset: u64) -> Result<u64> {
    let elements = entry.shape.iter().product::<usize>() as u64;
    let rows_fit = entry.shape.last().is_none_or(|&k| k % entry.dtype.block_elements() == 0);
    let Some(id) = entry.dtype.gguf_type() else {
        return Err(Error::shape("write_gguf", format!("{}: {} is no type of GGUF", entry.name, entry.dtype)));
    };
    let Some(bytes) = entry.dtype.file_bytes(elements).filter(|_| rows_fit && entry.shape.len() <= MAX_DIMS) else {
        return Err(misfit(entry, 0));
    };
    put_string(head, &entry.name);
    head.extend_from_slice(&(entry.shape.len() as u32).to_le_bytes());
    for &d in entry.shape.iter().rev() {
        head.extend_from_slice(&(d as u64).to_le_bytes());
    }
    head.extend_from_slice(&id.to_le_bytes());
    head.extend_from_slice(&offset.to_le_bytes());
    Ok(bytes)
}

fn misfit(entry: &GgufEntry, bytes: u64) -> Error {
    let GgufEntry { name, dtype, shape } = entry;
    Error::shape("write_gguf", format!("{name}: {shape:?} of {dtype} does not fit {bytes} bytes"))
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<(), String> {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(items) => {
            // an empty array has lost its type; readers look at the count first
            let kind = items.first().map_or(vt::U32, type_of);
            if items.iter().any(|v| type_of(v) != kind) {
                return Err("an array must hold values of one type".to_string());
            }
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&(items.len() as u64).to_le_bytes());
            items.iter().try_for_each(|v| put_value(out, v))?;
        }
    }
    Ok(())
}

fn type_of(value: &Value) -> u32 {
    match value {
        Value::U8(_) => vt::U8,
        Value::I8(_) => vt::I8,
        Value::U16(_) => vt::U16,
        Value::I16(_) => vt::I16,
        Value::U32(_) => vt::U32,
        Value::I32(_) => vt::I32,
        Value::U64(_) => vt::U64,
        Value::I64(_) => vt::I64,
        Value::F32(_) => vt::F32,
        Value::F64(_) => vt::F64,
        Value::Bool(_) => vt::BOOL,
        Value::String(_) => vt::STRING,
        Value::Array(_) => vt::ARRAY,
    }
}
