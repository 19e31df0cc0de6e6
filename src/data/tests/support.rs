//! A small tokenizer for tests: one token a byte, and a few special ones.

use crate::data::Tokenizer;
use crate::io::gguf::{Metadata, Value};
use std::path::Path;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

pub const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
    {% endif %}";

/// Special tokens, ids 256 and up.
pub const SPECIAL: [&str; 8] =
    ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"];
pub const BOS: u32 = 256;
pub const EOS: u32 = 257;
pub const VOCAB: usize = 264;

pub fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(texts.into_iter().map(|t| Value::String(t.into())).collect())
}

/// Metadata of the byte tokenizer with a chat template.
pub fn metadata(template: Option<&str>, bos: bool) -> Metadata {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let bytes: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let types = [vec![1; 256], vec![3; SPECIAL.len()]].concat();
    let mut m = Metadata::new();
    m.insert("tokenizer.ggml.model".into(), Value::String("gpt2".into()));
    m.insert("tokenizer.ggml.pre".into(), Value::String("smollm".into()));
    m.insert("tokenizer.ggml.tokens".into(), strings(bytes.iter().map(String::as_str).chain(SPECIAL)));
    m.insert("tokenizer.ggml.token_type".into(), Value::Array(types.into_iter().map(Value::I32).collect()));
    m.insert("tokenizer.ggml.merges".into(), strings([]));
    m.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(BOS));
    m.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(EOS));
    m.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(bos));
    if let Some(t) = template {
        m.insert("tokenizer.chat_template".into(), Value::String(t.into()));
    }
    m
}

pub fn tokenizer(template: Option<&str>, bos: bool) -> Tokenizer {
    Tokenizer::from_gguf(Path::new("bytes.gguf"), &metadata(template, bos)).unwrap()
}

/// A folder with one file `data.jsonl` of these bytes.
pub fn file(content: impl AsRef<[u8]>) -> (tempfile::TempDir, std::path::PathBuf) {
    file_named("data.jsonl", content)
}

pub fn file_named(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

/// What is learnt of an example, as text.
pub fn learnt(t: &Tokenizer, labels: &[i32]) -> String {
    let ids: Vec<u32> = labels.iter().filter_map(|&l| u32::try_from(l).ok()).collect();
    t.decode(&ids, false).unwrap()
}
