//! The reader.

use super::cursor::Cursor;
use super::types::{dtype_of, ggml_type_name, supported_types};
use super::value::{Metadata, Value};
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_COUNT, MAX_DIMS};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::kind::instead_of_model;
use crate::io::map::map_file;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct GgufTensor<'a> {
    pub name: String,
    pub dtype: DType,
    /// Outermost dimension first, `[out, in]` for a matrix: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Whole blocks, row by row.
    pub data: Cow<'a, [u8]>,
}

#[derive(Debug)]
struct Info {
    /// Number of its file, where a model is split.
    part: usize,
    ggml_type: u32,
    /// Outermost dimension first.
    shape: Vec<usize>,
    /// Byte range in the file; the end is known for supported types only.
    begin: usize,
    end: Option<usize>,
}

/// A memory-mapped GGUF file, or all parts of one that is split.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    /// Each part's path and bytes.
    parts: Vec<(PathBuf, Mmap)>,
    metadata: Metadata,
    tensors: BTreeMap<String, Info>,
}

impl GgufFile {
    /// Maps `path` and checks its header: every count, length, offset and shape against the size of the file. Of a model that is
    /// split, any part stands for all of them, which lie beside it.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] that names the field, or a part that is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let (metadata, tensors) = parse(path, &map)?;
        let count = metadata.get("split.count").and_then(Value::as_u64).unwrap_or(1);
        if count > 1 {
            return GgufFile::open_parts(path, count);
        }
        Ok(GgufFile { path: path.to_path_buf(), parts: vec![(path.to_path_buf(), map)], metadata, tensors })
    }

    /// The metadata is that of the first part.
    fn open_parts(path: &Path, count: u64) -> Result<Self> {
        let mut whole = GgufFile {
            path: path.to_path_buf(),
            parts: Vec::new(),
            metadata: Metadata::new(),
            tensors: BTreeMap::new(),
        };
        let names = part_names(path, count)?;
        if let Some(missing) = names.iter().find(|name| !name.exists()) {
            let reason =
                format!("this is one of {count} parts, and {} is not beside it; download it too", missing.display());
            return Err(Error::file(path, "split.count", reason));
        }
        for (part, name) in names.into_iter().enumerate() {
            let map = map_file(&name)?;
            let (metadata, tensors) = parse(&name, &map)?;
            let own = |key: &str| metadata.get(key).and_then(Value::as_u64);
            if (own("split.count"), own("split.no")) != (Some(count), Some(part as u64)) {
                let reason = format!("is not part {part} of {count}, as its name says; download it again");
                return Err(Error::file(&name, "split.no", reason));
            }
            if part == 0 {
                whole.metadata = metadata;
            }
            for (tensor, info) in tensors {
                if whole.tensors.insert(tensor.clone(), Info { part, ..info }).is_some() {
                    return Err(Error::file(&name, tensor, "is in another part too; download the model again"));
                }
            }
            whole.parts.push((name, map));
        }
        Ok(whole)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of tensor `name`, outermost dimension first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The file that tensor `name` is in: one of the parts.
    pub fn file_of(&self, name: &str) -> &Path {
        self.tensors.get(name).and_then(|t| self.parts.get(t.part)).map_or(&self.path, |(path, _)| path)
    }

    /// The tensor `name`, its data borrowed from the map.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing or of a type that is not supported.
    pub fn tensor(&self, name: &str) -> Result<GgufTensor<'_>> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::file(&self.path, name, "this tensor is missing from the file"))?;
        let (path, map) = &self.parts[info.part];
        let (Some(dtype), Some(end)) = (dtype_of(info.ggml_type), info.end) else {
            let reason = format!(
                "has the type {}, which is not read; take a file whose tensors are {}: the model's Q4_K_M or Q8_0, or make one \
                 with llama-quantize",
                ggml_type_name(info.ggml_type),
                supported_types()
            );
            return Err(Error::file(path, name, reason));
        };
        let data = Cow::Borrowed(&map[info.begin..end]);
        Ok(GgufTensor { name: name.to_string(), dtype, shape: info.shape.clone(), data })
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<(Metadata, BTreeMap<String, Info>)> {
    let bad = |field: &str| {
        let field = field.to_string();
        move |reason: String| Error::file(path, field, reason)
    };
    let mut c = Cursor::new(bytes);
    if !bytes.starts_with(MAGIC)
        && let Some(reason) = instead_of_model(path, &bytes[..bytes.len().min(64)])
    {
        return Err(Error::file(path, "content", reason));
    }
    if &c.array::<4>().map_err(bad("magic"))? != MAGIC {
        return Err(Error::file(path, "magic", "this is not a GGUF file: it does not begin with GGUF"));
    }
    match c.u32().map_err(bad("version"))? {
        2 | 3 => {}
        v if (1..16).contains(&v.swap_bytes()) => {
            return Err(Error::file(path, "version", "this is a big-endian GGUF file; use the little-endian one"));
        }
        v => return Err(Error::file(path, "version", format!("{v} is not supported, only 2 and 3; convert it again"))),
    }
    // name length, dimension count, type and offset; key length, value type and at least one byte
    let n_tensors = c.count("tensors", 8 + 4 + 4 + 8).and_then(sane).map_err(bad("tensor count"))?;
    let n_pairs = c.count("pairs", 8 + 4 + 1).and_then(sane).map_err(bad("metadata count"))?;

    let mut metadata = Metadata::new();
    for i in 0..n_pairs {
        let key = c.string().map_err(bad(&format!("metadata key {i}")))?;
        let value = c.value().map_err(bad(key))?;
        if metadata.insert(key.to_string(), value).is_some() {
            return Err(Error::file(path, key, "this key comes twice"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(v) => v
            .as_u64()
            .filter(|a| a.is_power_of_two() && *a <= 1 << 20)
            .ok_or_else(|| Error::file(path, "general.alignment", format!("{v:?} is no power of two up to 1048576")))?,
    };

    let mut raw = Vec::new();
    for i in 0..n_tensors {
        let name = c.string().map_err(bad(&format!("tensor {i}")))?;
        raw.push((name, tensor_info(&mut c).map_err(bad(name))?));
    }
    let data_begin = (c.position() as u64).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, (shape, ggml_type, offset)) in raw {
        let info = place(shape, ggml_type, offset, data_begin, alignment, bytes.len() as u64).map_err(bad(name))?;
        if tensors.insert(name.to_string(), info).is_some() {
            return Err(Error::file(path, name, "this tensor comes twice"));
        }
    }
    Ok((metadata, tensors))
}

/// A count that the size of the file allows need not be one: a file may be a hole.
fn sane(count: usize) -> Result<usize, String> {
    if count > MAX_COUNT {
        return Err(format!("says {count}; the largest models have some thousands, and {MAX_COUNT} are read at most"));
    }
    Ok(count)
}

/// The paths of all parts of a model, one of which is `path`: `name-00001-of-00003.gguf`.
fn part_names(path: &Path, count: u64) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let is_number = |text: &str| text.len() == 5 && text.parse() == Ok(count);
    let prefix = name
        .strip_suffix(".gguf")
        .and_then(|n| n.rsplit_once("-of-"))
        .filter(|(_, total)| is_number(total))
        .and_then(|(n, _)| n.rsplit_once('-'))
        .map(|(prefix, _)| prefix);
    let Some(prefix) = prefix else {
        let reason = format!(
            "this is one of {count} parts, which are found by names that end in -00001-of-{count:05}.gguf: give the files \
             their own names again, or join them with llama-gguf-split --merge"
        );
        return Err(Error::file(path, "split.count", reason));
    };
    Ok((1..=count).map(|i| path.with_file_name(format!("{prefix}-{i:05}-of-{count:05}.gguf"))).collect())
}

/// `(shape, ggml type, offset)` of the next tensor.
fn tensor_info(c: &mut Cursor<'_>) -> Result<(Vec<usize>, u32, u64), String> {
    let n = c.u32()? as usize;
    if n > MAX_DIMS {
        return Err(format!("has {n} dimensions, at most {MAX_DIMS} are possible"));
    }
    let mut shape = Vec::with_capacity(n);
    for _ in 0..n {
        let d = c.u64()?;
        shape.push(usize::try_from(d).map_err(|_| format!("has a dimension of {d}"))?);
    }
    shape.reverse();
    Ok((shape, c.u32()?, c.u64()?))
}

/// Checks that the tensor lies within the file.
fn place(
    shape: Vec<usize>,
    ggml_type: u32,
    offset: u64,
    data_begin: u64,
    alignment: u64,
    size: u64,
) -> Result<Info, String> {
    if !offset.is_multiple_of(alignment) {
        return Err(format!("begins at offset {offset}, which is no multiple of the alignment {alignment}"));
    }
    let begin = data_begin.checked_add(offset).filter(|&b| b <= size).ok_or_else(|| {
        format!("begins at offset {offset}, behind the end of the file; it is truncated, download it again")
    })?;
    let elements = shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d as u64))
        .ok_or_else(|| format!("has more elements than can be counted: {shape:?}"))?;
    let end = match dtype_of(ggml_type) {
        None => None,
        Some(dtype) => {
            let row = shape.last().copied().unwrap_or(1) as u64;
            let bytes = dtype.file_bytes(row).and(dtype.file_bytes(elements)).ok_or_else(|| {
                format!("has rows of {row}, no whole number of {dtype} blocks of {}", dtype.block_elements())
            })?;
            let end = begin.checked_add(bytes).filter(|&e| e <= size).ok_or_else(|| {
                format!(
                    "has {bytes} bytes from {begin} on, but the file ends at {size}; it is truncated, download it again"
                )
            })?;
            Some(end as usize)
        }
    };
    Ok(Info { part: 0, ggml_type, shape, begin: begin as usize, end })
}
