//! A model of a few kilobytes: one layer, and a tokenizer with one token a byte.

use rugosa::dtype::DType;
use rugosa::io::gguf::{GgufTensor, Metadata, Value, write_gguf};
use rugosa::io::safetensors::{OutTensor, write_safetensors};
use rugosa::rng::Rng;
use std::path::{Path, PathBuf};

const HIDDEN: usize = 16;
const HEAD_DIM: usize = 8;
const INNER: usize = 32;
/// Tokens behind the 256 bytes.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const VOCAB: usize = 256 + SPECIAL.len();

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes the model into `folder`, as one GGUF file.
pub fn gguf(folder: &Path) -> PathBuf {
    write(folder, weights(), &metadata())
}

/// The same without a chat template.
pub fn gguf_without_template(folder: &Path) -> PathBuf {
    let mut metadata = metadata();
    metadata.remove("tokenizer.chat_template");
    write(folder, weights(), &metadata)
}

/// The same with NaN in its last matrix, at row 0 and column 17.
pub fn broken_gguf(folder: &Path) -> PathBuf {
    let mut weights = weights();
    weights.last_mut().unwrap().values[17] = f32::NAN;
    write(folder, weights, &metadata())
}

fn write(folder: &Path, weights: Vec<Weight>, metadata: &Metadata) -> PathBuf {
    let path = folder.join("tiny.gguf");
    let tensors: Vec<_> = (weights.into_iter())
        .map(|w| GgufTensor {
            name: w.gguf.into(),
            dtype: DType::F32,
            shape: w.shape,
            data: w.values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into(),
        })
        .collect();
    write_gguf(&path, metadata, &tensors).unwrap();
    path
}

/// Writes the model as a Hugging Face folder without a tokenizer.
pub fn folder(parent: &Path) -> PathBuf {
    let folder = parent.join("tiny");
    std::fs::create_dir(&folder).unwrap();
    let config = serde_json::json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = weights();
    let tensors: Vec<_> = weights.iter().map(|w| OutTensor::f32(w.hf, &w.shape, &w.values)).collect();
    write_safetensors(&folder.join("model.safetensors"), &tensors, &Default::default()).unwrap();
    folder
}

fn metadata() -> Metadata {
    let sizes = [
        ("embedding_length", HIDDEN),
        ("feed_forward_length", INNER),
        ("block_count", 1),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", HEAD_DIM),
        ("context_length", 64),
    ];
    let mut m: Metadata = sizes.map(|(k, v)| (format!("llama.{k}"), Value::U32(v as u32))).into_iter().collect();
    m.insert("general.architecture".into(), Value::String("llama".into()));
    m.insert("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5));
    let tokens = (0..=255).map(|b| byte_symbol(b).to_string()).chain(SPECIAL.map(str::to_string));
    let kinds = (0..VOCAB).map(|i| Value::I32(if i < 256 { 1 } else { 3 }));
    m.insert("tokenizer.ggml.model".into(), Value::String("gpt2".into()));
    m.insert("tokenizer.ggml.pre".into(), Value::String("smollm".into()));
    m.insert("tokenizer.ggml.tokens".into(), Value::Array(tokens.map(Value::String).collect()));
    m.insert("tokenizer.ggml.token_type".into(), Value::Array(kinds.collect()));
    m.insert("tokenizer.ggml.merges".into(), Value::Array(Vec::new()));
    m.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(258));
    m.insert("tokenizer.chat_template".into(), Value::String(CHATML.into()));
    m
}

/// The character that stands for a byte in byte-level vocabularies: itself where it prints, otherwise one behind U+00FF.
fn byte_symbol(byte: u8) -> char {
    let prints = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !prints(*b)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

struct Weight {
    gguf: &'static str,
    hf: &'static str,
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn weights() -> Vec<Weight> {
    [
        ("token_embd.weight", "model.embed_tokens.weight", vec![VOCAB, HIDDEN]),
        ("output_norm.weight", "model.norm.weight", vec![HIDDEN]),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", vec![HIDDEN]),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", vec![2 * HEAD_DIM, HIDDEN]),
        ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", vec![HEAD_DIM, HIDDEN]),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", vec![HEAD_DIM, HIDDEN]),
        ("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", vec![HIDDEN, 2 * HEAD_DIM]),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", vec![HIDDEN]),
        ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", vec![INNER, HIDDEN]),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", vec![INNER, HIDDEN]),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", vec![HIDDEN, INNER]),
    ]
    .map(|(gguf, hf, shape)| {
        let mut rng = Rng::named(1, hf);
        let values = (0..shape.iter().product()).map(|_| 0.2 * rng.normal() as f32).collect();
        Weight { gguf, hf, shape, values }
    })
    .into()
}
