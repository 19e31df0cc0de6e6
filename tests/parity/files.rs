//! An adapter that a run wrote, put to use: `eval` and `generate` with it give what a model with the adapter merged into
//! its weights gives.

use super::golden::*;
use super::program::*;
use rugosa::io::adapter::AdapterFolder;
use rugosa::io::safetensors::{OutTensor, SafetensorsFile, write_safetensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A tokenizer that knows t0, t1, … t299.
fn write_tokenizer(folder: &Path) {
    let vocab: serde_json::Map<String, Value> = (0..300).map(|i| (format!("t{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Writes tiny-llama to `folder`, W + s·B·A + S in place of W, summed in f64.
fn write_merged(folder: &Path, adapter: Option<&AdapterFolder>) {
    std::fs::create_dir(folder).unwrap();
    let file = SafetensorsFile::open(&tiny_llama().join("model.safetensors")).unwrap();
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let raw = file.get(name).unwrap();
        let mut values = raw.to_f32().unwrap();
        let module = name.strip_suffix(".weight").and_then(|m| Some((adapter?.modules.get(m)?, m)));
        if let Some((t, module)) = module {
            let (rows, cols) = (raw.shape[0], raw.shape[1]);
            let mut sum: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
            if let (Some(a), Some(b)) = (&t.a, &t.b) {
                let scale = adapter.unwrap().config.scale(module);
                for (i, w) in sum.iter_mut().enumerate() {
                    let (row, col) = (i / cols, i % cols);
                    let product = |r: usize| f64::from(b.data[row * b.cols + r]) * f64::from(a.data[r * cols + col]);
                    *w += scale * (0..a.rows).map(product).sum::<f64>();
                }
            }
            if let Some(s) = &t.sparse {
                assert_eq!((s.pattern.rows, s.pattern.cols), (rows, cols));
                for ((row, col), v) in s.pattern.entries().zip(&s.values) {
                    sum[row as usize * cols + col as usize] += f64::from(*v);
                }
            }
            values = sum.into_iter().map(|v| v as f32).collect();
        }
        tensors.insert(name.to_owned(), (raw.shape.to_vec(), values));
    }
    let tensors: Vec<_> = tensors.iter().map(|(n, (shape, v))| OutTensor::f32(n.clone(), shape, v)).collect();
    write_safetensors(&folder.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::copy(tiny_llama().join("config.json"), folder.join("config.json")).unwrap();
    write_tokenizer(folder);
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn eval(model: &Path, adapter: Option<&Path>, data: &Path) -> f64 {
    let mut arguments = vec!["eval", "--json", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()];
    arguments.extend(adapter.iter().flat_map(|a| ["--adapter", a.to_str().unwrap()]));
    let scores = parsed(&rugosa(&arguments, &[]));
    assert_eq!((scores["supervised_tokens"].as_u64(), scores["examples"].as_u64()), (Some(30), Some(2)), "{scores}");
    let nll = scores["nll"].as_f64().unwrap();
    assert!((scores["perplexity"].as_f64().unwrap() / nll.exp() - 1.0).abs() < 1e-12, "{scores}");
    nll
}

fn generate(model: &Path, adapter: Option<&Path>) -> Vec<u64> {
    let mut arguments = vec!["generate", "--json", "--model", model.to_str().unwrap(), "--temperature", "0"];
    arguments.extend(["--prompt", "t1 t58 t254 t221 t254", "--max-new-tokens", "24"]);
    arguments.extend(adapter.iter().flat_map(|a| ["--adapter", a.to_str().unwrap()]));
    let answer = parsed(&rugosa(&arguments, &[]));
    let ids: Vec<u64> = answer["token_ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    let words: Vec<String> = ids.iter().map(|i| format!("t{i}")).collect();
    assert_eq!(answer["text"].as_str(), Some(words.join(" ").as_str()), "{answer}");
    ids
}

#[test]
fn adapters_of_runs_load_again() {
    let (rosa, folder) = (Tensors::open("rosa_llama"), tempfile::tempdir().unwrap());
    let (start, lines) = (Start::new(&rosa), rows(&rosa, TRAIN));
    let (init, mask) = (start.adapter(), start.mask());
    let rates = "--steps 10 --lora-lr 7e-3 --lr-schedule linear --warmup-steps 3";
    let data = folder.path().join("rows.jsonl");
    std::fs::write(&data, Tensors::open("model_llama").rows("")).unwrap();
    let plain = folder.path().join("plain");
    write_merged(&plain, None);
    let base = eval(&plain, None, &data);
    let want = golden("models/tiny-llama/loss_f64").as_f64().unwrap();
    assert!((base - want).abs() <= tolerance("model.loss.abs/tiny-llama"), "{base}, not {want}");

    let rosa_files = [("--init-adapter", init.as_path()), ("--mask", mask.as_path())];
    let runs = [
        ("rosa", Run::train(&lines, &format!("--method rosa {rates}"), &rosa_files)),
        ("lora", Run::train(&lines, &format!("--method lora {rates}"), &rosa_files[..1])),
        ("spa", Run::train(&lines, &format!("--method spa {rates} --lr 5e-2"), &rosa_files[1..])),
    ];
    for (name, run) in &runs {
        let merged = folder.path().join(name);
        write_merged(&merged, Some(&run.adapter()));
        let (attached, same) = (eval(&plain, Some(&run.out()), &data), eval(&merged, None, &data));
        // merged weights are rounded once, which moves a loss as little as any other rounding does
        assert!((attached - same).abs() <= tolerance("rosa.loss.abs/rosa"), "{name}: {attached}, merged {same}");
        assert!((attached - base).abs() > 1e-3, "{name}: the adapter does nothing");
        if *name == "rosa" {
            let want = golden("rosa/eval_loss_after_rosa_f64").as_f64().unwrap();
            assert!((attached - want).abs() <= tolerance("rosa.loss.abs/rosa"), "{attached}, not {want}");
        }
        let answer = generate(&plain, Some(&run.out()));
        assert_eq!(answer, generate(&merged, None), "{name}");
        assert!(!answer.is_empty(), "{name}");
    }
}
