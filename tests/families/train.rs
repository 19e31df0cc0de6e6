//! `rugosa train` on each family.

use super::golden::*;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::config::ModelConfig;
use rugosa::io::safetensors::SafetensorsFile;
use rugosa::quant;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Trains for two steps on the golden rows; the run folder.
#[track_caller]
fn train(family: &str, folder: &Path, flags: &str) -> PathBuf {
    let (data, out) = (folder.join("rows.jsonl"), folder.join("out"));
    let line = |(ids, labels): &(Vec<u32>, Vec<i32>)| format!("{}\n", json!({ "input_ids": ids, "labels": labels }));
    std::fs::write(&data, Golden::open(family).rows().iter().map(line).collect::<String>()).unwrap();
    let model = super::golden::folder(family);
    let paths = [("--model", &model), ("--data", &data), ("--out", &out)];
    let mut command = Command::new(env!("CARGO_BIN_EXE_rugosa"));
    command.arg("train").args(paths.iter().flat_map(|(flag, path)| [flag.as_ref(), path.as_os_str()]));
    let common = "--steps 2 --batch-size 2 --gradient-accumulation-steps 1 --seq-len 64 --no-packing --no-shuffle \
                  --lr-schedule constant --warmup-steps 0";
    let output = command.args(common.split_whitespace()).args(flags.split_whitespace()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{family}: {}\n{said}", output.status);
    out
}

fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["loss"].as_f64().unwrap()).collect()
}

#[test]
fn adapters_train_on_every_linear() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let flags = "--method rosa --rank 4 --density 0.02 --schedule spa_only --lora-lr 1e-2 --lr 1e-2";
        let run = train(family, dir.path(), flags);
        let losses = losses(&run);
        assert!((losses[0] - Golden::open(family).loss()).abs() < 1e-4, "{family}: {losses:?}");
        assert!(losses.iter().all(|l| l.is_finite()), "{family}: {losses:?}");
        let file = SafetensorsFile::open(&run.join("adapter_model.safetensors")).unwrap();
        let names: Vec<&str> = file.names().collect();
        for module in Checkpoint::open(&folder(family)).unwrap().names() {
            if let Some(linear) = module.strip_suffix("_proj.weight") {
                let found = names.iter().filter(|n| n.contains(&format!("{linear}_proj."))).count();
                assert!(found >= 3, "{family}: {found} tensors for {linear} in {names:?}");
            }
        }
    }
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let view = checkpoint.tensor(name).unwrap();
    let mut values = vec![0.0; view.shape.iter().product()];
    quant::dequantise(view.dtype, &view.data, &mut values).unwrap();
    values
}

/// PEFT compares a list with the ends of names, which the layers of the part that sees have too.
#[test]
fn adapters_of_wrapped_models_name_the_language_model() {
    let dir = tempfile::tempdir().unwrap();
    let run = train("ministral3", dir.path(), "--method lora --rank 2 --target-modules q_proj,down_proj");
    let config: Value = serde_json::from_slice(&std::fs::read(run.join("adapter_config.json")).unwrap()).unwrap();
    let expected = r"model\.language_model\..*\.down_proj|model\.language_model\..*\.q_proj";
    assert_eq!(config["target_modules"], expected);
}

#[test]
fn every_weight_trains_and_is_written() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let run = train(family, dir.path(), "--method full --lr 1e-2");
        let losses = losses(&run);
        assert!(losses[1] < losses[0] - 0.05, "{family}: {losses:?}");
        let (before, after) = (Checkpoint::open(&folder(family)).unwrap(), Checkpoint::open(&run).unwrap());
        // of a model that sees it is the language model
        let root = before.config.root();
        assert_eq!(ModelConfig { wrapped: false, ..before.config.clone() }, after.config, "{family}");
        let names = before.names().into_iter().map(|name| (name, name.replacen(root, "model", 1)));
        let names: Vec<(&str, String)> = names.collect();
        assert_eq!(names.iter().map(|(_, name)| name).collect::<Vec<_>>(), after.names(), "{family}");
        for (name, written) in &names {
            let (a, b) = (values(&before, name), values(&after, written));
            assert_eq!(a.len(), b.len(), "{family}: {name}");
            // a step of Adam moves a value by about the rate, whatever its gradient
            let moved = max_abs(&b, &a);
            assert!(moved > 1e-3, "{family}: {name} moved by {moved}");
        }
    }
}
