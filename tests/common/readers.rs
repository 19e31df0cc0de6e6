//! Readers of files from elsewhere, each with a small valid file to start from: what `tests/fuzz` and the targets in
//! `fuzz/` feed with broken ones.
#![allow(dead_code)] // each user takes its part

use rugosa::data::{DataOptions, Dataset, Tokenizer};
use rugosa::dtype::DType;
use rugosa::error::Result;
use rugosa::io::adapter::AdapterFolder;
use rugosa::io::gguf::{GgufFile, GgufTensor, Metadata, Value, write_gguf};
use rugosa::io::safetensors::SafetensorsFile;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Each tensor of a file, as whatever it is.
pub fn safetensors(path: &Path) -> Result<()> {
    let file = SafetensorsFile::open(path)?;
    for name in file.names() {
        let tensor = file.get(name)?;
        // of each tensor one of these fits
        let _ = (tensor.to_f32(), tensor.to_i32(), tensor.to_indices());
    }
    Ok(())
}

/// Each tensor of a file.
pub fn gguf(path: &Path) -> Result<()> {
    let file = GgufFile::open(path)?;
    for name in file.names() {
        let _ = file.shape(name);
        file.tensor(name)?;
    }
    Ok(())
}

/// The tokenizer in a GGUF file, there and back.
pub fn tokenizer(path: &Path) -> Result<()> {
    let file = GgufFile::open(path)?;
    let tokenizer = Tokenizer::from_gguf(path, file.metadata())?;
    let ids = tokenizer.encode("abc abba\n<s>", true)?;
    tokenizer.decode(&ids, false)?;
    tokenizer.check_model(100)
}

/// Rows of every kind, with the tokenizer of [`metadata`].
pub fn rows(path: &Path) -> Result<()> {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        let mut metadata = metadata();
        let template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '\n' }}{% endfor %}";
        metadata.insert("tokenizer.chat_template".into(), Value::String(template.into()));
        Tokenizer::from_gguf(Path::new("a.gguf"), &metadata).expect("a tokenizer")
    });
    let options = DataOptions { seq_len: 512, ..DataOptions::default() };
    let set = Dataset::open(path, &options, Some(tokenizer), 99)?;
    assert!(set.examples().all(|e| e.ids.len() == e.labels.len() && e.ids.iter().all(|id| *id < 99)));
    Ok(())
}

pub const ROWS: &str = concat!(
    "{\"input_ids\": [1, 2, 3, 4], \"labels\": [-100, 2, 3, 4]}\n",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n",
    "{\"prompt\": \"abc\", \"response\": \"cba\"}\n",
    "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"c\"}\n",
    "{\"text\": \"abc\"}\n",
);

/// The adapter in `folder`, for the golden tiny Llama.
pub fn adapter(folder: &Path) -> Result<()> {
    let shape_of = |name: &str| match name.rsplit('.').next() {
        Some("down_proj") => Some((64, 176)),
        Some("gate_proj" | "up_proj") => Some((176, 64)),
        Some("q_proj" | "o_proj") => Some((64, 64)),
        Some("k_proj" | "v_proj") => Some((32, 64)),
        _ => None,
    };
    AdapterFolder::read(folder, shape_of).map(|a| drop(a.masks()))
}

/// Where a valid adapter folder is.
pub fn adapter_folder() -> PathBuf {
    Path::new(FIXTURES).join("adapter-rosa")
}

/// A byte-level tokenizer without merges, as GGUF files carry it.
pub fn metadata() -> Metadata {
    let text = |t: &str| Value::String(t.into());
    let printable = (33u8..=126).map(|b| Value::String(char::from(b).to_string()));
    let tokens: Vec<Value> = printable.chain(["Ġ", "Ċ", "<s>", "</s>", "ab"].map(text)).collect();
    let n = tokens.len();
    let types = (0..n).map(|i| Value::I32(if (n - 3..n - 1).contains(&i) { 3 } else { 1 })).collect();
    [
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ("tokenizer.ggml.bos_token_id", Value::U32(n as u32 - 3)),
        ("tokenizer.ggml.eos_token_id", Value::U32(n as u32 - 2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect()
}

/// A GGUF file with a tokenizer and one tensor, written to `path`.
pub fn write_gguf_file(path: &Path) {
    let tensor =
        GgufTensor { name: "a.weight".into(), dtype: DType::F32, shape: vec![2, 32], data: vec![0; 4 * 64].into() };
    write_gguf(path, &metadata(), &[tensor]).expect("a file");
}
