//! GGUF files of each family, as llama.cpp's converter writes them, give the model of the Hugging Face folder.

use super::golden::*;
use rugosa::dtype::DType;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::config::{ModelConfig, RopeScaling};
use rugosa::io::gguf::{GgufTensor, Metadata, Value, write_gguf};
use rugosa::quant;
use std::path::Path;

/// `blk.N.<this>.weight` for a module inside of a layer, as the `gguf` package maps it for the architecture.
fn gguf_module(family: &str, module: &str) -> &'static str {
    match (family, module) {
        (_, "input_layernorm") => "attn_norm",
        ("gemma2" | "gemma3" | "olmo2" | "olmo3" | "exaone4" | "seed_oss", "post_attention_layernorm") => {
            "post_attention_norm"
        }
        ("glm4", "post_self_attn_layernorm") => "post_attention_norm",
        ("glm4", "post_mlp_layernorm") => "post_ffw_norm",
        ("gemma2" | "gemma3", "pre_feedforward_layernorm") => "ffn_norm",
        (_, "post_feedforward_layernorm") => "post_ffw_norm",
        (_, "post_attention_layernorm") => "ffn_norm",
        (_, "self_attn.q_proj") => "attn_q",
        (_, "self_attn.k_proj") => "attn_k",
        (_, "self_attn.v_proj") => "attn_v",
        (_, "self_attn.qkv_proj") => "attn_qkv",
        (_, "self_attn.o_proj") => "attn_output",
        (_, "self_attn.q_norm" | "self_attn.query_layernorm") => "attn_q_norm",
        (_, "self_attn.k_norm" | "self_attn.key_layernorm") => "attn_k_norm",
        (_, "mlp.gate_proj") => "ffn_gate",
        (_, "mlp.up_proj" | "mlp.gate_up_proj") => "ffn_up",
        (_, "mlp.down_proj") => "ffn_down",
        _ => panic!("{family} has {module}"),
    }
}

/// What llama.cpp calls the family.
fn architecture(family: &str) -> &str {
    match family {
        "phi4mini" => "phi3",
        "ministral3" => "mistral3",
        "hunyuan" => "hunyuan-dense",
        "olmo3" => "olmo2",
        family => family,
    }
}

/// Rows of q and k as the converters of llama.cpp put them for families that it turns in neighbours, but for such whose own
/// heads turn so.
fn permuted(family: &str, name: &str, c: &ModelConfig, data: Vec<u8>) -> Vec<u8> {
    let heads = match name.rsplit('.').nth(1) {
        Some("q_proj") => c.num_attention_heads,
        Some("k_proj") => c.num_key_value_heads,
        _ => return data,
    };
    if !["smollm3", "granite", "arcee", "ministral3"].contains(&family) {
        return data;
    }
    let rows = heads * c.head_dim;
    let (width, half) = (data.len() / rows, c.head_dim / 2);
    let source = |row: usize| row / c.head_dim * c.head_dim + row % 2 * half + row % c.head_dim / 2;
    (0..rows).flat_map(|row| data[source(row) * width..][..width].to_vec()).collect()
}

fn gguf_name(family: &str, name: &str) -> String {
    match name.replacen("model.language_model.", "model.", 1).as_str() {
        "model.embed_tokens.weight" => "token_embd.weight".into(),
        "model.norm.weight" => "output_norm.weight".into(),
        "lm_head.weight" => "output.weight".into(),
        name => {
            let (layer, rest) = name.split_once("model.layers.").unwrap().1.split_once('.').unwrap();
            let (module, kind) = rest.rsplit_once('.').unwrap();
            format!("blk.{layer}.{}.{kind}", gguf_module(family, module))
        }
    }
}

