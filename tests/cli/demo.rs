//! The built-in demo, from the bare program to the numbers.

use super::{fails, rugosa, run};
use rugosa::cli::demo::records::{KNOWN, Names, Row, rows, to_jsonl};
use serde_json::Value;
use std::path::Path;

/// As `rugosa eval` scores it.
fn exact_match(model: &Path, data: &Path, adapter: Option<&Path>) -> f64 {
    let mut eval = rugosa("eval --metric exact-match --json --seq-len 64 --max-new-tokens 32 --batch-size 64");
    eval.arg("--model").arg(model).arg("--data").arg(data);
    if let Some(adapter) = adapter {
        eval.arg("--adapter").arg(adapter);
    }
    let (code, stdout, stderr) = run(&mut eval);
    assert_eq!(code, Some(0), "{stderr}");
    let scores: Value = serde_json::from_str(&stdout).unwrap();
    scores["exact_match"].as_f64().unwrap()
}

#[test]
fn the_demo_teaches_a_task_that_generalises() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("kept");
    let (code, stdout, stderr) = run(rugosa("demo --json --out").arg(&out));
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"));
    assert!(number("examples") >= 100.0);
    assert!(number("exact_match_before") <= 0.05, "the model knows the task already: {report}");
    assert!(number("exact_match_after") >= 0.8, "{report}");
    let losses: Vec<f64> = report["losses"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert_eq!(losses.len() as f64, number("steps"));
    assert!(losses[losses.len() - 1] < 0.2 * losses[0], "{losses:?}");
    assert!(report["samples"].as_array().unwrap().iter().all(|s| s["prompt"].as_str().unwrap().ends_with("cite=")));

    // what it kept is a model folder, rows and an adapter for the other commands
    let folder = |name: &str| out.join(name);
    let taught = exact_match(&folder("model"), &folder("held-out.jsonl"), Some(&folder("adapter")));
    assert_eq!(taught, number("exact_match_after"));
    // the model did know the styles of its pretraining, for names that it never saw
    let known: Vec<Row> = KNOWN.iter().flat_map(|style| rows(1, *style, Names::HeldOut, 10)).collect();
    std::fs::write(folder("known.jsonl"), to_jsonl(&known)).unwrap();
    let known = exact_match(&folder("model"), &folder("known.jsonl"), None);
    assert!(known >= 0.9, "{known}");

    // and is not written over
    fails(rugosa("demo --out").arg(&out), 1, &["--out", "is not empty"]);
}

#[test]
fn a_demo_that_teaches_nothing_fails() {
    let (code, stdout, stderr) = run(&mut rugosa("demo --steps 1"));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("exact match on 128 held-out rows"), "{stdout}");
    assert!(stderr.lines().last().unwrap().starts_with("error: built-in model: exact match: did not rise"), "{stderr}");
}
