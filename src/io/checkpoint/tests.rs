use super::*;
use crate::io::gguf::{GgufTensor, Value, write_gguf};
use crate::io::safetensors::{INDEX, OutTensor, SINGLE, write_safetensors};
use crate::rng::Rng;
use serde_json::json;

const HIDDEN: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const INNER: usize = 64;
const VOCAB: usize = 10;

fn config() -> serde_json::Value {
    json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "attention_bias": true,
        "bos_token_id": null, "eos_token_id": null,
    })
}

struct Weight {
    gguf: &'static str,
    hf: &'static str,
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// All tensors of a model with one layer, untied and with biases in attention.
fn weights() -> Vec<Weight> {
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    [
        ("token_embd.weight", "model.embed_tokens.weight", vec![VOCAB, HIDDEN]),
        ("output_norm.weight", "model.norm.weight", vec![HIDDEN]),
        ("output.weight", "lm_head.weight", vec![VOCAB, HIDDEN]),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", vec![HIDDEN]),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", vec![q, HIDDEN]),
        ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", vec![q]),
        ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", vec![kv, HIDDEN]),
        ("blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias", vec![kv]),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", vec![kv, HIDDEN]),
        ("blk.0.attn_v.bias", "model.layers.0.self_attn.v_proj.bias", vec![kv]),
        ("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", vec![HIDDEN, q]),
        ("blk.0.attn_output.bias", "model.layers.0.self_attn.o_proj.bias", vec![HIDDEN]),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", vec![HIDDEN]),
        ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", vec![INNER, HIDDEN]),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", vec![INNER, HIDDEN]),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", vec![HIDDEN, INNER]),
    ]
    .map(|(gguf, hf, shape)| {
        let mut rng = Rng::named(1, hf);
        let data = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
        Weight { gguf, hf, shape, data }
    })
    .into()
}

fn write_folder(folder: &Path, config: &serde_json::Value, weights: &[Weight]) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<_> = weights.iter().map(|w| OutTensor::f32(w.hf, &w.shape, &w.data)).collect();
    write_safetensors(&folder.join(SINGLE), &tensors, &BTreeMap::new()).unwrap();
}

/// llama.cpp's conversion of `q` and `k`: each head's rows `[2, half]` are transposed to `[half, 2]`.
fn interleave(rows: &[&[u8]], heads: usize) -> Vec<u8> {
    let half = rows.len() / heads / 2;
    let source = |i: usize| {
        let (head, within) = (i / (2 * half), i % (2 * half));
        let (j, t) = (within / 2, within % 2);
        rows[head * 2 * half + t * half + j]
    };
    (0..rows.len()).flat_map(source).copied().collect()
}

fn metadata() -> Metadata {
    let sizes = [
        ("embedding_length", HIDDEN),
        ("feed_forward_length", INNER),
        ("block_count", 1),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("attention.key_length", HEAD_DIM),
        ("context_length", 64),
    ];
    let mut metadata: Metadata = sizes.map(|(k, v)| (format!("llama.{k}"), Value::U32(v as u32))).into_iter().collect();
    metadata.insert("general.architecture".into(), Value::String("llama".into()));
    metadata.insert("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5));
    metadata
}

/// The tensors as a GGUF file holds them. `encode` may turn a matrix into another type.
fn gguf_tensors(weights: &[Weight], encode: impl Fn(&Weight) -> (DType, Vec<u8>)) -> Vec<GgufTensor<'static>> {
    let convert = |w: &Weight| {
        let (dtype, mut data) = encode(w);
        let heads = match w.gguf {
            n if n.contains("attn_q") => Some(HEADS),
            n if n.contains("attn_k") => Some(KV_HEADS),
            _ => None,
        };
        if let Some(heads) = heads {
            let rows: Vec<&[u8]> = data.chunks(data.len() / w.shape[0]).collect();
            data = interleave(&rows, heads);
        }
        GgufTensor { name: w.gguf.to_string(), dtype, shape: w.shape.clone(), data: data.into() }
    };
    weights.iter().map(convert).collect()
}

fn plain(w: &Weight) -> (DType, Vec<u8>) {
    (DType::F32, bytemuck::cast_slice(&w.data).to_vec())
}

#[track_caller]
fn fails(path: &Path, expected: &str) {
    let message = Checkpoint::open(path).unwrap_err().to_string();
    assert!(message.contains(expected) && !message.contains('\n'), "{message}");
}

