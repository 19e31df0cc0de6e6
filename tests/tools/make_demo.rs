//! Makes the model of `rugosa demo`, in two steps with a training run between them; `make demo-model` does all three.
//!
//! ```text
//! cargo run --release --example make_demo -- start DIR      # DIR/start: a random model; DIR/pretrain.jsonl: its rows
//! rugosa train --method full --model DIR/start --data DIR/pretrain.jsonl --out DIR/run …
//! cargo run --release --example make_demo -- pack DIR/run assets/demo
//! ```

use rugosa::cli::demo::records::{KNOWN, Names, Record, TAUGHT};
use rugosa::data::{IGNORED, Tokenizer};
use rugosa::error::{Error, Result};
use rugosa::io::atomic::write_atomic;
use rugosa::io::safetensors::{OutTensor, SafetensorsFolder, write_safetensors};
use rugosa::rng::Rng;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// Of the first weights and of the rows.
const SEED: u64 = 2026;
const ROWS: usize = 100_000;
/// Styles that a row of pretraining asks for, one after the other, of the same record.
const STYLES_PER_ROW: usize = 4;

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 192;
const LAYERS: usize = 4;
const HEADS: usize = 4;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = HIDDEN / HEADS;
const POSITIONS: usize = 256;
/// What ends a text.
const END: &str = "<|endoftext|>";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["start", folder] => start(Path::new(folder)),
        ["pack", from, to] => pack(Path::new(from), Path::new(to)),
        _ => Err(Error::invalid("make_demo", "usage: make_demo start DIR | make_demo pack RUN DIR")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A random model, its tokenizer and the rows that it is pretrained on.
fn start(folder: &Path) -> Result<()> {
    let model = folder.join("start");
    std::fs::create_dir_all(&model).map_err(Error::io(&model))?;
    let vocab = vocabulary();
    write_json(&model.join("tokenizer.json"), &tokenizer(&vocab))?;
    write_json(&model.join("tokenizer_config.json"), &json!({ "eos_token": END }))?;
    write_json(&model.join("config.json"), &config(vocab.len()))?;
    let weights = weights(vocab.len());
    let tensors: Vec<_> = weights.iter().map(|(n, s, v)| OutTensor::f32(n.clone(), s, v)).collect();
    write_safetensors(&model.join("model.safetensors"), &tensors, &BTreeMap::new())?;
    let text = pretraining(&Tokenizer::from_folder(&model)?)?;
    write_atomic(&folder.join("pretrain.jsonl"), |w| w.write_all(text.as_bytes()))
}

/// The rows of pretraining, as token ids: a record, then several styles of it. What is learnt is the texts in those styles,
/// and that each of them ends.
fn pretraining(tokenizer: &Tokenizer) -> Result<String> {
    let mut rng = Rng::named(SEED, "demo pretraining");
    let mut text = String::new();
    for _ in 0..ROWS {
        let record = Record::draw(&mut rng, Names::Train);
        let mut styles = KNOWN.to_vec();
        rng.shuffle(&mut styles);
        let mut ids = tokenizer.encode(&format!("{} ", record.text()), false)?;
        let mut labels = vec![IGNORED; ids.len()];
        for style in &styles[..STYLES_PER_ROW] {
            ids.extend(tokenizer.encode(&style.mark(), false)?);
            labels.resize(ids.len(), IGNORED);
            ids.extend(tokenizer.encode(&record.written(*style), false)?);
            ids.extend(tokenizer.eos());
            labels.extend(ids[labels.len()..].iter().map(|&id| id as i32));
        }
        text += &json!({ "input_ids": ids, "labels": labels }).to_string();
        text.push('\n');
    }
    Ok(text)
}

fn config(vocab: usize) -> Value {
    json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": vocab,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000.0,
        "tie_word_embeddings": false,
        "hidden_act": "silu",
        "eos_token_id": 0,
    })
}

