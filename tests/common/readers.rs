//! Readers of files from elsewhere, each with a small valid file to start from: what `tests/fuzz` and the targets in
//! `fuzz/` feed with broken ones.
#![allow(dead_code)] // each user takes its part

use rugosa::data::{DataOptions, Dataset, Tokenizer};
use rugosa::dtype::DType;
use rugosa::error::Result;
use rugosa::io::adapter::AdapterFolder;
use rugosa::io::config::ModelConfig;
use rugosa::io::gguf::{GgufFile, GgufTensor, Metadata, Value, write_gguf};
use rugosa::io::safetensors::{SafetensorsFile, SafetensorsFolder};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub const DEMO_TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/tokenizer.json");
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

/// `tokenizer.json` in `folder`, there and back.
pub fn tokenizer_json(folder: &Path) -> Result<()> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    let ids = tokenizer.encode("Hello, hello\n\u{301}<|im_end|> 12", true)?;
    tokenizer.decode(&ids, false)?;
    let mut stream = tokenizer.stream(true);
    for id in ids.iter().take(8) {
        stream.push(*id)?;
    }
    tokenizer.check_model(1000)
}

/// The chat template in the file at `path`, with conversations that have all that templates ask for.
pub fn template(path: &Path) -> Result<()> {
    thread_local! {
        static TOKENIZER: RefCell<Option<Tokenizer>> = const { RefCell::new(None) };
    }
    let text = String::from_utf8_lossy(&std::fs::read(path).expect("a template")).into_owned();
    let rows = path.with_file_name("conversations.jsonl");
    if !rows.exists() {
        std::fs::write(&rows, CONVERSATIONS).expect("rows");
    }
    TOKENIZER.with_borrow_mut(|tokenizer| {
        let tokenizer = tokenizer
            .get_or_insert_with(|| Tokenizer::from_gguf(Path::new("a.gguf"), &metadata()).expect("a tokenizer"));
        tokenizer.set_chat_template(text);
        let options = DataOptions { seq_len: 512, ..DataOptions::default() };
        let set = Dataset::open(&rows, &options, Some(tokenizer), 99)?;
        assert!(set.examples().all(|e| e.ids.len() == e.labels.len() && e.supervised() > 0));
        Ok(())
    })
}

/// `config.json` in `folder`, and what is written of it.
pub fn configuration(folder: &Path) -> Result<()> {
    let config = ModelConfig::from_hf(folder)?;
    assert!(config.windowed.len() == config.num_hidden_layers);
    Ok(())
}

/// `model.safetensors.index.json` in `folder`, without its shards.
pub fn index(folder: &Path) -> Result<()> {
    SafetensorsFolder::open(folder).map(drop)
}

/// Two rows for [`template`].
pub const CONVERSATIONS: &str = concat!(
    "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"a<>&\"}, ",
    "{\"role\": \"assistant\", \"content\": \"b\", \"reasoning_content\": \"c\", \"tool_calls\": [{\"type\": \"function\", ",
    "\"function\": {\"name\": \"f\", \"arguments\": {\"x\": [1, 2.5, null]}}}]}, {\"role\": \"tool\", \"content\": \"4\"}, ",
    "{\"role\": \"assistant\", \"content\": \"d\"}], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]}\n",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n",
);

/// A template that uses most of what there is.
pub const TEMPLATE: &str = concat!(
    "{%- macro show(m, k='x') -%}<{{ m.content | trim }}{{ m.get('n', k) ~ varargs }}>{%- endmacro -%}\n",
    "{% set ns = namespace(n=0, l=[], s='') %}{% for m in messages %}{% if loop.first and m.role == 'system' %}{{ m['content'] }}",
    "{% elif m['role'] in ['user', 'tool'] %}[{{ m.role | upper }}]{{ m.content.strip().split('\n')[-1] }}{% else %}",
    "{% generation %}{{ show(m) }}{% endgeneration %}{% endif %}{% set ns.n = ns.n + 1 %}{% set ns.l = ns.l + [m.role] %}",
    "{% if m.tool_calls is defined and m.tool_calls %}{% for t in m.tool_calls %}{{ t.function | tojson(indent=2) }}{% endfor %}",
    "{% endif %}{% endfor %}{{ ns.l | unique | sort | join(', ') | replace('a', 'b') }}{{ '%05d %s' % (ns.n, ns.s) }}",
    "{{ range(3) | list | map('string') | join }}{{ messages[1:][::-1] | selectattr('role', 'eq', 'user') | list | length }}",
    "{%- if tools %}{{ tools | tojson }}{% endif -%}{{ strftime_now('%Y') }}{% if add_generation_prompt %}assistant: {% endif %}",
);

/// Where configurations and tokenizers are to start from: a family's name, and the file.
pub fn configurations() -> Vec<PathBuf> {
    let families = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];
    families.iter().map(|f| Path::new(FIXTURES).join(format!("golden/tiny-{f}/config.json"))).collect()
}

pub const INDEX: &str = "{\"metadata\": {\"total_size\": 8}, \"weight_map\": {\"a.weight\": \"model-00001-of-00002.safetensors\", \
    \"b\": \"model-00002-of-00002.safetensors\"}}";

/// A `tokenizer.json` with components of most kinds, around a vocabulary of pairs or of scores.
pub fn tokenizer_file(unigram: bool) -> Vec<u8> {
    let sequence = |name: &str, key: &str, parts: &[&str]| {
        format!("\"{name}\": {{\"type\": \"Sequence\", \"{key}\": [{}]}}", parts.join(", "))
    };
    // a tree without leaves, and one text
    let map = format!("AAQA{}AABhAA==", "AAAA".repeat(341));
    let precompiled = format!("{{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"{map}\"}}");
    let blank = r#"{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}"#;
    let normalizers = [
        r#"{"type": "Prepend", "prepend": "▁"}"#,
        blank,
        r#"{"type": "NFKC"}"#,
        r#"{"type": "Strip", "strip_left": true, "strip_right": false}"#,
        r#"{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": false}"#,
        &precompiled,
    ];
    let words = [
        r#"{"type": "Split", "pattern": {"Regex": "\\p{L}+|\\d"}, "behavior": "Isolated", "invert": false}"#,
        r#"{"type": "Digits", "individual_digits": true}"#,
        r#"{"type": "Punctuation", "behavior": "Contiguous"}"#,
        r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#,
        r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}"#,
    ];
    let decoders = [
        r#"{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}"#,
        r#"{"type": "ByteFallback"}"#,
        r#"{"type": "Fuse"}"#,
        r#"{"type": "Strip", "content": " ", "start": 1, "stop": 0}"#,
        r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###,
    ];
    let model = if unigram {
        r#"{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["h", -1.5], ["e", -2.0], ["l", -2.5], ["he", -1.0]], "byte_fallback": false}"#
    } else {
        r#"{"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": {"<unk>": 0, "h": 1, "e": 2, "l": 3, "he": 4},
            "merges": [["h", "e"]]}"#
    };
    let parts = [
        r#""version": "1.0", "truncation": null, "padding": null"#.to_owned(),
        r#""added_tokens": [{"id": 5, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true}]"#.to_owned(),
        sequence("normalizer", "normalizers", &normalizers),
        sequence("pre_tokenizer", "pretokenizers", &words),
        r#""post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [5], "tokens": ["<|im_end|>"]}}}"#.to_owned(),
        sequence("decoder", "decoders", &decoders),
        format!("\"model\": {model}"),
    ];
    format!("{{{}}}", parts.join(",\n")).into_bytes()
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
