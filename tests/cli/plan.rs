//! `rugosa plan`, and runs that are refused for what it says.

use super::{rugosa, run};
use crate::common::tiny;
use serde_json::Value;
use std::path::Path;

const SIZES: &str = "--batch-size 4 --gradient-accumulation-steps 2 --seq-len 64 --rank 4 --density 0.05 --steps 4";

/// What `rugosa plan` says of the model in `folder`.
#[track_caller]
fn planned(folder: &Path, more: &str) -> Value {
    let command = format!("plan --json --model {} {SIZES} {more}", folder.join("model").display());
    let (code, stdout, stderr) = run(&mut rugosa(&command));
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_plan_has_purposes_and_phases_and_needs_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 16, 12, 48);
    let without = planned(dir.path(), "");
    let rows = format!("--data {}", dir.path().join("rows.jsonl").display());
    let with = planned(dir.path(), &rows);
    let peak = |plan: &Value| plan["peak_bytes"].as_u64().unwrap();
    assert!(peak(&with) <= peak(&without), "{with} and {without}");
    for plan in [&with, &without] {
        let purposes = plan["purposes"].as_object().unwrap();
        assert_eq!(purposes.values().map(|b| b.as_u64().unwrap()).sum::<u64>(), peak(plan));
        assert!(["weights", "activations", "adapter"].iter().all(|p| purposes.contains_key(*p)), "{plan}");
        let phases = plan["phases"].as_array().unwrap();
        let names: Vec<&str> = phases.iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert!(names.ends_with(&["collect", "train"]), "{plan}");
        assert_eq!(phases.iter().map(|p| p["bytes"].as_u64().unwrap()).max(), Some(peak(plan)));
        assert!(plan["fits"].is_null() == plan["limit_bytes"].is_null(), "{plan}");
    }
    let of = |method: &str| peak(&planned(dir.path(), &format!("--method {method}")));
    assert!(of("lora") < of("full"));
}

#[test]
fn what_does_not_fit_has_a_change_that_does_and_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 16, 48, 48);
    let rows = format!("--data {}", dir.path().join("rows.jsonl").display());
    let whole = planned(dir.path(), &rows)["peak_bytes"].as_u64().unwrap();
    assert_eq!(planned(dir.path(), &format!("{rows} --vram {whole}"))["fits"], true);
    let mut changes = Vec::new();
    for percent in [95, 60, 40, 30] {
        let vram = whole * percent / 100;
        let plan = planned(dir.path(), &format!("{rows} --vram {vram}"));
        assert_eq!((plan["fits"].as_bool(), plan["limit_bytes"].as_u64()), (Some(false), Some(vram)), "{plan}");
        let Some(change) = plan["change"].as_str() else { continue };
        if change.contains("--quantize ") {
            continue; // another format is what `training::plan` plans with
        }
        // later flags win
        let sizes =
            SIZES.split(" --").filter(|f| !change.contains(f.split(' ').next().unwrap().trim_start_matches('-')));
        let sizes = sizes.map(|f| format!("--{}", f.trim_start_matches('-'))).collect::<Vec<_>>().join(" ");
        let model = dir.path().join("model");
        let command = format!("plan --json --model {} {rows} {sizes} {change} --vram {vram}", model.display());
        let (code, stdout, stderr) = run(&mut rugosa(&command));
        assert_eq!(code, Some(0), "{stderr}");
        let changed: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(changed["fits"], true, "{change}: {changed}");
        changes.push(change.to_owned());
    }
    assert!(changes.len() >= 2 && changes[0].starts_with("--mask-workspace "), "{changes:?}");
    assert!(changes[1].contains("--batch-size "), "{changes:?}");

    let (model, out) = (dir.path().join("model"), dir.path().join("out"));
    let train = |more: &str| {
        let command = format!("train --model {} {rows} {SIZES} --out {} {more}", model.display(), out.display());
        run(&mut rugosa(&command))
    };
    let (code, _, stderr) = train(&format!("--vram {}", whole * 6 / 10));
    assert_eq!(code, Some(1), "{stderr}");
    let error = stderr.lines().last().unwrap();
    assert!(error.starts_with("error: ") && error.contains("would fit"), "{stderr}");
    assert!(!out.exists() && !stderr.contains("kernels: "), "{stderr}");
    // what auto takes
    let off = planned(dir.path(), &format!("{rows} --method lora"))["peak_bytes"].as_u64().unwrap();
    let layer =
        planned(dir.path(), &format!("{rows} --method lora --checkpointing layer"))["peak_bytes"].as_u64().unwrap();
    let (code, _, stderr) = train(&format!("--method lora --checkpointing auto --vram {}", (off + layer) / 2));
    assert_eq!(code, Some(0), "{stderr}");
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    let settled = config.lines().find(|line| line.starts_with("checkpointing = ")).unwrap();
    assert!(!settled.contains("auto") && !settled.contains("off"), "{settled}");
}

#[test]
fn a_plan_needs_no_device() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    if cfg!(target_os = "linux") {
        let mut command = rugosa(&format!("plan --model {} {SIZES} --vram 8GiB", dir.path().join("model").display()));
        let (code, stdout, stderr) = run(super::without_devices(&mut command));
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("there is no device here") && stdout.contains("fits into 8GiB"), "{stdout}{stderr}");
    }
    let mut command = rugosa(&format!("plan --model {} --vram 8GB", dir.path().join("model").display()));
    super::fails(&mut command, 2, &["8GB", "8GiB"]);
}
