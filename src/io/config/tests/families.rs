//! What the families' configurations say.

use super::*;

/// Reads `base()` as a model of this type with `changes` put over it.
fn of(model_type: &str, mut changes: Json) -> Result<ModelConfig> {
    changes["model_type"] = model_type.into();
    hf(changes, None)
}

#[track_caller]
fn refuses(model_type: &str, mut changes: Json, expected: &str) {
    changes["model_type"] = model_type.into();
    rejects(changes, expected);
}

fn types(kinds: &str) -> Json {
    kinds.chars().map(|c| if c == 'w' { "sliding_attention" } else { "full_attention" }).collect()
}

#[test]
fn windows_of_every_layer() {
    for (given, want) in [(json!({}), Some(4096)), (json!({"sliding_window": null}), None)] {
        let c = of("mistral", given).unwrap();
        assert_eq!((c.sliding_window, c.windowed), (want, vec![want.is_some(); 3]));
    }
    let c = of("phi3", json!({})).unwrap();
    assert_eq!((c.sliding_window, c.window(0)), (None, None));
    let c = of("phi3", json!({"sliding_window": 2047})).unwrap();
    assert_eq!((c.window(0), c.window(2), c.window(3)), (Some(2047), Some(2047), None));
}

#[test]
fn windows_of_upper_layers() {
    for family in ["qwen2", "qwen3"] {
        let windows = |changes| of(family, changes).map(|c| (c.sliding_window, c.windowed));
        let none = (None, vec![false; 3]);
        assert_eq!(windows(json!({"sliding_window": 9})).unwrap(), none);
        assert_eq!(windows(json!({"sliding_window": 9, "use_sliding_window": false})).unwrap(), none);
        assert_eq!(windows(json!({"sliding_window": 9, "use_sliding_window": true})).unwrap(), none);
        let upper = json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 1});
        assert_eq!(windows(upper).unwrap(), (Some(9), vec![false, true, true]));
        let listed = json!({"use_sliding_window": true, "max_window_layers": 0, "layer_types": types("wfw")});
        assert_eq!(windows(listed).unwrap(), (Some(4096), vec![true, false, true]));
        let on = |types: Json| json!({"use_sliding_window": true, "layer_types": types});
        refuses(family, on(types("wf")), "layer_types: lists 2 layers, but num_hidden_layers is 3");
        refuses(family, on(json!(["chunked_attention"])), "\"chunked_attention\" is not supported");
        refuses(family, on(json!("all")), "layer_types: \"all\" is no list");
    }
}

#[test]
fn windows_between_full_layers() {
    let c = of("gemma2", json!({})).unwrap();
    assert_eq!((c.sliding_window, c.windowed), (Some(4096), vec![true, false, true]));
    let c = of("gemma3_text", json!({"num_hidden_layers": 7, "sliding_window": 5})).unwrap();
    assert_eq!(c.windowed, [true, true, true, true, true, false, true]);
    assert_eq!((c.window(4), c.window(5)), (Some(5), None));
    let c = of("gemma3_text", json!({"sliding_window_pattern": 2})).unwrap();
    assert_eq!(c.windowed, [true, false, true]);
    // only Gemma 3 has this key
    assert_eq!(of("gemma2", json!({"sliding_window_pattern": 3})).unwrap().windowed, [true, false, true]);
    let c = of("gemma3_text", json!({"sliding_window_pattern": 2, "layer_types": types("ffw")})).unwrap();
    assert_eq!(c.windowed, [false, false, true]);
    refuses("gemma3_text", json!({"sliding_window_pattern": 0}), "sliding_window_pattern: 0");
    refuses("gemma2", json!({"sliding_window": null}), "sliding_window: is null");
    refuses("gemma2", json!({"num_hidden_layers": u64::MAX}), "num_hidden_layers");
}

