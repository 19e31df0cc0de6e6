//! A tokenizer as GGUF metadata, from the parts of its `tokenizers` pipeline: what llama.cpp's converter writes for it.

use super::tokenizer_gguf::{
    BYTE, CONTROL, MERGES, NORMAL, PRE, SCORES, TOKENS, TYPES, UNKNOWN, UNUSED, USER_DEFINED, name_of_words,
};
use crate::io::gguf::{Metadata, Value};
use serde_json::Value as Json;
use std::collections::HashMap;

/// What surrounds the pipeline.
pub(super) struct Around<'a> {
    pub bos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// The tokens that end a text or a turn, the one of the tokenizer first.
    pub ends: Vec<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub chat_templates: &'a [(String, String)],
}

/// The score of a piece that no merge makes: below all others.
const NO_MERGE: f32 = -1e9;

/// The metadata of a tokenizer, for an embedding of `rows` rows.
///
/// # Errors
/// What of it GGUF files have no words for.
pub(super) fn describe(pipeline: &Json, rows: usize, around: &Around<'_>) -> Result<Metadata, String> {
    let model = &pipeline["model"];
    let vocab = model["vocab"]
        .as_object()
        .filter(|_| model["type"] == "BPE")
        .ok_or_else(|| format!("a tokenizer of the type {} is not written to GGUF, only BPE", model["type"]))?;
    let mut tokens: Vec<(String, i64)> = (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: Option<u64>, text: &str, kind: i64| {
        if let Some(token) = id.and_then(|id| tokens.get_mut(id as usize)) {
            *token = (text.to_owned(), kind);
        }
    };
    let pieces = is_pieces(pipeline);
    for (text, id) in vocab {
        let is_byte = pieces && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        put(id.as_u64(), text, if is_byte { BYTE } else { NORMAL });
    }
    for added in pipeline["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str().unwrap_or_default();
        put(added["id"].as_u64(), text, if added["special"] == true { CONTROL } else { USER_DEFINED });
    }
    if let Some(unk) = around.unk.filter(|_| pieces).and_then(|id| tokens.get_mut(id as usize)) {
        unk.1 = UNKNOWN;
    }
    let mut all = Metadata::new();
    if pieces {
        all.insert("tokenizer.ggml.model".into(), Value::String("llama".into()));
        all.insert(PRE.into(), Value::String("default".into()));
        let space = normalizers(pipeline).any(|n| n["type"] == "Prepend");
        all.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(space));
        all.insert(SCORES.into(), scores(model, &tokens)?);
    } else {
        let nfc = normalizers(pipeline).any(|n| n["type"] == "NFC");
        let ignore_merges = model["ignore_merges"] == true;
        // without merges it does not matter where words end
        let name = (merges(model).next().is_none() && !nfc)
            .then_some("gpt-2")
            .or_else(|| name_of_words(&pipeline["pre_tokenizer"], nfc, ignore_merges))
            .ok_or("it cuts words in a way that GGUF has no name for here (its pre_tokenizer)")?;
        all.insert("tokenizer.ggml.model".into(), Value::String("gpt2".into()));
        all.insert(PRE.into(), Value::String(name.into()));
        all.insert(MERGES.into(), Value::Array(merges(model).map(|m| Value::String(m.join(" "))).collect()));
    }
    let (texts, kinds): (Vec<Value>, Vec<Value>) =
        tokens.into_iter().map(|(text, kind)| (Value::String(text), Value::I32(kind as i32))).unzip();
    all.insert(TOKENS.into(), Value::Array(texts));
    all.insert(TYPES.into(), Value::Array(kinds));
    surroundings(&mut all, rows, around);
    Ok(all)
}

fn surroundings(all: &mut Metadata, rows: usize, around: &Around<'_>) {
    let names = ["eos", "eot", "eom"].into_iter().zip(around.ends.iter().copied().map(Some));
    let others = [("bos", around.bos), ("unknown", around.unk), ("padding", around.pad)];
    for (name, id) in names.chain(others) {
        if let Some(id) = id.filter(|id| (*id as usize) < rows) {
            all.insert(format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
    }
    all.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(around.add_bos));
    all.insert("tokenizer.ggml.add_eos_token".into(), Value::Bool(around.add_eos));
    let mut named = Vec::new();
    for (name, text) in around.chat_templates {
        let key = if name == "default" || around.chat_templates.len() == 1 {
            "tokenizer.chat_template".to_owned()
        } else {
            named.push(Value::String(name.clone()));
            format!("tokenizer.chat_template.{name}")
        };
        all.insert(key, Value::String(text.clone()));
    }
    if !named.is_empty() {
        all.insert("tokenizer.chat_templates".into(), Value::Array(named));
    }
}

/// Whether it merges characters with ▁ for blanks, as SentencePiece does, and not bytes that are spelled as characters.
fn is_pieces(pipeline: &Json) -> bool {
    let bytes = |json: &Json| json.to_string().contains("\"ByteLevel\"");
    !bytes(&pipeline["pre_tokenizer"]) && !bytes(&pipeline["decoder"])
}

fn normalizers(pipeline: &Json) -> impl Iterator<Item = &Json> {
    let all = &pipeline["normalizer"];
    match all["normalizers"].as_array() {
        Some(several) => several.iter(),
        None => std::slice::from_ref(all).iter(),
    }
}

/// The pairs that are merged, in order.
fn merges(model: &Json) -> impl Iterator<Item = Vec<&str>> {
    model["merges"].as_array().into_iter().flatten().filter_map(|m| match m {
        Json::String(both) => both.split_once(' ').map(|(a, b)| vec![a, b]),
        other => Some(other.as_array()?.iter().filter_map(Json::as_str).collect()),
    })
}

/// SentencePiece merges what gives the piece of the best score: the earlier a merge, the better.
fn scores(model: &Json, tokens: &[(String, i64)]) -> Result<Value, String> {
    let mut first: HashMap<String, usize> = HashMap::new();
    for (rank, pair) in merges(model).enumerate() {
        first.entry(pair.concat()).or_insert(rank);
    }
    if first.is_empty() {
        return Err("it has no merges (model.merges), which scores are made of".into());
    }
    let score = |(text, kind): &(String, i64)| {
        let made = first.get(text).filter(|_| *kind == NORMAL).map(|rank| -(*rank as f32));
        Value::F32(made.unwrap_or(if *kind == NORMAL { NO_MERGE } else { 0.0 }))
    };
    Ok(Value::Array(tokens.iter().map(score).collect()))
}