#[test]
fn folder_and_gguf_give_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights();
    write_folder(dir.path(), &config(), &weights);
    let folder = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join("m.gguf");
    let mut tensors = gguf_tensors(&weights, plain);
    let ones = GgufTensor {
        name: "rope_freqs.weight".into(),
        dtype: DType::F32,
        shape: vec![8],
        data: [0, 0, 0x80, 0x3f].repeat(8).into(),
    };
    tensors.push(ones);
    write_gguf(&path, &metadata(), &tensors).unwrap();
    let gguf = Checkpoint::open(&path).unwrap();

    assert_eq!(folder.config, gguf.config);
    assert_eq!(folder.names(), gguf.names());
    assert_eq!(folder.names().len(), weights.len());
    for w in &weights {
        let (a, b) = (folder.tensor(w.hf).unwrap(), gguf.tensor(w.hf).unwrap());
        assert_eq!(a, b, "{}", w.hf);
        assert_eq!((a.shape.as_slice(), a.data.as_ref()), (w.shape.as_slice(), bytemuck::cast_slice(&w.data)));
        assert!(gguf.contains(w.hf) && folder.contains(w.hf));
    }
    assert_eq!((folder.folder(), gguf.folder()), (Some(dir.path()), None));
    assert!(folder.gguf_metadata().is_none() && gguf.gguf_metadata().unwrap().len() == metadata().len());
    assert!(gguf.tensor("model.nothing").unwrap_err().to_string().contains("model.nothing: this tensor is missing"));
}

#[test]
fn rows_of_quantised_q_and_k_move_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let blocks = |w: &Weight| {
        if w.shape.len() == 1 {
            return plain(w);
        }
        // the bytes of each row name the row
        let row_bytes = DType::Q4_1.file_bytes(w.shape[1] as u64).unwrap() as usize;
        (DType::Q4_1, (0..w.shape[0]).flat_map(|row| vec![row as u8; row_bytes]).collect())
    };
    let weights = weights();
    write_gguf(&path, &metadata(), &gguf_tensors(&weights, blocks)).unwrap();
    let model = Checkpoint::open(&path).unwrap();
    for w in weights.iter().filter(|w| w.shape.len() == 2) {
        let view = model.tensor(w.hf).unwrap();
        assert_eq!((view.dtype, view.data.as_ref()), (DType::Q4_1, blocks(w).1.as_slice()), "{}", w.hf);
        let moved = w.gguf.contains("attn_q") || w.gguf.contains("attn_k");
        assert_eq!(matches!(view.data, Cow::Owned(_)), moved, "{} is copied for nothing", w.hf);
    }
}

#[test]
fn shapes_that_disagree_with_the_config_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = config();
    wrong["intermediate_size"] = json!(72);
    write_folder(dir.path(), &wrong, &weights());
    fails(dir.path(), "mlp.gate_proj.weight: has the shape [64, 32], but the model's configuration says [72, 32]");

    let path = dir.path().join("m.gguf");
    let mut wrong = metadata();
    wrong.insert("llama.attention.head_count_kv".into(), Value::U32(1));
    write_gguf(&path, &wrong, &gguf_tensors(&weights(), plain)).unwrap();
    fails(&path, "k_proj.weight: has the shape [32, 32], but the model's configuration says [16, 32]");
}

#[test]
fn missing_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut some = weights();
    some.retain(|w| w.gguf != "blk.0.ffn_up.weight");
    write_folder(dir.path(), &config(), &some);
    fails(dir.path(), "model.layers.0.mlp.up_proj.weight: this tensor is missing");
    let path = dir.path().join("m.gguf");
    write_gguf(&path, &metadata(), &gguf_tensors(&some, plain)).unwrap();
    fails(&path, "m.gguf: model.layers.0.mlp.up_proj.weight: this tensor is missing");
}

#[test]
fn a_tied_head_needs_no_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let mut some = weights();
    some.retain(|w| w.gguf != "output.weight");
    let mut tied = config();
    write_folder(dir.path(), &tied, &some);
    fails(dir.path(), "lm_head.weight: this tensor is missing");
    tied["tie_word_embeddings"] = json!(true);
    write_folder(dir.path(), &tied, &some);
    assert!(!Checkpoint::open(dir.path()).unwrap().contains("lm_head.weight"));
}

