//! Safetensors: one file, or a folder with one or many, read through a memory map; and a writer.
//!
//! Layout: `u64` header length, JSON header (name -> dtype, shape, byte range), then the tensors' bytes without gaps.

mod folder;
mod write;

pub use folder::SafetensorsFolder;
#[cfg(feature = "hub")]
pub(in crate::io) use folder::is_shard;
pub use write::{OutEntry, stream_safetensors, write_safetensors};

use super::map::map_file;
use crate::error::{Error, Result};
use bytemuck::pod_collect_to_vec;
use half::{bf16, f16};
use memmap2::Mmap;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use ::safetensors::Dtype;

/// Longest header in bytes; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// File name of the weights of a model in one file.
pub const SINGLE: &str = "model.safetensors";
/// File name of the list of shards of a model in many files.
pub const INDEX: &str = "model.safetensors.index.json";

/// One tensor of a file. `data` is borrowed from the file's map.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    /// Little-endian elements, row-major, not necessarily aligned.
    pub data: &'a [u8],
    path: &'a Path,
}

impl RawTensor<'_> {
    /// The elements of an F32, F16 or BF16 tensor.
    ///
    /// # Errors
    /// [`Error::File`] for any other type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        Ok(match self.dtype {
            Dtype::F32 => pod_collect_to_vec(self.data),
            Dtype::F16 => pod_collect_to_vec::<u8, f16>(self.data).into_iter().map(f16::to_f32).collect(),
            Dtype::BF16 => pod_collect_to_vec::<u8, bf16>(self.data).into_iter().map(bf16::to_f32).collect(),
            _ => return Err(self.wrong_type("F32, F16 or BF16")),
        })
    }

    /// The same, all of which are finite.
    ///
    /// # Errors
    /// [`Error::File`] for any other type, or a number that is NaN or infinite.
    pub fn to_finite(&self) -> Result<Vec<f32>> {
        let values = self.to_f32()?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                Err(self
                    .error(format!("element {at} is {}: nothing can be computed with it; train it again", values[at])))
            }
            None => Ok(values),
        }
    }

    /// The elements of an I32, I16 or U8 tensor.
    ///
    /// # Errors
    /// [`Error::File`] for any other type.
    pub fn to_i32(&self) -> Result<Vec<i32>> {
        Ok(match self.dtype {
            Dtype::I32 => pod_collect_to_vec(self.data),
            Dtype::I16 => pod_collect_to_vec::<u8, i16>(self.data).into_iter().map(i32::from).collect(),
            Dtype::U8 => self.data.iter().map(|&b| b.into()).collect(),
            _ => return Err(self.wrong_type("I32, I16 or U8")),
        })
    }

    /// The elements of an I32 or I16 tensor of indices, none negative.
    ///
    /// # Errors
    /// [`Error::File`] for any other type, or a negative element.
    pub fn to_indices(&self) -> Result<Vec<u32>> {
        let wide = match self.dtype {
            Dtype::I32 | Dtype::I16 => self.to_i32()?,
            _ => return Err(self.wrong_type("I32 or I16")),
        };
        if let Some(negative) = wide.iter().find(|&&i| i < 0) {
            let why = match self.dtype {
                Dtype::I16 => {
                    "16 bits have wrapped, as the original RoSA code lets them for over 32767 rows or columns; the positions are lost, train it again"
                }
                _ => "the file is damaged, copy it again",
            };
            return Err(self.error(format!("holds the negative index {negative}: {why}")));
        }
        Ok(wide.into_iter().map(|i| i as u32).collect())
    }

    /// An error about this tensor.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::file(self.path, self.name, reason)
    }

    fn wrong_type(&self, expected: &str) -> Error {
        self.error(format!("has type {}, expected {expected}", self.dtype))
    }
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Byte range in the file.
    begin: usize,
    end: usize,
}

/// One safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Maps `path` and checks its header: every byte range lies in the file, fits its shape and type, and leaves no gap.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`].
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let (entries, metadata) = parse_header(path, &map)?;
        Ok(SafetensorsFile { path: path.to_path_buf(), map, entries, metadata })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The string pairs of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing.
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        let (name, e) = self
            .entries
            .get_key_value(name)
            .ok_or_else(|| Error::file(&self.path, name, "this tensor is missing from the file"))?;
        Ok(RawTensor { name, dtype: e.dtype, shape: &e.shape, data: &self.map[e.begin..e.end], path: &self.path })
    }
}

type Header = (BTreeMap<String, Entry>, BTreeMap<String, String>);

