//! GGUF files of each family, as llama.cpp's converter writes them, give the model of the Hugging Face folder.

use super::golden::*;
use rugosa::dtype::DType;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::gguf::{GgufTensor, Metadata, Value, write_gguf};
use rugosa::quant;
use std::path::Path;

/// `blk.N.<this>.weight` for a module inside of a layer.
fn gguf_module(family: &str, module: &str) -> &'static str {
    match (family, module) {
        (_, "input_layernorm") => "attn_norm",
        ("gemma2" | "gemma3", "post_attention_layernorm") => "post_attention_norm",
        ("gemma2" | "gemma3", "pre_feedforward_layernorm") => "ffn_norm",
        ("gemma2" | "gemma3", "post_feedforward_layernorm") => "post_ffw_norm",
        (_, "post_attention_layernorm") => "ffn_norm",
        (_, "self_attn.q_proj") => "attn_q",
        (_, "self_attn.k_proj") => "attn_k",
        (_, "self_attn.v_proj") => "attn_v",
        (_, "self_attn.qkv_proj") => "attn_qkv",
        (_, "self_attn.o_proj") => "attn_output",
        (_, "self_attn.q_norm") => "attn_q_norm",
        (_, "self_attn.k_norm") => "attn_k_norm",
        (_, "mlp.gate_proj") => "ffn_gate",
        (_, "mlp.up_proj" | "mlp.gate_up_proj") => "ffn_up",
        (_, "mlp.down_proj") => "ffn_down",
        _ => panic!("{family} has {module}"),
    }
}

fn gguf_name(family: &str, name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".into(),
        "model.norm.weight" => "output_norm.weight".into(),
        "lm_head.weight" => "output.weight".into(),
        _ => {
            let (layer, rest) = name.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
            let (module, kind) = rest.rsplit_once('.').unwrap();
            format!("blk.{layer}.{}.{kind}", gguf_module(family, module))
        }
    }
}

fn metadata(family: &str, c: &rugosa::io::config::ModelConfig) -> Metadata {
    let mut m = Metadata::new();
    m.insert("general.architecture".into(), Value::String(family.into()));
    let mut put = |key: &str, value: Value| m.insert(format!("{family}.{key}"), value);
    for (key, size) in [
        ("embedding_length", c.hidden_size),
        ("feed_forward_length", c.intermediate_size),
        ("block_count", c.num_hidden_layers),
        ("attention.head_count", c.num_attention_heads),
        ("attention.head_count_kv", c.num_key_value_heads),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
        ("context_length", c.max_position_embeddings),
        ("attention.sliding_window", c.sliding_window.unwrap_or(0)),
    ] {
        put(key, Value::U32(size as u32));
    }
    put("attention.layer_norm_rms_epsilon", Value::F32(c.rms_norm_eps));
    put("rope.freq_base", Value::F32(c.rope_theta as f32));
    for (key, cap) in
        [("attn_logit_softcapping", c.attn_logit_softcapping), ("final_logit_softcapping", c.final_logit_softcapping)]
    {
        if let Some(cap) = cap {
            put(key, Value::F32(cap));
        }
    }
    if family == "gemma3" {
        put("rope.scaling.type", Value::String("linear".into()));
        put("rope.scaling.factor", Value::F32(4.0));
    }
    for (kind, id) in [("bos", c.bos_token_id), ("eos", c.eos_token_ids.first().copied()), ("padding", c.pad_token_id)]
    {
        m.insert(format!("tokenizer.ggml.{kind}_token_id"), Value::U32(id.unwrap()));
    }
    m
}

/// Writes the model of `folder` as a GGUF file. Vectors are F32 there, and Gemma's norms hold 1 + w.
fn write(family: &str, source: &Checkpoint, path: &Path) {
    let tensors: Vec<GgufTensor<'_>> = (source.names().into_iter())
        .map(|name| {
            let view = source.tensor(name).unwrap();
            let (dtype, data) = if view.shape.len() == 1 {
                let mut values = vec![0.0f32; view.shape[0]];
                quant::dequantise(view.dtype, &view.data, &mut values).unwrap();
                if family.starts_with("gemma") {
                    values.iter_mut().for_each(|v| *v += 1.0);
                }
                (DType::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
            } else {
                (view.dtype, view.data.to_vec())
            };
            GgufTensor { name: gguf_name(family, name), dtype, shape: view.shape, data: Vec::into(data) }
        })
        .collect();
    write_gguf(path, &metadata(family, &source.config), &tensors).unwrap();
}

#[test]
fn gguf_gives_the_model_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    for family in ["qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        let folder = Checkpoint::open(&folder(family)).unwrap();
        let path = dir.path().join(format!("{family}.gguf"));
        write(family, &folder, &path);
        let gguf = Checkpoint::open(&path).unwrap();
        // which no converter writes down: the size of a head stands in for it in all but the largest models
        let mut want = folder.config.clone();
        want.query_pre_attn_scalar = want.query_pre_attn_scalar.map(|_| want.head_dim as f64);
        assert_eq!(gguf.config, want, "{family}");
        assert_eq!(gguf.names(), folder.names(), "{family}");
        for name in folder.names() {
            let (a, b) = (folder.tensor(name).unwrap(), gguf.tensor(name).unwrap());
            assert_eq!(a.shape, b.shape, "{family}: {name}");
            let decode = |view: &rugosa::io::checkpoint::TensorView<'_>| {
                let mut values = vec![0.0f32; view.shape.iter().product()];
                quant::dequantise(view.dtype, &view.data, &mut values).unwrap();
                values
            };
            // 1 + w is rounded once on its way into the file
            let most = if family.starts_with("gemma") && a.shape.len() == 1 { 1.2e-7 } else { 0.0 };
            assert!(max_abs(&decode(&b), &decode(&a)) <= most, "{family}: {name}");
        }
    }
}

#[test]
fn norms_of_another_type_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&folder("gemma2")).unwrap();
    let path = dir.path().join("m.gguf");
    let tensors: Vec<GgufTensor<'_>> = (source.names().into_iter())
        .map(|name| {
            let v = source.tensor(name).unwrap();
            GgufTensor { name: gguf_name("gemma2", name), dtype: v.dtype, shape: v.shape, data: v.data }
        })
        .collect();
    write_gguf(&path, &metadata("gemma2", &source.config), &tensors).unwrap();
    let gguf = Checkpoint::open(&path).unwrap();
    let message = gguf.tensor("model.norm.weight").unwrap_err().to_string();
    assert!(message.contains("model.norm.weight: is BF16, but the norms of this family are F32"), "{message}");
}