/// As transformers 5 decides: a head of its own is used whatever the configuration calls it.
#[test]
fn a_head_that_is_no_embedding_is_not_tied_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut tied = config();
    tied["tie_word_embeddings"] = json!(true);
    write_folder(dir.path(), &tied, &weights());
    let model = Checkpoint::open(dir.path()).unwrap();
    assert!(!model.config.tie_word_embeddings);
    let [note] = model.notes.as_slice() else { panic!("{:?}", model.notes) };
    assert!(note.contains("tie_word_embeddings is true, but lm_head.weight is another matrix"), "{note}");

    let mut same = weights();
    let embedding = same[0].data.clone();
    same[2].data = embedding.clone();
    write_folder(dir.path(), &tied, &same);
    let model = Checkpoint::open(dir.path()).unwrap();
    assert!(model.config.tie_word_embeddings && model.notes.is_empty(), "{:?}", model.notes);
    // the same in another type
    for (value, tied_still) in [(0.5f32, true), (0.1, false)] {
        same[0].data = vec![value; VOCAB * HIDDEN];
        let mut tensors: Vec<_> = same.iter().map(|w| OutTensor::f32(w.hf, &w.shape, &w.data)).collect();
        let halves = half::bf16::from_f32(value).to_le_bytes().repeat(VOCAB * HIDDEN);
        (tensors[2].dtype, tensors[2].data) = (Dtype::BF16, halves.into());
        write_safetensors(&dir.path().join(SINGLE), &tensors, &BTreeMap::new()).unwrap();
        assert_eq!(Checkpoint::open(dir.path()).unwrap().config.tie_word_embeddings, tied_still, "{value}");
    }
    // of a tied pair one name is enough, whichever it is
    same.remove(0);
    (same[1].hf, same[1].data) = ("lm_head.weight", embedding.clone());
    write_folder(dir.path(), &tied, &same);
    let model = Checkpoint::open(dir.path()).unwrap();
    let view = model.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(
        (view.name.as_str(), view.data.as_ref()),
        ("model.embed_tokens.weight", bytemuck::cast_slice(&embedding))
    );
}

#[test]
fn tensors_that_nothing_reads_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights();
    let write = |config: &serde_json::Value, more: &[&str]| {
        write_folder(dir.path(), config, &weights);
        let mut tensors: Vec<_> = weights.iter().map(|w| OutTensor::f32(w.hf, &w.shape, &w.data)).collect();
        tensors.extend(more.iter().map(|name| OutTensor::f32(*name, &[1], &[0.0])));
        write_safetensors(&dir.path().join(SINGLE), &tensors, &BTreeMap::new()).unwrap();
    };
    write(&config(), &["model.layers.0.self_attn.rotary_emb.inv_freq"]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().notes, Vec::<String>::new());
    write(&config(), &["model.layers.1.mlp.up_proj.weight", "vision.patch.weight"]);
    let notes = Checkpoint::open(dir.path()).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].ends_with("2 tensors are not used, model.layers.1.mlp.up_proj.weight first"));
    let mut without = config();
    without["attention_bias"] = json!(false);
    write(&without, &[]);
    fails(
        dir.path(),
        "self_attn.k_proj.bias: is there, but by the model's configuration there is none; set attention_bias",
    );
    let path = dir.path().join("m.gguf");
    let mut tensors = gguf_tensors(&weights, plain);
    tensors.push(GgufTensor { name: "blk.0.extra.weight".into(), ..tensors[0].clone() });
    write_gguf(&path, &metadata(), &tensors).unwrap();
    let notes = Checkpoint::open(&path).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].ends_with("1 tensors are not used, blk.0.extra.weight first"), "{notes:?}");
}

#[test]
fn unsupported_types_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), &config(), &weights());
    let weights = weights();
    let mut tensors: Vec<_> = weights.iter().map(|w| OutTensor::f32(w.hf, &w.shape, &w.data)).collect();
    let doubles = OutTensor {
        name: "model.norm.weight".into(),
        dtype: Dtype::F64,
        shape: vec![HIDDEN],
        data: vec![0; 8 * HIDDEN].into(),
    };
    *tensors.iter_mut().find(|t| t.name == "model.norm.weight").unwrap() = doubles;
    write_safetensors(&dir.path().join(SINGLE), &tensors, &BTreeMap::new()).unwrap();
    fails(dir.path(), "model.norm.weight: has the type F64; supported in safetensors are F32, F16, BF16, bitsandbytes");

    // type number 16 in the place of 0, behind the tensor's name and its two dimensions
    let path = dir.path().join("m.gguf");
    write_gguf(&path, &metadata(), &gguf_tensors(&weights, plain)).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    bytes[at] = 16;
    std::fs::write(&path, bytes).unwrap();
    fails(
        &path,
        "blk.0.ffn_up.weight: has the type IQ2_XXS, which is not read; take a file whose tensors are F32, F16",
    );
}

