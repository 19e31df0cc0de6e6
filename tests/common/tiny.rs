//! A tiny Llama with random weights, and rows for it, written to a folder: what runs of a few steps start from.

use rugosa::dtype::DType;
use rugosa::io::gguf::{GgufTensor, Metadata, Value};
use rugosa::io::safetensors::{OutTensor, write_safetensors};
use rugosa::quant::quantise;
use rugosa::rng::Rng;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const VOCAB: usize = 300;
pub const HIDDEN: usize = 64;
pub const INTERMEDIATE: usize = 176;
pub const LAYERS: usize = 3;
pub const POSITIONS: usize = 128;
/// Elements of q and of k and v: 4 heads and 2 of 16 elements.
const WIDTHS: (usize, usize) = (64, 32);

/// `config.json`, with the sizes above.
pub fn config() -> serde_json::Value {
    serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCAB, "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// Every tensor with its shape.
pub fn shapes() -> Vec<(String, Vec<usize>)> {
    let (q, kv) = WIDTHS;
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for i in 0..LAYERS {
        let mut put =
            |name: &str, shape: &[usize]| all.push((format!("model.layers.{i}.{name}.weight"), shape.to_vec()));
        put("input_layernorm", &[HIDDEN]);
        put("self_attn.q_proj", &[q, HIDDEN]);
        put("self_attn.k_proj", &[kv, HIDDEN]);
        put("self_attn.v_proj", &[kv, HIDDEN]);
        put("self_attn.o_proj", &[HIDDEN, q]);
        put("post_attention_layernorm", &[HIDDEN]);
        put("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        put("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        put("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    all.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    all.push(("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]));
    all
}

/// Every tensor with its shape and its values.
fn values() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut rng = Rng::named(7, "tiny");
    let mut of = |shape: &[usize]| -> Vec<f32> {
        let n = shape.iter().product();
        match shape.len() {
            1 => vec![1.0; n],
            _ => (0..n).map(|_| 0.1 * rng.normal() as f32).collect(),
        }
    };
    shapes().into_iter().map(|(name, shape)| (name, shape.clone(), of(&shape))).collect()
}

/// Writes the model to `folder/model`.
pub fn write_model(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    let values = values();
    let tensors: Vec<_> = values.iter().map(|(n, s, d)| OutTensor::f32(n.clone(), s, d)).collect();
    write_safetensors(&model.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::write(model.join("config.json"), config().to_string()).unwrap();
    model
}

/// Writes the model to `folder/model.gguf`, its matrices in `format` where their rows are whole blocks of it.
pub fn write_gguf(folder: &Path, format: DType) -> PathBuf {
    let number = |n: usize| Value::U32(n as u32);
    let metadata: Metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", number(HIDDEN)),
        ("llama.feed_forward_length", number(INTERMEDIATE)),
        ("llama.block_count", number(LAYERS)),
        ("llama.attention.head_count", number(4)),
        ("llama.attention.head_count_kv", number(2)),
        ("llama.attention.key_length", number(16)),
        ("llama.attention.value_length", number(16)),
        ("llama.context_length", number(POSITIONS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10000.0)),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let tensors: Vec<GgufTensor<'_>> = values()
        .into_iter()
        .map(|(name, shape, values)| {
            let whole = shape.len() == 2 && shape[1].is_multiple_of(format.block_elements());
            let dtype = if whole { format } else { DType::F32 };
            GgufTensor { name: gguf_name(&name), dtype, shape, data: quantise(dtype, &values).unwrap().into() }
        })
        .collect();
    let path = folder.join("model.gguf");
    rugosa::io::gguf::write_gguf(&path, &metadata, &tensors).unwrap();
    path
}

/// What a tensor is called in GGUF files.
fn gguf_name(name: &str) -> String {
    const NAMES: [(&str, &str); 13] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    NAMES.iter().fold(name.to_owned(), |name, (hf, gguf)| name.replace(hf, gguf))
}

/// Writes `rows` rows of `shortest` to `longest` random tokens, the second half of each supervised, to
/// `folder/rows.jsonl`.
pub fn write_rows(folder: &Path, rows: usize, shortest: usize, longest: usize) -> PathBuf {
    let mut rng = Rng::named(7, "rows");
    let mut text = String::new();
    for _ in 0..rows {
        let n = shortest + rng.below((longest - shortest + 1) as u64) as usize;
        let ids: Vec<i64> = (0..n).map(|_| 3 + rng.below(VOCAB as u64 - 3) as i64).collect();
        let labels: Vec<i64> = ids.iter().enumerate().map(|(i, id)| if i < n / 2 { -100 } else { *id }).collect();
        text += &format!("{}\n", serde_json::json!({ "input_ids": ids, "labels": labels }));
    }
    let path = folder.join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}
