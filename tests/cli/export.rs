//! `rugosa export`: what is written, what is said, and what is refused.

use super::{fails, rugosa, run};
use rugosa::io::gguf::GgufFile;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// `rugosa export` of a fixture, with tiny-llama as its model unless there is `none`.
fn export(adapter: &str, model: Option<&str>, to: &str, out: &Path) -> Command {
    let mut command = rugosa("export --verify");
    command.arg("--adapter").arg(fixture(adapter)).args(["--to", to]).arg("--out").arg(out);
    if let Some(model) = model {
        command.arg("--model").arg(fixture(&format!("golden/tiny-{model}")));
    }
    command
}

#[test]
fn adapters_are_written_and_every_number_compared() {
    let dir = tempfile::tempdir().unwrap();
    let done = |command: &mut Command| {
        let (code, stdout, stderr) = run(command);
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    let config = |out: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap()
    };
    let peft = dir.path().join("peft");
    let (said, notes) = done(&mut export("adapter-rosa", Some("llama"), "peft", &peft));
    assert!(said.starts_with("21 modules written to ") && said.contains("numbers are the same\n"), "{said}");
    assert_eq!((notes.as_str(), config(&peft)["peft_type"].as_str()), ("", Some("SUPERTUNING")));
    // and from there, without the model, to the original's format
    let rosa = dir.path().join("rosa");
    let mut back = rugosa("export --json --verify --to peft-rosa");
    let (said, _) = done(back.arg("--adapter").arg(&peft).arg("--out").arg(&rosa));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (said["modules"].as_u64(), said["verified"]["worst_relative"].as_f64()),
        (Some(21), Some(0.0)),
        "{said}"
    );
    let (original, back) = (config(&fixture("adapter-rosa")), config(&rosa));
    assert!(["d", "r", "lora_alpha", "peft_type", "density_pattern"].iter().all(|key| original[key] == back[key]));
    let gguf = dir.path().join("lora.gguf");
    let (_, notes) = done(&mut export("adapters/lora-bf16", Some("llama"), "gguf", &gguf));
    assert!(notes.contains("there is one alpha, so the scales of 3 modules are multiplied into their B"), "{notes}");
    assert_eq!(GgufFile::open(&gguf).unwrap().names().count(), 12);
}

#[test]
fn what_cannot_be_exported_is_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let refused = |adapter: &str, model: Option<&str>, to: &str, code: i32, parts: &[&str]| {
        fails(&mut export(adapter, model, to, &out), code, parts);
        assert!(!out.exists());
    };
    refused("adapter-rosa", Some("llama"), "gguf", 1, &["--adapter: has a sparse part", "rugosa merge"]);
    refused("adapters/lora-bf16", None, "gguf", 2, &["--model: is needed for GGUF"]);
    let shape = ["does not tell the shape of its matrix; give its model: --model tiny-llama"];
    refused("adapters/supertuning-sparse", None, "peft", 1, &shape);
    let other =
        ["adapter_model.safetensors: modules: the adapter is for another model", "q_proj is no linear of this model"];
    refused("adapters/lora-bf16", Some("phi3"), "peft", 1, &other);
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "").unwrap();
    fails(&mut export("adapter-rosa", None, "peft", &out), 1, &["--out: exists already; give a new folder"]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
}