#[test]
fn quantised_vectors_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let encode = |w: &Weight| if w.gguf == "output_norm.weight" { (DType::Q8_0, vec![0; 34]) } else { plain(w) };
    write_gguf(&path, &metadata(), &gguf_tensors(&weights(), encode)).unwrap();
    fails(&path, "model.norm.weight: is a vector, which can't be Q8_0");
}

#[test]
fn a_model_of_shapes_has_no_values() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    let config = ModelConfig::from_hf(dir.path()).unwrap();
    let of = |format| Checkpoint::of_shapes(config.clone(), "shapes", move |_| format);
    let model = of(DType::Q8_0).unwrap();
    let up = model.stored("model.layers.0.mlp.up_proj.weight").unwrap();
    assert_eq!((up.shape, up.dtype), (vec![INNER, HIDDEN], DType::Q8_0));
    assert_eq!(model.stored("model.norm.weight").unwrap().dtype, DType::F32);
    assert!(model.contains("lm_head.weight") && model.folder().is_none() && model.gguf_metadata().is_none());
    assert!(model.names().contains(&"model.layers.0.self_attn.q_proj.bias"));
    let message = model.tensor("model.norm.weight").unwrap_err().to_string();
    assert!(message.starts_with("shapes: model.norm.weight: "), "{message}");
    let narrow = ModelConfig { hidden_size: 24, ..config.clone() };
    let message = Checkpoint::of_shapes(narrow, "shapes", |_| DType::Q4_0).unwrap_err().to_string();
    assert!(message.contains("rows of 24") && message.contains("Q4_0"), "{message}");
}

#[test]
fn paths_that_hold_no_model() {
    let dir = tempfile::tempdir().unwrap();
    fails(&dir.path().join("nowhere"), "nowhere: ");
    fails(dir.path(), "config.json: is missing; give a folder with config.json and safetensors, or a .gguf file");
    std::fs::create_dir(dir.path().join("snapshot")).unwrap();
    std::fs::write(dir.path().join("snapshot/config.json"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    fails(dir.path(), "snapshot; give that folder");
    fails(&dir.path().join("snapshot"), "config.json: content: is a Git LFS pointer");
    std::fs::remove_dir_all(dir.path().join("snapshot")).unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    fails(dir.path(), "folder of an adapter; give it as ⟨adapter⟩");
    std::fs::remove_file(dir.path().join("adapter_config.json")).unwrap();
    std::fs::write(dir.path().join("x.gguf"), "hello").unwrap();
    fails(dir.path(), "give that one");
    fails(&dir.path().join("x.gguf"), "this is not a GGUF file");
    std::fs::write(dir.path().join("rows.jsonl"), "{\"text\": \"a\"}").unwrap();
    fails(&dir.path().join("rows.jsonl"), "are ⟨model⟩ and ⟨data⟩ swapped?");
    std::fs::write(dir.path().join("p.gguf"), "version https://git-lfs.github.com/spec/v1\nsize 7\n").unwrap();
    fails(&dir.path().join("p.gguf"), "Git LFS pointer");
    fails(Path::new("some-owner/Some-Model-1.5B"), "hf download");
    fails(Path::new("~/models/x"), "write the whole path");
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    fails(dir.path(), "weights: neither model.safetensors nor model.safetensors.index.json is here");
    std::fs::write(dir.path().join(INDEX), r#"{"weight_map":{"a":"gone.safetensors"}}"#).unwrap();
    fails(dir.path(), "gone.safetensors");
}

#[test]
fn names_that_only_look_alike_are_not_taken() {
    for name in
        ["blk.01.attn_q.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "blk.0.attn_z.weight", "blk.0", "x"]
    {
        assert_eq!(hf_name(&crate::io::config::families::LLAMA, name), None, "{name}");
    }
}