fn parse_header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let bad = |reason: String| Error::file(path, "header", reason);
    let size = bytes.len();
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("the file has {size} bytes, too few for safetensors; download it again")));
    };
    let length = u64::from_le_bytes(*length);
    if length > rest.len() as u64 || length > MAX_HEADER {
        return Err(bad(format!(
            "says that it is {length} bytes long, but the file has {size}; it is truncated or no safetensors file, download it again"
        )));
    }
    let (text, data) = rest.split_at(length as usize);
    let header: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| bad(format!("is not valid JSON: {e}")))?;
    let data_begin = 8 + text.len();

    let mut entries = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in header {
        if name == "__metadata__" {
            metadata = serde_json::from_value(value)
                .map_err(|_| bad("__metadata__ must map strings to strings".to_string()))?;
            continue;
        }
        let entry = parse_entry(&value, data.len(), data_begin).map_err(|reason| Error::file(path, &name, reason))?;
        entries.insert(name, entry);
    }

    let mut ranges: Vec<(usize, usize, &str)> = entries.iter().map(|(n, e)| (e.begin, e.end, n.as_str())).collect();
    ranges.sort_unstable();
    let mut at = data_begin;
    for (begin, end, name) in ranges {
        if begin != at {
            return Err(Error::file(path, name, "its bytes overlap another tensor's or leave a hole before them"));
        }
        at = end;
    }
    if at != size {
        return Err(bad(format!("describes {at} bytes, but the file has {size}; download it again")));
    }
    Ok((entries, metadata))
}

fn parse_entry(value: &Value, data_bytes: usize, data_begin: usize) -> Result<Entry, String> {
    let dtype = serde_json::from_value::<Dtype>(value["dtype"].clone())
        .map_err(|_| format!("has the unknown type {}", value["dtype"]))?;
    let shape: Vec<usize> = serde_json::from_value(value["shape"].clone())
        .map_err(|_| format!("shape {} is no list of sizes", value["shape"]))?;
    let [begin, end]: [usize; 2] = serde_json::from_value(value["data_offsets"].clone())
        .map_err(|_| format!("data_offsets {} is no pair of positions", value["data_offsets"]))?;
    if begin > end || end > data_bytes {
        return Err(format!(
            "lies at bytes {begin} to {end} of {data_bytes} in the file; the file is truncated or damaged, download it again"
        ));
    }
    let bits = shape.iter().try_fold(dtype.bitsize(), |n, &d| n.checked_mul(d));
    if bits != (end - begin).checked_mul(8) {
        return Err(format!("shape {shape:?} of {dtype} does not fit the {} bytes that it has", end - begin));
    }
    Ok(Entry { dtype, shape, begin: data_begin + begin, end: data_begin + end })
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct OutTensor<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Little-endian elements, row-major.
    pub data: Cow<'a, [u8]>,
}

impl<'a> OutTensor<'a> {
    /// An F32 tensor.
    pub fn f32(name: impl Into<String>, shape: &[usize], data: &'a [f32]) -> Self {
        Self::cast(name, Dtype::F32, shape, data)
    }

    /// An F16 tensor.
    pub fn f16(name: impl Into<String>, shape: &[usize], data: &'a [f16]) -> Self {
        Self::cast(name, Dtype::F16, shape, data)
    }

    /// A BF16 tensor.
    pub fn bf16(name: impl Into<String>, shape: &[usize], data: &'a [bf16]) -> Self {
        Self::cast(name, Dtype::BF16, shape, data)
    }

    /// An I32 tensor.
    pub fn i32(name: impl Into<String>, shape: &[usize], data: &'a [i32]) -> Self {
        Self::cast(name, Dtype::I32, shape, data)
    }

    /// An I16 tensor.
    pub fn i16(name: impl Into<String>, shape: &[usize], data: &'a [i16]) -> Self {
        Self::cast(name, Dtype::I16, shape, data)
    }

    /// A U8 tensor.
    pub fn u8(name: impl Into<String>, shape: &[usize], data: &'a [u8]) -> Self {
        Self::cast(name, Dtype::U8, shape, data)
    }

    /// A Bool tensor, one byte an element.
    pub fn bool(name: impl Into<String>, shape: &[usize], data: &[bool]) -> OutTensor<'static> {
        let data = Cow::Owned(data.iter().map(|&b| u8::from(b)).collect());
        OutTensor { name: name.into(), dtype: Dtype::BOOL, shape: shape.to_vec(), data }
    }

    /// The same tensor, owning its data.
    pub fn into_owned(self) -> OutTensor<'static> {
        OutTensor { data: Cow::Owned(self.data.into_owned()), name: self.name, dtype: self.dtype, shape: self.shape }
    }

    fn cast<T: bytemuck::NoUninit>(name: impl Into<String>, dtype: Dtype, shape: &[usize], data: &'a [T]) -> Self {
        OutTensor { name: name.into(), dtype, shape: shape.to_vec(), data: Cow::Borrowed(bytemuck::cast_slice(data)) }
    }
}

#[cfg(test)]
mod tests;
