//! A tiny Llama with random weights, and rows for it, written to a folder: what runs of a few steps start from.

use rugosa::io::safetensors::{OutTensor, write_safetensors};
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

/// Writes the model to `folder/model`.
pub fn write_model(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    let mut rng = Rng::named(7, "tiny");
    let values: Vec<(String, Vec<usize>, Vec<f32>)> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product();
            let data = match shape.len() {
                1 => vec![1.0; n],
                _ => (0..n).map(|_| 0.1 * rng.normal() as f32).collect(),
            };
            (name, shape, data)
        })
        .collect();
    let tensors: Vec<_> = values.iter().map(|(n, s, d)| OutTensor::f32(n.clone(), s, d)).collect();
    write_safetensors(&model.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::write(model.join("config.json"), config().to_string()).unwrap();
    model
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