#[test]
fn constants_of_gemma() {
    let c = of("gemma2", json!({})).unwrap();
    assert_eq!((c.attn_logit_softcapping, c.final_logit_softcapping), (Some(50.0), Some(30.0)));
    assert_eq!((c.query_pre_attn_scalar, c.attention_scale()), (Some(256.0), 0.0625));
    assert_eq!((c.head_dim, c.hidden_act.as_str(), c.tie_word_embeddings), (256, "gelu_pytorch_tanh", true));
    assert_eq!(c.rope_local_theta, None);
    let c = of("gemma2", json!({"attn_logit_softcapping": null, "final_logit_softcapping": 4})).unwrap();
    assert_eq!((c.attn_logit_softcapping, c.final_logit_softcapping), (None, Some(4.0)));
    let c = of("gemma3_text", json!({"query_pre_attn_scalar": 144, "head_dim": 128, "rope_theta": null})).unwrap();
    assert_eq!((c.attn_logit_softcapping, c.final_logit_softcapping), (None, None));
    assert_eq!((c.rope_theta, c.rope_local_theta), (1e6, Some(10_000.0)));
    assert!((c.attention_scale() - 1.0 / 12.0).abs() < 1e-8 && c.head_dim == 128);
    // others do not know these keys
    let c = of("qwen3", json!({"query_pre_attn_scalar": 4, "attn_logit_softcapping": 2, "head_dim": 16})).unwrap();
    assert_eq!((c.query_pre_attn_scalar, c.attn_logit_softcapping, c.attention_scale()), (None, None, 0.25));

    refuses("gemma2", json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar: 0 is not above 0");
    refuses("gemma2", json!({"attn_logit_softcapping": -1}), "attn_logit_softcapping: -1 is not above 0");
    refuses("gemma2", json!({"final_logit_softcapping": "x"}), "final_logit_softcapping: \"x\" is no number");
    refuses("gemma2", json!({"hidden_activation": "gelu"}), "hidden_activation: \"gelu\" is not supported for gemma2");
    refuses("gemma3_text", json!({"rope_local_base_freq": 1}), "rope_local_base_freq: 1 is not above 1");
    refuses("gemma3_text", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention");
    refuses("qwen3", json!({"hidden_act": "gelu_pytorch_tanh"}), "only \"silu\"");
}

/// Values of keys that are not there, read from the configuration classes of transformers 5.24.
#[test]
fn absent_keys_have_the_values_of_transformers() {
    #[rustfmt::skip]
    let table = [
        // type, positions, kv heads, head, eps, rope, local rope, tied, window, caps, bos, eos, pad
        ("llama", 2048, 32, 16, 1e-6, 1e4, None, false, None, (None, None), Some(1), Some(2), None),
        ("mistral", 131_072, 8, 16, 1e-6, 1e4, None, false, Some(4096), (None, None), Some(1), Some(2), None),
        ("qwen2", 32_768, 32, 16, 1e-6, 1e4, None, false, None, (None, None), None, None, None),
        ("qwen3", 32_768, 32, 128, 1e-6, 1e4, None, false, None, (None, None), None, None, None),
        ("gemma2", 8192, 4, 256, 1e-6, 1e4, None, true, Some(4096), (Some(50.0), Some(30.0)), Some(2), Some(1), Some(0)),
        ("gemma3_text", 131_072, 4, 256, 1e-6, 1e6, Some(1e4), true, Some(4096), (None, None), Some(2), Some(1), Some(0)),
        ("phi3", 4096, 32, 16, 1e-5, 1e4, None, false, None, (None, None), Some(1), Some(32_000), Some(32_000)),
    ];
    for (family, positions, kv_heads, head_dim, eps, theta, local, tied, window, caps, bos, eos, pad) in table {
        let dir = tempfile::tempdir().unwrap();
        let sizes = json!({
            "model_type": family, "hidden_size": 512, "intermediate_size": 176, "num_hidden_layers": 7,
            "num_attention_heads": 32, "vocab_size": 32_064,
        });
        std::fs::write(dir.path().join("config.json"), sizes.to_string()).unwrap();
        let c = ModelConfig::from_hf(dir.path()).unwrap();
        let sizes = (c.max_position_embeddings, c.num_key_value_heads, c.head_dim, c.rms_norm_eps);
        assert_eq!(sizes, (positions, kv_heads, head_dim, eps), "{family}");
        assert_eq!((c.rope_theta, c.rope_local_theta, c.rope_scaling), (theta, local, RopeScaling::None), "{family}");
        assert_eq!((c.tie_word_embeddings, c.sliding_window), (tied, window), "{family}");
        assert_eq!((c.attn_logit_softcapping, c.final_logit_softcapping), caps, "{family}");
        assert_eq!((c.bos_token_id, c.eos_token_ids, c.pad_token_id), (bos, Vec::from_iter(eos), pad), "{family}");
        let gemma = family.starts_with("gemma").then_some(256.0);
        assert_eq!(
            (c.query_pre_attn_scalar, c.attention_bias, c.mlp_bias),
            (gemma, family == "qwen2", false),
            "{family}"
        );
    }
    // a null means something else than no key
    let c = of("mistral", json!({"num_key_value_heads": null, "bos_token_id": null, "eos_token_id": null})).unwrap();
    assert_eq!((c.num_key_value_heads, c.bos_token_id, c.eos_token_ids), (4, None, vec![]));
    // a token that the vocabulary has not is none
    let dir = tempfile::tempdir().unwrap();
    let mut small = base();
    small["model_type"] = json!("phi3");
    small.as_object_mut().unwrap().remove("eos_token_id");
    std::fs::write(dir.path().join("config.json"), small.to_string()).unwrap();
    assert!(ModelConfig::from_hf(dir.path()).unwrap().eos_token_ids.is_empty());
}

/// transformers 5 refuses a number of another type than its classes say.
#[test]
fn written_numbers_have_the_types_of_transformers() {
    let c = of("gemma2", json!({"query_pre_attn_scalar": 144.0, "final_logit_softcapping": 30})).unwrap();
    let json = c.to_hf();
    assert!(json["query_pre_attn_scalar"].is_u64() && json["query_pre_attn_scalar"] == 144, "{json}");
    assert!(json["final_logit_softcapping"].is_f64() && json["attn_logit_softcapping"].is_f64(), "{json}");
    assert_eq!((&json["rms_norm_eps"], &json["eos_token_id"]), (&json!(1e-5), &json!(2)));
    refuses("gemma2", json!({"query_pre_attn_scalar": 144.5}), "query_pre_attn_scalar: 144.5 is no whole number");
    let several = of("llama", json!({"eos_token_id": [2, 5]})).unwrap().to_hf();
    let none = of("llama", json!({"eos_token_id": null})).unwrap().to_hf();
    assert_eq!((&several["eos_token_id"], &none["eos_token_id"]), (&json!([2, 5]), &Json::Null));
    for key in ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings", "head_dim"] {
        assert!(json[key].is_u64(), "{key}");
    }
}

#[test]
fn rope_by_layer_type() {
    let part = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    let mut full = part(5e5);
    full["rope_type"] = json!("linear");
    full["factor"] = json!(8.0);
    let both = json!({"sliding_attention": part(2e4), "full_attention": full});
    let c = of("gemma3_text", json!({"rope_parameters": both, "rope_theta": null})).unwrap();
    assert_eq!((c.rope_theta, c.rope_local_theta), (5e5, Some(2e4)));
    assert_eq!(c.rope_scaling, RopeScaling::Linear { factor: 8.0 });
    refuses(
        "gemma3_text",
        json!({"rope_parameters": both, "rope_scaling": part(1e4)}),
        "and rope_scaling are both there",
    );
    let c = of("llama", json!({"rope_parameters": part(1e4), "rope_scaling": part(2e4)})).unwrap();
    assert_eq!(c.rope_theta, 2e4, "transformers takes the older key where both are there");
    refuses("qwen3", json!({"rope_parameters": both}), "by layer type are not supported for qwen3");
    let swapped = json!({"sliding_attention": both["full_attention"], "full_attention": part(1e6)});
    refuses("gemma3_text", json!({"rope_parameters": swapped}), "rope_parameters.sliding_attention: scaling");
    refuses("gemma3_text", json!({"rope_parameters": {"full_attention": {}, "sliding_attention": 1}}), "is no object");

    let long = json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]});
    refuses("phi3", json!({"rope_scaling": long}), "rope_scaling.short_factor: has 1 numbers, but 8 frequencies");
    refuses("qwen2", json!({"rope_scaling": {"rope_type": "proportional"}}), "\"proportional\" is not supported");
    refuses("phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_scaling: Phi-3 has no scaling");
    refuses("llama", json!({"partial_rotary_factor": 0.75}), "partial_rotary_factor: 0.75 is not supported for llama");
    refuses("qwen2", json!({"rope_parameters": {"partial_rotary_factor": 0.75}}), "partial_rotary_factor: 0.75");
    refuses("phi3", json!({"partial_rotary_factor": 0.2}), "partial_rotary_factor: 3 of 16 elements");
    assert_eq!(of("phi3", json!({"partial_rotary_factor": 0.75})).unwrap().rotary_dim, 12);
}