/// The spelling of each token: what ends a text, what asks for each style, and the printable characters of ASCII, the blank
/// as GPT-2's byte-level alphabet writes it.
fn vocabulary() -> Vec<String> {
    let mut vocab = vec![END.to_owned()];
    vocab.extend(KNOWN.iter().chain([&TAUGHT]).map(|s| s.mark()));
    vocab.push("Ġ".to_owned());
    vocab.extend(('!'..='~').map(String::from));
    vocab
}

fn tokenizer(vocab: &[String]) -> Value {
    let ids: Map<String, Value> = vocab.iter().enumerate().map(|(i, t)| (t.clone(), i.into())).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let whole = |id: usize| {
        json!({
            "id": id, "content": vocab[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": id == 0
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": (0..2 + KNOWN.len()).map(whole).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": ids, "merges": []
        }
    })
}

type Weights = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Random weights: products keep the scale of what goes in, and the residual branches start small.
fn weights(vocab: usize) -> Weights {
    let mut all = Weights::new();
    let mut random = |name: String, rows: usize, columns: usize, scale: f64| {
        let mut rng = Rng::named(SEED, &name);
        let values = (0..rows * columns).map(|_| (rng.normal() * scale) as f32).collect();
        all.push((name, vec![rows, columns], values));
    };
    let plain = (HIDDEN as f64).sqrt().recip();
    let branch = |inputs: usize| (2.0 * LAYERS as f64 * inputs as f64).sqrt().recip();
    random("model.embed_tokens.weight".into(), vocab, HIDDEN, 0.5);
    random("lm_head.weight".into(), vocab, HIDDEN, 0.02);
    for i in 0..LAYERS {
        let at = format!("model.layers.{i}");
        random(format!("{at}.self_attn.q_proj.weight"), HEADS * HEAD_DIM, HIDDEN, plain);
        random(format!("{at}.self_attn.k_proj.weight"), KV_HEADS * HEAD_DIM, HIDDEN, plain);
        random(format!("{at}.self_attn.v_proj.weight"), KV_HEADS * HEAD_DIM, HIDDEN, plain);
        random(format!("{at}.self_attn.o_proj.weight"), HIDDEN, HEADS * HEAD_DIM, branch(HEADS * HEAD_DIM));
        random(format!("{at}.mlp.gate_proj.weight"), INTERMEDIATE, HIDDEN, plain);
        random(format!("{at}.mlp.up_proj.weight"), INTERMEDIATE, HIDDEN, plain);
        random(format!("{at}.mlp.down_proj.weight"), HIDDEN, INTERMEDIATE, branch(INTERMEDIATE));
    }
    let norms = (0..LAYERS)
        .flat_map(|i| ["input_layernorm", "post_attention_layernorm"].map(|n| format!("model.layers.{i}.{n}.weight")));
    for name in norms.chain(["model.norm.weight".to_owned()]) {
        all.push((name, vec![HIDDEN], vec![1.0; HIDDEN]));
    }
    all
}

/// The trained model with its weights in half precision, beside its tokenizer.
fn pack(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(Error::io(to))?;
    let weights = SafetensorsFolder::open(from)?;
    let mut halves = Vec::new();
    for name in weights.names() {
        let Some(raw) = weights.get(name) else { continue };
        let raw = raw?;
        let values: Vec<half::f16> = raw.to_f32()?.into_iter().map(half::f16::from_f32).collect();
        halves.push((name.to_owned(), raw.shape.to_vec(), values));
    }
    let tensors: Vec<_> = halves.iter().map(|(n, s, v)| OutTensor::f16(n.clone(), s, v)).collect();
    write_safetensors(&to.join("model.safetensors"), &tensors, &BTreeMap::new())?;
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let bytes = std::fs::read(from.join(name)).map_err(Error::io(from.join(name)))?;
        write_atomic(&to.join(name), |w| w.write_all(&bytes))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomic(path, |w| writeln!(w, "{value:#}"))
}
