//! A model as a folder of safetensors.

use super::source::{MERGED_KEY, Source};
use super::types::OutType;
use super::{Written, asked, no_blocks};
use crate::data::Tokenizer;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::kind;
use crate::io::nf4::{LEVELS, dynamic_map};
use crate::io::safetensors::Dtype;
use crate::io::write::{OutEntry, copy_companions, write_folder};
use crate::quant::nf4::{self, Absmax, BLOCK, BLOCK2, Nf4};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = "config.json";

/// What the bytes of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of a tensor.
    Whole(DType),
    /// A tensor that is no part of the language model, as it lies.
    Other,
    /// One of the tensors that make an NF4 weight.
    Nf4 { double: bool, part: Nf4Part },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nf4Part {
    Codes,
    Absmax,
    Levels,
    NestedAbsmax,
    NestedLevels,
    State,
}

pub(super) fn write(
    source: &Source,
    out: &Path,
    to: Option<OutType>,
    shard_bytes: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Written> {
    let mut written = Written { matrices: BTreeMap::new(), bytes: 0, notes: Vec::new() };
    let (mut entries, mut from): (Vec<OutEntry>, Vec<(String, Part)>) = (Vec::new(), Vec::new());
    let mut decoded = None;
    for (name, shape) in source.checkpoint.required() {
        asked(go_on)?;
        let stored = source.stored(&name)?;
        let dtype = format(&name, &shape, stored, to)?;
        if shape.len() == 2 {
            *written.matrices.entry(dtype).or_default() += 1;
        }
        if to.is_none() && dtype != stored {
            decoded = Some((stored, dtype));
        }
        let parts = match dtype {
            DType::NF4 | DType::NF4_DOUBLE => nf4_entries(source, &name, &shape, dtype == DType::NF4_DOUBLE)?,
            _ => vec![(OutEntry { name: name.clone(), dtype: plain(dtype), shape }, Part::Whole(dtype))],
        };
        for (entry, part) in parts {
            written.bytes += entry.bytes();
            entries.push(entry);
            from.push((name.clone(), part));
        }
    }
    if let Some((stored, dtype)) = decoded {
        written.notes.push(format!(
            "{stored} lies in GGUF files alone; those matrices are written in {dtype} (⟨type⟩ says another)"
        ));
    }
    for tensor in source.checkpoint.others()? {
        let entry = OutEntry { name: tensor.name.to_owned(), dtype: tensor.dtype, shape: tensor.shape.to_vec() };
        written.bytes += entry.bytes();
        entries.push(entry);
        from.push((tensor.name.to_owned(), Part::Other));
    }
    // the parts of a weight follow each other
    let mut last = None;
    let data = |i: usize| {
        asked(go_on)?;
        let (name, part) = &from[i];
        match *part {
            Part::Whole(dtype) => source.blocks(name, dtype),
            Part::Other => source.checkpoint.other(name).map(|tensor| Cow::Borrowed(tensor.data)),
            Part::Nf4 { double, part } => nf4_bytes(source, name, double, part, &mut last).map(Cow::Owned),
        }
    };
    let quantised = from.iter().find_map(|(_, part)| match part {
        Part::Nf4 { double, .. } => Some(*double),
        Part::Whole(_) | Part::Other => None,
    });
    let config = config(source, &written.matrices, quantised)?;
    let text = format!("{config:#}\n");
    write_folder(out, &entries, shard_bytes, data, |at| {
        beside(source, at)?;
        write_atomic(&at.join(CONFIG), |w| w.write_all(text.as_bytes()))
    })?;
    Ok(written)
}

/// The format of a tensor in the folder.
fn format(name: &str, shape: &[usize], stored: DType, to: Option<OutType>) -> Result<DType> {
    let in_folders = |dtype: DType| !dtype.is_quantised() || matches!(dtype, DType::NF4 | DType::NF4_DOUBLE);
    match to {
        None if in_folders(stored) => Ok(stored),
        None => Ok(DType::F16),
        Some(OutType::Same) if in_folders(stored) => Ok(stored),
        Some(OutType::Plain(dtype)) => Ok(dtype),
        Some(OutType::Nf4 { double }) => {
            if shape.len() != 2 || !name.contains(".layers.") {
                return Ok(if in_folders(stored) { stored } else { DType::F16 });
            }
            let dtype = if double { DType::NF4_DOUBLE } else { DType::NF4 };
            if !shape[1].is_multiple_of(BLOCK) {
                return Err(no_blocks(name, shape[1], dtype));
            }
            Ok(dtype)
        }
        Some(OutType::Same) => {
            let reason = format!(
                "{name} is {stored}, which lies in GGUF files alone; choose bf16 or f16, or give ⟨out⟩ NAME.gguf"
            );
            Err(Error::option("type", reason))
        }
        Some(OutType::Recipe(recipe)) => {
            let reason = format!(
                "{} is a type of GGUF files: give ⟨out⟩ NAME.gguf, or choose bf16, f16, f32 or nf4",
                recipe.name
            );
            Err(Error::option("type", reason))
        }
    }
}

fn plain(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// The tensors that are the NF4 weight `name`, as bitsandbytes has them.
fn nf4_entries(source: &Source, name: &str, shape: &[usize], double: bool) -> Result<Vec<(OutEntry, Part)>> {
    let elements: usize = shape.iter().product();
    let blocks = elements / BLOCK;
    let entry = |ending: &str, dtype: Dtype, shape: Vec<usize>, part: Nf4Part| {
        (OutEntry { name: format!("{name}{ending}"), dtype, shape }, Part::Nf4 { double, part })
    };
    let state = state(source, name, shape, double)?;
    let mut all = vec![
        entry("", Dtype::U8, vec![elements / 2, 1], Nf4Part::Codes),
        entry(".absmax", if double { Dtype::U8 } else { Dtype::F32 }, vec![blocks], Nf4Part::Absmax),
        entry(".quant_map", Dtype::F32, vec![LEVELS.len()], Nf4Part::Levels),
        entry(".quant_state.bitsandbytes__nf4", Dtype::U8, vec![state.len()], Nf4Part::State),
    ];
    if double {
        all.push(entry(".nested_absmax", Dtype::F32, vec![blocks.div_ceil(BLOCK2)], Nf4Part::NestedAbsmax));
        all.push(entry(".nested_quant_map", Dtype::F32, vec![dynamic_map().len()], Nf4Part::NestedLevels));
    }
    Ok(all)
}

/// The bytes of one of them. `last`: the weight that was quantised last.
fn nf4_bytes(
    source: &Source,
    name: &str,
    double: bool,
    part: Nf4Part,
    last: &mut Option<(String, Nf4)>,
) -> Result<Vec<u8>> {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    match part {
        Nf4Part::Levels => return Ok(bytes(&LEVELS)),
        Nf4Part::NestedLevels => return Ok(bytes(dynamic_map())),
        Nf4Part::State => {
            let shape = source.checkpoint.stored(name)?.shape;
            return state(source, name, &shape, double);
        }
        _ => {}
    }
    let kept = last.take().filter(|(of, _)| of == name);
    let (_, q) = match kept {
        Some(kept) => last.insert(kept),
        None => last.insert((name.to_owned(), nf4::quantise(&source.values(name)?, double)?)),
    };
    Ok(match (part, &q.absmax) {
        (Nf4Part::Codes, _) => q.codes.clone(),
        (_, Absmax::Plain(absmax)) => bytes(absmax),
        (Nf4Part::NestedAbsmax, Absmax::Double(d)) => bytes(&d.absmax),
        (_, Absmax::Double(d)) => d.codes.clone(),
    })
}

/// The description of an NF4 weight: JSON, as bitsandbytes reads it. With double quantisation it has the mean of the maxima.
fn state(source: &Source, name: &str, shape: &[usize], double: bool) -> Result<Vec<u8>> {
    let dtype = match source.stored(name)? {
        DType::F32 => "float32",
        DType::F16 => "float16",
        _ => "bfloat16",
    };
    let mut state = json!({ "quant_type": "nf4", "blocksize": BLOCK, "dtype": dtype, "shape": shape });
    if double {
        let q = nf4::quantise(&source.values(name)?, true)?;
        let Absmax::Double(d) = q.absmax else { return Err(Error::shape("nf4", "no second maxima")) };
        state["nested_blocksize"] = json!(BLOCK2);
        state["nested_dtype"] = json!("float32");
        state["nested_offset"] = json!(f64::from(d.offset));
    }
    Ok(state.to_string().into_bytes())
}

/// `config.json` of a folder.
pub(super) fn config_json(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join(CONFIG);
    serde_json::from_slice(&kind::read(&path)?).map_err(|e| Error::file(&path, "content", e.to_string()))
}

/// `config.json` of what is written: that of the source, with what is another now.
fn config(source: &Source, matrices: &BTreeMap<DType, usize>, quantised: Option<bool>) -> Result<Value> {
    let mut json = match source.checkpoint.folder() {
        Some(folder) => config_json(folder)?,
        None => source.checkpoint.config.to_hf().as_object().cloned().unwrap_or_default(),
    };
    json.shift_remove("quantization_config");
    let most = matrices.iter().filter(|(dtype, _)| !dtype.is_quantised()).max_by_key(|(_, n)| **n);
    let dtype = match most.map(|(dtype, _)| *dtype) {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        _ => "float32",
    };
    let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    json.insert(key.into(), dtype.into());
    json.insert("tie_word_embeddings".into(), source.checkpoint.config.tie_word_embeddings.into());
    if let Some(double) = quantised {
        // what is no part of the language model lies as it did
        let mut skipped = vec!["lm_head".to_owned()];
        skipped.extend(source.checkpoint.other_parts());
        let quantisation = json!({
            "quant_method": "bitsandbytes",
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": double,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": skipped,
        });
        json.insert("quantization_config".into(), quantisation);
    }
    let merged = source.merged()?;
    if !merged.is_empty() {
        json.insert(MERGED_KEY.into(), merged.into());
    }
    Ok(Value::Object(json))
}

/// Tokenizer, chat template and generation configuration.
fn beside(source: &Source, to: &Path) -> Result<()> {
    if let Some(folder) = source.checkpoint.folder() {
        return copy_companions(folder, to);
    }
    let config = &source.checkpoint.config;
    if let Some(tokenizer) = Tokenizer::of_model(&source.checkpoint)? {
        tokenizer.save(to)?;
    }
    let generation = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
    });
    write_atomic(&to.join("generation_config.json"), |w| writeln!(w, "{generation:#}"))
}
