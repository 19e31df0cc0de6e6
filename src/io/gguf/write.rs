//! The writer.

use super::types::value_type as vt;
use super::value::{Metadata, Value};
use super::{DEFAULT_ALIGNMENT, GgufTensor, MAGIC, MAX_DIMS};
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use std::path::Path;

/// Writes a GGUF file of version 3, whole or not at all; tensors in the order given.
///
/// # Errors
/// [`Error::Io`]; [`Error::Shape`] if data does not fit a shape; [`Error::Invalid`] for an array of mixed types or an
/// alignment other than the default.
pub fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[GgufTensor<'_>]) -> Result<()> {
    if metadata.get("general.alignment").is_some_and(|a| a.as_u64() != Some(DEFAULT_ALIGNMENT)) {
        return Err(Error::invalid("general.alignment", format!("only {DEFAULT_ALIGNMENT} is written")));
    }
    let mut head = Vec::new();
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&3u32.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut head, key);
        head.extend_from_slice(&type_of(value).to_le_bytes());
        put_value(&mut head, value).map_err(|reason| Error::invalid(key, reason))?;
    }
    let mut offset = 0u64;
    for t in tensors {
        let elements = t.shape.iter().product::<usize>() as u64;
        let rows_fit = t.shape.last().is_none_or(|&k| k % t.dtype.block_elements() == 0);
        let Some(id) = t.dtype.gguf_type() else {
            return Err(Error::shape("write_gguf", format!("{}: {} is no type of GGUF", t.name, t.dtype)));
        };
        if !rows_fit || t.shape.len() > MAX_DIMS || t.dtype.file_bytes(elements) != Some(t.data.len() as u64) {
            let reason = format!("{}: {:?} of {} does not fit {} bytes", t.name, t.shape, t.dtype, t.data.len());
            return Err(Error::shape("write_gguf", reason));
        }
        put_string(&mut head, &t.name);
        head.extend_from_slice(&(t.shape.len() as u32).to_le_bytes());
        for &d in t.shape.iter().rev() {
            head.extend_from_slice(&(d as u64).to_le_bytes());
        }
        head.extend_from_slice(&id.to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
        offset = (offset + t.data.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    pad(&mut head);
    write_atomic(path, |w| {
        w.write_all(&head)?;
        for t in tensors {
            w.write_all(&t.data)?;
            let gap = t.data.len().next_multiple_of(DEFAULT_ALIGNMENT as usize) - t.data.len();
            w.write_all(&[0; DEFAULT_ALIGNMENT as usize][..gap])?;
        }
        Ok(())
    })
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
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
