//! Checkpoints that are not what their configuration says.

use super::golden::*;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::safetensors::{OutTensor, SafetensorsFile, write_safetensors};
use std::collections::BTreeMap;

/// What opening the model of `family` says, with its tensor `name` left out, or cut to `rows` rows.
#[track_caller]
fn refusal(family: &str, name: &str, rows: Option<usize>) -> String {
    let source = SafetensorsFile::open(&folder(family).join("model.safetensors")).unwrap();
    assert!(source.names().any(|n| n == name), "{family} has no {name}");
    let mut tensors = Vec::new();
    for n in source.names() {
        let raw = source.get(n).unwrap();
        let (mut values, mut shape) = (raw.to_f32().unwrap(), raw.shape.to_vec());
        if n == name {
            let Some(rows) = rows else { continue };
            values.truncate(values.len() / shape[0] * rows);
            shape[0] = rows;
        }
        tensors.push((n.to_owned(), shape, values));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder(family).join("config.json"), dir.path().join("config.json")).unwrap();
    let tensors: Vec<_> = tensors.iter().map(|(n, shape, values)| OutTensor::f32(n.clone(), shape, values)).collect();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn missing_tensors_are_named() {
    for (family, name) in [
        ("qwen2", "model.layers.1.self_attn.v_proj.bias"),
        ("qwen3", "model.layers.0.self_attn.k_norm.weight"),
        ("mistral", "lm_head.weight"),
        ("gemma2", "model.layers.2.pre_feedforward_layernorm.weight"),
        ("gemma3", "model.layers.5.post_feedforward_layernorm.weight"),
        ("gemma3", "model.layers.5.self_attn.q_norm.weight"),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight"),
    ] {
        let message = refusal(family, name, None);
        assert!(message.contains(&format!("{name}: this tensor is missing")), "{message}");
    }
}

#[test]
fn wrong_shapes_are_named() {
    for (family, name, rows, shapes) in [
        ("qwen2", "model.layers.0.self_attn.q_proj.bias", 60, "shape [60], but the model's configuration says [64]"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", 16, "shape [16], but the model's configuration says [32]"),
        (
            "mistral",
            "model.layers.2.self_attn.q_proj.weight",
            64,
            "[64, 64], but the model's configuration says [96, 64]",
        ),
        (
            "phi3",
            "model.layers.1.self_attn.qkv_proj.weight",
            64,
            "[64, 64], but the model's configuration says [128, 64]",
        ),
        (
            "phi3",
            "model.layers.1.mlp.gate_up_proj.weight",
            176,
            "[176, 64], but the model's configuration says [352, 64]",
        ),
    ] {
        let message = refusal(family, name, Some(rows));
        assert!(message.contains(name) && message.contains(shapes), "{message}");
    }
}