#[test]
fn biases_are_the_familys() {
    let bias = |family: &str, given: Json| of(family, given).unwrap().attention_bias;
    assert!(bias("qwen2", json!({})) && bias("qwen2", json!({"attention_bias": false})));
    assert!(!bias("mistral", json!({"attention_bias": true})) && !bias("phi3", json!({"attention_bias": true})));
    assert!(bias("qwen3", json!({"attention_bias": true})) && !bias("qwen3", json!({})));
    assert!(!of("mistral", json!({"mlp_bias": true})).unwrap().mlp_bias);
    assert_eq!(of("qwen3", json!({})).unwrap().head_dim, 128);
}

#[test]
fn written_configurations_read_the_same() {
    let cases = [
        ("llama", json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "mlp_bias": true})),
        ("mistral", json!({"sliding_window": null})),
        ("mistral", json!({"sliding_window": 9, "head_dim": 24})),
        ("qwen2", json!({"use_sliding_window": true, "max_window_layers": 2})),
        ("qwen2", json!({"tie_word_embeddings": true})),
        ("qwen3", json!({"attention_bias": true, "eos_token_id": [2, 5]})),
        ("gemma2", json!({"final_logit_softcapping": null, "tie_word_embeddings": false})),
        ("gemma3_text", json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 2})),
        ("phi3", json!({"sliding_window": 2047})),
        ("phi3", json!({"sliding_window": null})),
        ("smollm3", json!({"no_rope_layers": [0, 1, 1, 1]})),
        ("smollm3", json!({"use_sliding_window": true, "sliding_window": 5, "no_rope_layer_interval": 2})),
        ("seed_oss", json!({"attention_bias": false, "attention_out_bias": true})),
        (
            "granite",
            json!({"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.015, "logits_scaling": 6.0}),
        ),
        (
            "granitemoehybrid",
            json!({"shared_intermediate_size": 64, "position_embedding_type": "nope", "layer_types": ["attention", "attention", "attention"], "num_local_experts": 0}),
        ),
        ("hunyuan_v1_dense", json!({"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}})),
        (
            "arcee",
            json!({"rope_scaling": {"type": "yarn", "factor": 20.0, "original_max_position_embeddings": 32, "mscale": 1.0}, "hidden_act": null}),
        ),
        (
            "olmo3",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.2}, "sliding_window": 4}),
        ),
        ("exaone4", json!({"sliding_window": null})),
        ("exaone4", json!({"sliding_window": 4, "sliding_window_pattern": 2})),
        ("glm4", json!({"head_dim": 32})),
        ("cohere2", json!({"logit_scale": 0.5, "rms_norm_eps": null, "sliding_window_pattern": 3})),
        (
            "ministral3",
            json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 32, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}}),
        ),
        (
            "phi3",
            json!({"partial_rotary_factor": 0.75, "original_max_position_embeddings": 32, "rope_scaling": {"type": "longrope", "short_factor": vec![1.5; 6], "long_factor": vec![2.5; 6]}}),
        ),
    ];
    for (family, changes) in cases {
        let config = of(family, changes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_hf().to_string()).unwrap();
        assert_eq!(ModelConfig::from_hf(dir.path()).unwrap(), config);
    }
}

