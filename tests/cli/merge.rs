//! `rugosa merge`, `rugosa quantize` and `--quantize`, from the outside.

use super::{fails, model, rugosa, run, tiny};
use crate::merge::write_adapter;
use rugosa::io::checkpoint::Checkpoint;
use serde_json::Value;
use std::path::Path;

/// Standard output as JSON.
#[track_caller]
fn json(args: &str, more: &[(&str, &Path)]) -> Value {
    let mut command = rugosa(args);
    for (option, path) in more {
        command.arg(option).arg(path);
    }
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

/// The model that is read again says what the adapter on the model said.
#[test]
fn a_merged_file_has_the_adapters_loss() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rows.jsonl");
    std::fs::write(&data, "{\"text\": \"a rose is a rose\"}\n{\"prompt\": \"2+2=\", \"response\": \"4\"}\n").unwrap();
    let model = model::gguf(dir.path());
    let adapter = dir.path().join("adapter");
    write_adapter(&adapter, &Checkpoint::open(&model).unwrap(), 3);
    let nll =
        |more: &[(&str, &Path)]| json("eval --json", &[more, &[("--data", &data)]].concat())["nll"].as_f64().unwrap();
    let (base, want) = (nll(&[("--model", &model)]), nll(&[("--model", &model), ("--adapter", &adapter)]));
    assert!((base - want).abs() > 1e-3, "the adapter does something: {base} {want}");
    for (to, name, bound) in [("same", "f32.gguf", 1e-6), ("f16", "f16.gguf", 1e-4), ("bf16", "folder", 1e-3)] {
        let out = dir.path().join(name);
        let files: [(&str, &Path); 4] =
            [("--model", &model), ("--adapter", &adapter), ("--out", &out), ("--data", &data)];
        let merged = json(&format!("merge --json --type {to}"), &files);
        let got = nll(&[("--model", &out)]);
        assert!((got - want).abs() < bound, "{name}: {got}, not {want}");
        let number = |key: &str| merged[key].as_f64().unwrap();
        assert!((number("nll_before") - want).abs() < 1e-6 && (number("nll_after") - got).abs() < 1e-6, "{merged}");
        assert!(number("kl") < bound && (to != "same" || number("same_top") == 1.0), "{merged}");
    }
    let modelfile = std::fs::read_to_string(dir.path().join("f16.Modelfile")).unwrap();
    assert!(
        modelfile.contains("FROM ./f16.gguf\n") && modelfile.contains("PARAMETER stop \"<|im_end|>\""),
        "{modelfile}"
    );
    // rows of 16 are no blocks of 32
    let out = dir.path().join("q.gguf");
    let mut command = rugosa("merge --type q8_0");
    command.arg("--model").arg(&model).arg("--adapter").arg(&adapter).arg("--out").arg(&out);
    fails(&mut command, 1, &["--type: ", "has rows of 16, no whole number of Q8_0 blocks of 32"]);
    assert!(!out.exists());
}

/// Quantised on the way to the device, or once into a folder: the same numbers, in every place that takes a model.
#[test]
fn quantising_on_load_is_quantising_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny::write_model(dir.path());
    // a width of whole NF4 blocks
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    assert!(config.contains("176"));
    let mut command = rugosa("eval --quantize nf4");
    let data = tiny::write_rows(dir.path(), 4, 8, 16);
    command.arg("--model").arg(&folder).arg("--data").arg(&data);
    fails(
        &mut command,
        1,
        &[
            "--quantize: model.layers.0.mlp.down_proj.weight has rows of 176, no whole number of NF4",
            "leave --quantize out",
        ],
    );

    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let data = dir.path().join("texts.jsonl");
    std::fs::write(&data, "{\"text\": \"a rose is a rose\"}\n{\"text\": \"and a field\"}\n").unwrap();
    let nll = |args: &str, model: &Path| {
        json(&format!("eval --json {args}"), &[("--model", model), ("--data", &data)])["nll"].as_f64().unwrap()
    };
    let plain = nll("", &demo);
    for (format, to) in [("nf4", "nf4"), ("nf4-double", "nf4-double")] {
        let out = dir.path().join(to);
        json(&format!("quantize --json --to {to}"), &[("--model", &demo), ("--out", &out)]);
        let (loaded, once) = (nll(&format!("--quantize {format}"), &demo), nll("", &out));
        assert!((loaded - once).abs() < 1e-7, "{format}: {loaded}, not {once}");
        assert!((loaded - plain).abs() > 1e-6 && (loaded - plain).abs() < 0.5, "{format}: {loaded} of {plain}");
    }
    let q8 = dir.path().join("q8.gguf");
    json("quantize --json --to q8_0", &[("--model", &demo), ("--out", &q8)]);
    assert!((nll("", &q8) - plain).abs() < 0.02);
    // a plan counts what will lie there
    let weights = |args: &str| {
        let plan = json(&format!("plan --json --method lora --seq-len 64 {args}"), &[("--model", &demo)]);
        plan["purposes"]["weights"].as_u64().unwrap()
    };
    assert!(weights("--quantize nf4") < weights("") - weights("") / 4, "{} {}", weights("--quantize nf4"), weights(""));
}

/// An adapter that was trained over quantised weights says so where it meets others.
#[test]
fn a_run_over_quantised_weights_is_known_by_its_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let (data, out) = (dir.path().join("texts.jsonl"), dir.path().join("run"));
    std::fs::write(&data, "{\"text\": \"a rose is a rose\"}\n{\"text\": \"and a field\"}\n").unwrap();
    let mut train =
        rugosa("train --quantize q8_0 --method lora --steps 2 --gradient-accumulation-steps 1 --seq-len 32");
    train.arg("--model").arg(&demo).arg("--data").arg(&data).arg("--out").arg(&out);
    let (code, _, stderr) = run(&mut train);
    assert_eq!(code, Some(0), "{stderr}");
    let eval = |args: &str| {
        let mut command = rugosa(&format!("eval {args}"));
        let command = command.arg("--model").arg(&demo).arg("--adapter").arg(&out).arg("--data").arg(&data);
        let (code, _, stderr) = run(command);
        assert_eq!(code, Some(0), "{stderr}");
        stderr
    };
    assert!(eval("").contains("was trained with --quantize q8_0, and is used without --quantize"));
    assert!(!eval("--quantize q8_0").contains("was trained"));
}
