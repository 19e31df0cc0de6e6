//! A model as a GGUF file.

use super::source::{MERGED_KEY, Source};
use super::types::OutType;
use super::{Written, asked, no_blocks};
use crate::data::Tokenizer;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::disk;
use crate::io::gguf::{Metadata, Value};
use crate::io::write::{GgufEntry, stream_gguf};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Divisors of rotary frequencies.
const ROPE_FREQS: &str = "rope_freqs.weight";
/// Pairs about the file that was read, not about the model.
const OF_THE_FILE: [&str; 3] = ["split.", "quantize.imatrix.", "general.quantized_by"];

/// Where the bytes of a tensor come from.
enum From {
    /// The model's tensor of this name, with the adapters.
    Model(String),
    /// As they are, in the file that was read.
    File,
    /// Made here.
    Made(Vec<u8>),
}

pub(super) fn write(source: &Source, out: &Path, to: OutType, go_on: &dyn Fn() -> bool) -> Result<Written> {
    let mut written = Written { matrices: BTreeMap::new(), bytes: 0, notes: Vec::new() };
    let (mut entries, mut from) = (Vec::new(), Vec::new());
    let mut fallen = 0;
    for (name, shape) in source.checkpoint.required() {
        let gguf = source
            .checkpoint
            .gguf_name(&name)
            .ok_or_else(|| Error::option("out", format!("{name} has no name in GGUF; write a folder")))?;
        let dtype = match *shape.as_slice() {
            [_, cols] => {
                let dtype = format(source, &name, &gguf, cols, to)?;
                *written.matrices.entry(dtype).or_default() += 1;
                fallen +=
                    usize::from(matches!(to, OutType::Recipe(r) if r.base.block_elements() > dtype.block_elements()));
                dtype
            }
            _ => DType::F32,
        };
        let kept = source.checkpoint.gguf().is_some() && source.stored(&name)? == dtype && !source.changes(&name);
        from.push(if kept { From::File } else { From::Model(name) });
        entries.push(GgufEntry { name: gguf, dtype, shape });
    }
    rest(source, &mut entries, &mut from)?;
    if fallen > 0 {
        let note = format!(
            "{fallen} matrices have rows that are no whole blocks of 256 and get a format of smaller blocks, as in llama.cpp"
        );
        written.notes.push(note);
    }
    let metadata = metadata(source, out, to, &written.matrices)?;
    disk::create_folder(disk::parent(out))?;
    written.bytes = entries.iter().filter_map(|e| e.dtype.file_bytes(e.shape.iter().product::<usize>() as u64)).sum();
    stream_gguf(out, &metadata, &entries, |i| {
        asked(go_on)?;
        match &from[i] {
            From::Model(name) => tensor(source, name, &entries[i]),
            From::File => Ok(source
                .checkpoint
                .gguf()
                .map_or(Ok(Cow::Borrowed(&[][..])), |f| f.tensor(&entries[i].name).map(|t| t.data))?),
            From::Made(bytes) => Ok(Cow::Borrowed(bytes)),
        }
    })?;
    Ok(written)
}

/// The format of a matrix.
fn format(source: &Source, name: &str, gguf: &str, cols: usize, to: OutType) -> Result<DType> {
    match to {
        OutType::Same => {
            let stored = source.stored(name)?;
            if stored.gguf_type().is_some() {
                return Ok(stored);
            }
            let reason = format!("{name} is {stored}, which is no type of GGUF; choose one, q8_0 or q4_k_m");
            Err(Error::option("type", reason))
        }
        OutType::Plain(dtype) => Ok(dtype),
        OutType::Nf4 { .. } => {
            Err(Error::option("type", format!("{to} is no type of GGUF: write a folder, or choose q4_k_m")))
        }
        OutType::Recipe(recipe) => {
            recipe.format(gguf, cols, source.model()).ok_or_else(|| no_blocks(name, cols, recipe.base))
        }
    }
}

/// What a file has besides what the decoder reads by name: all else of a GGUF file, and the divisors of Llama 3's frequencies.
fn rest(source: &Source, entries: &mut Vec<GgufEntry>, from: &mut Vec<From>) -> Result<()> {
    let Some(file) = source.checkpoint.gguf() else {
        if let Some(divisors) = source.checkpoint.config.rope_divisors() {
            let bytes = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
            entries.push(GgufEntry { name: ROPE_FREQS.into(), dtype: DType::F32, shape: vec![divisors.len()] });
            from.push(From::Made(bytes));
        }
        return Ok(());
    };
    let known: std::collections::BTreeSet<String> = entries.iter().map(|e| e.name.clone()).collect();
    for name in file.names().filter(|name| !known.contains(*name)) {
        let tensor = file.tensor(name)?;
        entries.push(GgufEntry { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape });
        from.push(From::File);
    }
    Ok(())
}

/// The bytes of a tensor with the adapters, in llama.cpp's order.
fn tensor<'s>(source: &'s Source, name: &str, entry: &GgufEntry) -> Result<Cow<'s, [u8]>> {
    let checkpoint = &source.checkpoint;
    if let [rows] = *entry.shape.as_slice() {
        let mut values = source.values(name)?;
        checkpoint.to_gguf_vector(name, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        return checkpoint.to_gguf_rows(name, rows, bytes.into());
    }
    checkpoint.to_gguf_rows(name, entry.shape[0], source.blocks(name, entry.dtype)?)
}

fn metadata(source: &Source, out: &Path, to: OutType, matrices: &BTreeMap<DType, usize>) -> Result<Metadata> {
    let mut all = match source.checkpoint.gguf_metadata() {
        Some(metadata) => metadata.clone(),
        None => of_folder(source, out)?,
    };
    all.retain(|key, _| !OF_THE_FILE.iter().any(|start| key.starts_with(start)));
    let file_type = match to {
        OutType::Recipe(recipe) => Some(recipe.file_type),
        _ => matrices.iter().max_by_key(|(_, n)| **n).and_then(|(dtype, _)| match dtype {
            DType::F32 => Some(0),
            DType::F16 => Some(1),
            DType::BF16 => Some(32),
            _ => None, // what the file says of itself holds
        }),
    };
    if let Some(file_type) = file_type {
        all.insert("general.file_type".into(), Value::U32(file_type));
    }
    all.insert("general.quantization_version".into(), Value::U32(2));
    let merged = source.merged()?;
    if !merged.is_empty() {
        all.insert(MERGED_KEY.into(), Value::Array(merged.into_iter().map(Value::String).collect()));
    }
    Ok(all)
}

/// Of a Hugging Face folder.
fn of_folder(source: &Source, out: &Path) -> Result<Metadata> {
    let checkpoint = &source.checkpoint;
    let path = checkpoint.path();
    let way_out = "; write a folder, and convert that with llama.cpp's convert_hf_to_gguf.py";
    let mut all = checkpoint
        .config
        .to_gguf()
        .map_err(|reason| Error::file(path.join("config.json"), "GGUF", format!("{reason}{way_out}")))?;
    let name = out.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    all.insert("general.name".into(), Value::String(name));
    let Some(tokenizer) = Tokenizer::of_model(checkpoint)? else {
        let reason = "is missing: a GGUF file has the tokenizer in it; add it, or write a folder";
        return Err(Error::file(path, "tokenizer.json", reason));
    };
    let more = tokenizer
        .to_gguf(checkpoint.config.vocab_size, &checkpoint.config.eos_token_ids)
        .map_err(|reason| Error::file(path.join("tokenizer.json"), "GGUF", format!("{reason}{way_out}")))?;
    all.extend(more);
    Ok(all)
}