fn metadata(family: &str, c: &ModelConfig) -> Metadata {
    let mut m = Metadata::new();
    let architecture = architecture(family);
    m.insert("general.architecture".into(), Value::String(architecture.into()));
    let mut put = |key: &str, value: Value| m.insert(format!("{architecture}.{key}"), value);
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
    let eps = if family == "cohere2" { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    put(&format!("attention.{eps}"), Value::F32(c.rms_norm_eps));
    put("rope.dimension_count", Value::U32(c.rotary_dim as u32));
    let m32 = |v: f64| Value::F32(v as f32);
    match family {
        "granite" => {
            put("embedding_scale", m32(c.multipliers.embedding));
            put("residual_scale", m32(c.multipliers.residual));
            put("attention.scale", m32(c.multipliers.attention.unwrap()));
            put("logit_scale", m32(1.0 / c.multipliers.logits));
        }
        "cohere2" => drop(put("logit_scale", m32(c.multipliers.logits))),
        "ministral3" => {
            put("attention.temperature_scale", m32(c.query_growth.unwrap().beta));
            put("rope.scaling.yarn_log_multiplier", m32(1.0));
        }
        "olmo3" | "exaone4" => {
            let windowed = c.windowed.iter().map(|w| Value::Bool(*w)).collect();
            put("attention.sliding_window_pattern", Value::Array(windowed));
        }
        _ => {}
    }
    match &c.rope_scaling {
        RopeScaling::Yarn(yarn) => {
            put("rope.scaling.type", Value::String("yarn".into()));
            put("rope.scaling.factor", m32(yarn.factor));
            put("rope.scaling.yarn_beta_fast", m32(yarn.beta_fast));
            put("rope.scaling.yarn_beta_slow", m32(yarn.beta_slow));
            put("rope.scaling.original_context_length", Value::U32(yarn.original_max_position_embeddings as u32));
            if family == "olmo3" {
                put("rope.scaling.yarn_attn_factor", m32(yarn.attention_factor));
            }
        }
        RopeScaling::LongRope { original_max_position_embeddings, .. } => {
            put("rope.scaling.type", Value::String("longrope".into()));
            put("rope.scaling.original_context_length", Value::U32(*original_max_position_embeddings as u32));
        }
        _ => {}
    }
    // with HunYuan's alpha in it
    let theta = match c.rope_scaling {
        RopeScaling::NtkAlpha { alpha } => c.rope_theta * alpha.powf(c.head_dim as f64 / (c.head_dim as f64 - 2.0)),
        _ => c.rope_theta,
    };
    put("rope.freq_base", Value::F32(theta as f32));
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
    let mut tensors: Vec<GgufTensor<'_>> = (source.names().into_iter())
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
                (view.dtype, permuted(family, name, &source.config, view.data.to_vec()))
            };
            GgufTensor { name: gguf_name(family, name), dtype, shape: view.shape, data: Vec::into(data) }
        })
        .collect();
    if let RopeScaling::LongRope { short, long, .. } = &source.config.rope_scaling {
        for (name, factors) in [("rope_factors_short.weight", short), ("rope_factors_long.weight", long)] {
            let data: Vec<u8> = factors.iter().flat_map(|f| (*f as f32).to_le_bytes()).collect();
            tensors.push(GgufTensor {
                name: name.into(),
                dtype: DType::F32,
                shape: vec![factors.len()],
                data: data.into(),
            });
        }
    }
    write_gguf(path, &metadata(family, &source.config), &tensors).unwrap();
}

/// What the file of `family` says of a model of this configuration.
fn as_in_file(family: &str, folder: &ModelConfig) -> ModelConfig {
    let mut want = ModelConfig { wrapped: false, ..folder.clone() };
    // which no converter writes down: the size of a head stands in for it in all but the largest models
    want.query_pre_attn_scalar = want.query_pre_attn_scalar.map(|_| want.head_dim as f64);
    match family {
        // which layers turn is not said: all but each fourth
        "smollm3" => want.rotated = vec![true; want.num_hidden_layers],
        // its own constants of llama3 are none of a published model
        "exaone4" => want.rope_scaling = RopeScaling::None,
        "hunyuan" => {
            let RopeScaling::NtkAlpha { alpha } = want.rope_scaling else { panic!("{:?}", want.rope_scaling) };
            want.rope_theta = f64::from((want.rope_theta * alpha.powf(16.0 / 14.0)) as f32);
            want.rope_scaling = RopeScaling::None;
        }
        _ => {}
    }
    want
}

#[test]
fn gguf_gives_the_model_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    for family in [
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3",
        "phi3",
        "smollm3",
        "phi4mini",
        "ministral3",
        "seed_oss",
        "granite",
        "hunyuan",
        "arcee",
        "olmo2",
        "olmo3",
        "exaone4",
        "glm4",
        "cohere2",
    ] {
        let folder = Checkpoint::open(&folder(family)).unwrap();
        let path = dir.path().join(format!("{family}.gguf"));
        write(family, &folder, &path);
        let gguf = Checkpoint::open(&path).unwrap();
        assert!(gguf.notes.is_empty(), "{family}: {:?}", gguf.notes);
        assert_eq!(gguf.config, as_in_file(family, &folder.config), "{family}");
        let root = folder.config.root();
        let names = folder.names().into_iter().map(|name| (name, name.replacen(root, "model", 1)));
        let names: Vec<(&str, String)> = names.collect();
        assert_eq!(gguf.names(), names.iter().map(|(_, name)| name).collect::<Vec<_>>(), "{family}");
        for (name, own) in &names {
            let (a, b) = (folder.tensor(name).unwrap(), gguf.tensor(own).unwrap());
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
