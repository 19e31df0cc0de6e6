use super::*;
use crate::dtype::DType;
use crate::io::gguf::{GgufFile, GgufTensor, Metadata, Value, write_gguf};
use serde_json::{Value as Json, json};

fn base() -> Json {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": null,
    })
}

/// Reads `base()` with `changes` put over it.
fn hf(changes: Json, generation: Option<&str>) -> Result<ModelConfig> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = base();
    for (k, v) in changes.as_object().unwrap() {
        config[k] = v.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    if let Some(text) = generation {
        std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
    }
    ModelConfig::from_hf(dir.path())
}

mod families;
mod rope;

#[track_caller]
fn rejects(changes: Json, expected: &str) {
    let message = hf(changes, None).unwrap_err().to_string();
    assert!(message.contains("config.json: ") && message.contains(expected), "{message}");
}

#[test]
fn hf_keys_and_their_defaults() {
    let c = hf(json!({}), None).unwrap();
    assert_eq!((c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.head_dim), (64, 176, 3, 16));
    assert_eq!((c.num_attention_heads, c.num_key_value_heads, c.vocab_size), (4, 2, 300));
    assert_eq!((c.max_position_embeddings, c.rms_norm_eps, c.rope_theta), (128, 1e-5, 500_000.0));
    assert_eq!((c.bos_token_id, c.eos_token_ids, c.pad_token_id), (Some(1), vec![2], None));
    assert_eq!((c.rope_scaling, c.sliding_window, c.hidden_act.as_str()), (RopeScaling::None, None, "silu"));
    assert!(!c.tie_word_embeddings && !c.attention_bias && !c.mlp_bias);

    let defaults = json!({"num_key_value_heads": null, "rms_norm_eps": null, "rope_theta": null, "head_dim": null});
    let c = hf(defaults, None).unwrap();
    assert_eq!((c.num_key_value_heads, c.rms_norm_eps, c.rope_theta, c.head_dim), (4, 1e-6, 10_000.0, 16));
    let other = json!({"head_dim": 32, "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true, "sliding_window": 9});
    let c = hf(other, None).unwrap();
    assert!(c.tie_word_embeddings && c.attention_bias && c.mlp_bias);
    // Llama has no sliding window, whatever its configuration says
    assert_eq!((c.head_dim, c.sliding_window, c.windowed), (32, None, vec![false; 3]));
}

#[test]
fn end_tokens_come_from_both_files() {
    let c = hf(json!({"eos_token_id": [2, 7], "pad_token_id": -1}), Some(r#"{"eos_token_id":[7,9]}"#)).unwrap();
    assert_eq!((c.eos_token_ids, c.pad_token_id), (vec![2, 7, 9], None));
    let err = hf(json!({}), Some("{\n,")).unwrap_err().to_string();
    assert!(err.contains("generation_config.json:2: is not a valid JSON object"), "{err}");
}

#[test]
fn rope_in_all_spellings() {
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    for key in ["rope_type", "type"] {
        let mut scaling = llama3.clone();
        scaling[key] = json!("llama3");
        let c = hf(json!({"rope_scaling": scaling}), None).unwrap();
        assert_eq!((c.rope_scaling, c.rope_theta), (expected.clone(), 500_000.0));
    }
    let mut parameters = llama3.clone();
    parameters["rope_type"] = json!("llama3");
    parameters["rope_theta"] = json!(7000.0);
    let c = hf(json!({"rope_parameters": parameters}), None).unwrap();
    assert_eq!((c.rope_scaling, c.rope_theta), (expected, 7000.0));
    let c = hf(json!({"rope_scaling": {"type": "linear", "factor": 2}}), None).unwrap();
    assert_eq!(c.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let c = hf(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 9000}}), None).unwrap();
    assert_eq!((c.rope_scaling, c.rope_theta), (RopeScaling::None, 9000.0));

    rejects(json!({"rope_scaling": {"type": "su", "factor": 2}}), "\"su\" is not supported");
    rejects(json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor: is missing");
    rejects(json!({"rope_scaling": {"type": "linear", "factor": 0}}), "out of range");
    rejects(json!({"rope_scaling": 3}), "rope_scaling: 3 is no object");
    rejects(json!({"rope_parameters": {"full_attention": {}}}), "layer type");
    let inverted = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1, "original_max_position_embeddings": 8});
    rejects(json!({"rope_scaling": inverted}), "out of range");
}

#[test]
fn bad_configs_are_refused() {
    rejects(json!({"model_type": "gpt2"}), "the architecture \"gpt2\" is not supported; supported: llama");
    rejects(json!({"model_type": null}), "model_type: this key is missing");
    rejects(json!({"hidden_size": null}), "hidden_size: this key is missing");
    rejects(json!({"hidden_size": -64}), "hidden_size: -64 is no size");
    rejects(json!({"hidden_size": "64"}), "is no size");
    rejects(json!({"vocab_size": 0}), "vocab_size: 0 is not between");
    rejects(json!({"vocab_size": u64::MAX}), "vocab_size: 18446744073709551615 is not between");
    rejects(json!({"num_attention_heads": 0, "num_key_value_heads": null}), "num_attention_heads: 0");
    rejects(json!({"num_key_value_heads": 3}), "3 does not divide num_attention_heads 4");
    rejects(json!({"num_attention_heads": 1 << 20, "head_dim": 1 << 20}), "num_attention_heads * head_dim");
    rejects(json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers");
    rejects(json!({"head_dim": 12}), "head_dim: 12 is no multiple of 8");
    rejects(json!({"hidden_act": "gelu"}), "\"gelu\" is not supported for llama");
    rejects(json!({"rms_norm_eps": 0}), "rms_norm_eps");
    rejects(json!({"rope_theta": 0.5}), "rope_theta");
    rejects(json!({"tie_word_embeddings": 1}), "tie_word_embeddings: 1 is no true or false");
    rejects(json!({"eos_token_id": [-5]}), "eos_token_id");
    rejects(json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window");
    rejects(json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor");
    for method in ["gptq", "awq", "mxfp4", "compressed-tensors"] {
        let refusal = format!("quantization_config: the quantisation \"{method}\" is not supported");
        rejects(json!({"quantization_config": {"quant_method": method, "bits": 4}}), &refusal);
    }
    let mlx = "quantization: the quantisation of MLX, here 4 bits, is not supported; use the unquantised model";
    rejects(json!({"quantization": {"group_size": 64, "bits": 4}}), mlx);

    let dir = tempfile::tempdir().unwrap();
    let err = ModelConfig::from_hf(dir.path()).unwrap_err().to_string();
    assert!(err.contains("config.json: is missing; give a folder"), "{err}");
    std::fs::write(dir.path().join("config.json"), "[]").unwrap();
    assert!(ModelConfig::from_hf(dir.path()).unwrap_err().to_string().contains("JSON object"));
}

fn gguf_base() -> Metadata {
    [
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(176)),
        ("llama.block_count", Value::U32(3)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::Array(vec![Value::I32(2); 3])),
        ("llama.context_length", Value::U32(128)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(500_000.0)),
        ("llama.rope.dimension_count", Value::U32(16)),
        ("tokenizer.ggml.tokens", Value::Array(vec![Value::String("a".into()); 9])),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eot_token_id", Value::U32(5)),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into()
}

fn f32s(name: &str, shape: &[usize], values: &[f32]) -> GgufTensor<'static> {
    let data = bytemuck::cast_slice(values).to_vec();
    GgufTensor { name: name.into(), dtype: DType::F32, shape: shape.to_vec(), data: data.into() }
}

/// Reads `gguf_base()` with `changes` put over it (`None` takes a key out).
fn gguf(changes: &[(&str, Option<Value>)], tensors: &[GgufTensor<'_>]) -> Result<ModelConfig> {
    let mut metadata = gguf_base();
    for (k, v) in changes {
        metadata.remove(*k);
        metadata.extend(v.clone().map(|v| (k.to_string(), v)));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write_gguf(&path, &metadata, tensors).unwrap();
    ModelConfig::from_gguf(&GgufFile::open(&path)?)
}

#[test]
fn gguf_keys_and_their_defaults() {
    let c = gguf(&[], &[]).unwrap();
    assert_eq!((c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.head_dim), (64, 176, 3, 16));
    assert_eq!((c.num_attention_heads, c.num_key_value_heads, c.vocab_size), (4, 2, 9));
    assert_eq!((c.max_position_embeddings, c.rms_norm_eps, c.rope_theta), (128, 1e-5, 500_000.0));
    assert_eq!((c.bos_token_id, c.eos_token_ids, c.pad_token_id), (Some(1), vec![2, 5], None));
    assert!(c.tie_word_embeddings && !c.attention_bias && !c.mlp_bias && c.rope_scaling == RopeScaling::None);

    let tensors = [
        f32s("token_embd.weight", &[11, 1], &[0.0; 11]),
        f32s("output.weight", &[1], &[0.0]),
        f32s("blk.0.attn_q.bias", &[1], &[0.0]),
    ];
    let c = gguf(&[("llama.rope.freq_base", None), ("llama.attention.head_count_kv", None)], &tensors).unwrap();
    assert_eq!((c.vocab_size, c.rope_theta, c.num_key_value_heads), (11, 10_000.0, 4));
    assert!(!c.tie_word_embeddings && c.attention_bias && !c.mlp_bias);
}

#[test]
fn gguf_rope_scaling() {
    let text = |s: &str| Some(Value::String(s.into()));
    let factor = ("llama.rope.scaling.factor", Some(Value::F32(4.0)));
    let c = gguf(&[("llama.rope.scaling.type", text("linear")), factor.clone()], &[]).unwrap();
    assert_eq!(c.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    let err = gguf(&[("llama.rope.scaling.type", text("su")), factor], &[]).unwrap_err().to_string();
    assert!(err.contains("\"su\" is not supported"), "{err}");

    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    // as converters write them
    let mut divisors = [1.0f32, 1.0, 1.0, 1.0, 3.292_262, 32.0, 32.0, 32.0];
    assert_eq!(gguf(&[], &[f32s("rope_freqs.weight", &[8], &divisors)]).unwrap().rope_scaling, scaling);
    assert_eq!(gguf(&[], &[f32s("rope_freqs.weight", &[8], &[1.0; 8])]).unwrap().rope_scaling, RopeScaling::None);
    divisors[4] *= 1.00001;
    let err = gguf(&[], &[f32s("rope_freqs.weight", &[8], &divisors)]).unwrap_err().to_string();
    assert!(err.contains("rope_freqs.weight: these frequency divisors"), "{err}");
    let err = gguf(&[], &[f32s("rope_freqs.weight", &[7], &divisors[..7])]).unwrap_err().to_string();
    assert!(err.contains("[8] of F32 expected"), "{err}");
}

#[test]
fn bad_gguf_metadata_is_refused() {
    let rejects = |key: &str, value: Option<Value>, expected: &str| {
        let message = gguf(&[(key, value)], &[]).unwrap_err().to_string();
        assert!(message.contains("m.gguf: ") && message.contains(expected), "{message}");
    };
    rejects(
        "general.architecture",
        Some(Value::String("mamba".into())),
        "\"mamba\" is not supported; supported: llama",
    );
    rejects("general.architecture", None, "general.architecture: is missing");
    rejects("general.architecture", Some(Value::U8(1)), "general.architecture: is no text");
    rejects("llama.block_count", None, "llama.block_count: is missing");
    rejects("llama.block_count", Some(Value::U32(0)), "num_hidden_layers: 0");
    rejects("llama.block_count", Some(Value::I32(-1)), "llama.block_count: is no size");
    rejects("llama.attention.head_count", Some(Value::U32(0)), "num_attention_heads: 0");
    let uneven = Value::Array(vec![Value::U32(2), Value::U32(4)]);
    rejects("llama.attention.head_count_kv", Some(uneven), "the same for all layers");
    rejects("llama.rope.dimension_count", Some(Value::U32(8)), "must be the size of a head, 16");
    rejects("llama.expert_count", Some(Value::U32(8)), "mixtures of experts");
    rejects("llama.attention.layer_norm_rms_epsilon", None, "is missing");
    // which tokens a model of so few rows can do without is the tokenizer's to say
    let small = [f32s("token_embd.weight", &[4, 1], &[0.0; 4])];
    assert_eq!(gguf(&[], &small).unwrap().vocab_size, 4);
}
