//! Measured tiles, from run to run.

use super::{rugosa, run, tiny};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `rugosa train` in `folder` with the cache in `folder/cache`, on a device whose products have tiles to choose from.
fn train(folder: &Path, out: &str, more: &str) -> Command {
    let mut command = rugosa("train --method lora --rank 4 --seq-len 48 --steps 3");
    for (flag, name) in [("--model", "model"), ("--data", "rows.jsonl"), ("--out", out)] {
        command.arg(flag).arg(folder.join(name));
    }
    command.args("--gradient-accumulation-steps 2".split_whitespace()).args(more.split_whitespace());
    in_cache(&mut command, folder);
    command
}

fn in_cache(command: &mut Command, folder: &Path) {
    command.env("RUGOSA_CACHE", folder.join("cache")).env("RUGOSA_DISABLE", "int64").env_remove("RUGOSA_CLASS");
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let (code, _, stderr) = run(command);
    assert_eq!(code, Some(0), "{stderr}");
    stderr
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder.join("cache")).unwrap().map(|f| f.unwrap().path());
    all.filter(|f| f.file_name().unwrap().to_str().unwrap().starts_with("tiles-")).collect()
}

fn losses(folder: &Path, out: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.join(out).join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["loss"].as_f64().unwrap()).collect()
}

fn adapter(folder: &Path, out: &str) -> Vec<u8> {
    std::fs::read(folder.join(out).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn tiles_are_measured_when_asked_for_and_used_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    tiny::write_model(folder);
    tiny::write_rows(folder, 20, 24, 40);
    let stderr = done(&mut train(folder, "without", ""));
    assert!(files(folder).is_empty() && !stderr.contains("tiles"), "{stderr}");

    let stderr = done(&mut train(folder, "tuned", "--tune=30"));
    assert!(
        stderr.contains("tiles: measured for at most 30 s") && stderr.contains(" products measured in "),
        "{stderr}"
    );
    assert_eq!(files(folder).len(), 1);
    assert!(std::fs::read_to_string(folder.join("tuned/config.toml")).unwrap().contains("tune = 30.0"));
    let (without, tuned) = (losses(folder, "without"), losses(folder, "tuned"));
    assert_eq!(without.len(), tuned.len());
    assert!(without.iter().zip(&tuned).all(|(a, b)| (a - b).abs() < 1e-4), "{without:?} {tuned:?}");

    // the next run has them without being asked to, and is the same bit for bit
    let stderr = done(&mut train(folder, "next", ""));
    assert!(stderr.contains(", tiles tuned)") && !stderr.contains("measured"), "{stderr}");
    assert!(adapter(folder, "tuned") == adapter(folder, "next"));
    let stderr = done(&mut train(folder, "asked", "--tune"));
    assert!(stderr.contains("tiles: 0 products measured") && stderr.contains(" were known"), "{stderr}");
    // and so has a bench, and what has nothing to do with that model's shapes
    let mut bench =
        rugosa("bench step --shape tiny --batch-size 2 --seq-len 32 --steps 1 --warmup 1 --method lora --tune=0.2");
    in_cache(&mut bench, folder);
    let stderr = done(&mut bench);
    assert!(stderr.contains("tiles: "), "{stderr}");

    // a damaged file costs the tiles, no more
    let file = &files(folder)[0];
    let text = std::fs::read(file).unwrap();
    std::fs::write(file, &text[..text.len() / 2]).unwrap();
    let stderr = done(&mut train(folder, "damaged", ""));
    assert!(stderr.contains("is damaged; its tiles are not used") && !stderr.contains("tiles tuned"), "{stderr}");
    assert!(adapter(folder, "damaged") == adapter(folder, "without"));
}

#[test]
fn without_a_cache_they_are_used_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 20, 24, 40);
    let stderr = done(train(dir.path(), "off", "--tune=0.5").env("RUGOSA_CACHE", "off"));
    assert!(stderr.contains("tiles: ") && !dir.path().join("cache").exists(), "{stderr}");
}

#[test]
fn a_time_that_is_none_is_refused() {
    for (command, code) in [("bench step --tune=0", 2), ("bench step --tune=soon", 2), ("train --tune=x", 2)] {
        let (got, stdout, stderr) = run(&mut rugosa(command));
        assert_eq!((got, stdout.as_str()), (Some(code), ""), "{command}: {stderr}");
    }
    for seconds in ["0", "-1", "nan", "inf", "4000"] {
        let (code, _, stderr) = run(&mut rugosa(&format!("train --model m --data d --out o --tune={seconds}")));
        assert!(code == Some(2) && stderr.contains("--tune"), "{seconds}: {stderr}");
    }
}