#[test]
fn gguf_files_of_families() {
    // gguf_base() with its keys under another architecture
    let read_with = |architecture: &str, changes: &[(&str, Value)], tensors: &[GgufTensor<'_>]| {
        let mut metadata = Metadata::new();
        for (key, value) in gguf_base() {
            metadata.insert(key.replace("llama.", &format!("{architecture}.")), value);
        }
        metadata.insert("general.architecture".into(), Value::String(architecture.into()));
        metadata.extend(changes.iter().map(|(k, v)| (format!("{architecture}.{k}"), v.clone())));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        write_gguf(&path, &metadata, tensors).unwrap();
        ModelConfig::from_gguf(&GgufFile::open(&path)?)
    };
    let read = |architecture: &str, changes: &[(&str, Value)]| read_with(architecture, changes, &[]);
    let c = read("gemma2", &[("attention.sliding_window", Value::U32(9))]).unwrap();
    assert_eq!((c.family, c.query_pre_attn_scalar), (&crate::io::config::families::GEMMA2, Some(16.0)));
    assert_eq!((c.sliding_window, c.windowed), (Some(9), vec![true, false, true]));
    // the largest Gemma 2 and Gemma 3 divide by hidden / heads, whatever the size of their heads
    let heads = ("attention.key_length", Value::U32(32));
    let rope = ("rope.dimension_count", Value::U32(32));
    for (architecture, layers) in [("gemma2", 46), ("gemma3", 62)] {
        let changes = [heads.clone(), rope.clone(), ("block_count", Value::U32(layers))];
        let kv = ("attention.head_count_kv", Value::U32(2));
        let c = read(architecture, &[changes.as_slice(), &[kv]].concat()).unwrap();
        assert_eq!((c.head_dim, c.query_pre_attn_scalar), (32, Some(16.0)));
    }
    let c = read("gemma3", &[("rope.freq_base_swa", Value::F32(5000.0))]).unwrap();
    assert_eq!((c.rope_local_theta, c.family.model_type), (Some(5000.0), "gemma3_text"));
    let err = read("gemma3", &[("attention.sliding_window_pattern", Value::U32(3))]).unwrap_err().to_string();
    assert!(err.contains("gemma3.attention.sliding_window_pattern: only 6 is supported"), "{err}");
    let listed = Value::Array(vec![Value::Bool(true), Value::Bool(false)]);
    assert!(read("gemma3", &[("attention.sliding_window_pattern", listed)]).is_err());
    let c = read("llama", &[("attention.sliding_window", Value::U32(9))]).unwrap();
    assert_eq!((c.sliding_window, &c.windowed), (Some(9), &vec![true; 3]));
    // transformers knows a llama with a window as a mistral
    let json = c.to_hf();
    assert_eq!((&json["model_type"], &json["architectures"][0]), (&json!("mistral"), &json!("MistralForCausalLM")));
    assert_eq!(json["sliding_window"], 9);
    let biases = [f32s("blk.0.attn_q.bias", &[8], &[0.0; 8])];
    let err = read_with("llama", &[("attention.sliding_window", Value::U32(9))], &biases).unwrap_err().to_string();
    assert!(err.contains("llama.attention.sliding_window: a Mistral, which the window makes it"), "{err}");
    let c = read("phi3", &[("attention.sliding_window", Value::U32(0))]).unwrap();
    assert_eq!((c.sliding_window, c.windowed), (None, vec![false; 3]));
    let long = [f32s("rope_factors_long.weight", &[8], &[1.0; 8])];
    let err = read_with("phi3", &[], &long).unwrap_err().to_string();
    assert!(err.contains("rope_factors_short.weight: is missing"), "{err}");
    let c = read("qwen2", &[("attention.sliding_window", Value::U32(9))]).unwrap();
    assert_eq!((c.sliding_window, c.windowed), (None, vec![false; 3]));
    for unknown in ["mistral", "gemma3_text", "gemma"] {
        let err = read(unknown, &[]).unwrap_err().to_string();
        assert!(err.contains("supported: llama, qwen2, qwen3, gemma2"), "{err}");
    }
}
