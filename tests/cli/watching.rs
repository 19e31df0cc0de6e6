//! A run that is watched: evaluations, samples, the page, the list, and answers with their reasons.

use super::{fails, model, rugosa, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows with a hostile prompt among them, in a folder with a model and prompts.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let gguf = model::gguf(dir.path());
    let row = |i: usize| format!("{{\"prompt\": \"{i}+{i}=\", \"response\": \"so #### {}\"}}\n", 2 * i);
    std::fs::write(dir.path().join("sums.jsonl"), (0..12).map(row).collect::<String>()).unwrap();
    let prompts = "1+1=\n\n\"<script>alert(1)</script>\\n\\u202e&\"\n";
    std::fs::write(dir.path().join("prompts.txt"), prompts).unwrap();
    (dir, gguf)
}

fn train(dir: &Path, gguf: &Path, more: &str) -> Command {
    let mut command =
        rugosa("train --seq-len 40 --rank 2 --density 0.05 --gradient-accumulation-steps 1 --prompt-format raw");
    command.arg("--model").arg(gguf).arg("--data").arg(dir.join("sums.jsonl")).current_dir(dir);
    command.args(more.split_whitespace());
    command
}

const WATCHED: &str = "--schedule wl2 --mask-grads 1 --steps 4 --eval-split 0.3 --eval-steps 2 --eval-answers 2 --eval-tokens 12 \
                       --sample-prompts prompts.txt --keep best --tensorboard";

#[test]
fn a_run_leaves_a_page_that_shows_it_and_can_be_repeated() {
    let (dir, gguf) = folder();
    let (code, stdout, stderr) = run(&mut train(dir.path(), &gguf, &format!("{WATCHED} --out it's")));
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    for part in [
        "evaluation after step 0: loss ",
        "exact match ",
        "the best so far",
        "kept: the values after step ",
        "report.html",
    ] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
    let out = dir.path().join("it's");
    let samples = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 2 * 5, "two prompts before, after 2, 4, 6 and 7 steps: {samples}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "<h1>it&#39;s</h1>",
        "warm-up",
        "evaluation loss",
        "Exact match",
        "&lt;script&gt;alert(1)",
        "\\u{202e}&amp;",
        "q_proj",
        "weights",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    for part in ["<script", "http:", "https:", "<link", "<img", "url(", "@import", "NaN"] {
        assert!(!page.contains(part), "{part} is in the page");
    }
    let events = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(events.filter(|name| name.starts_with("events.out.tfevents.")).count(), 1);

    // the command on the page makes the same adapter
    let start = page.find("<pre class=\"command\">").unwrap() + "<pre class=\"command\">".len();
    let text = page[start..].split("</pre>").next().unwrap();
    let text = text
        .replace("&#39;", "'")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let program = text.replacen("rugosa", env!("CARGO_BIN_EXE_rugosa"), 1);
    let again = Command::new("sh").args(["-c", &program]).current_dir(dir.path()).output().unwrap();
    assert!(again.status.success(), "{text}: {}", String::from_utf8_lossy(&again.stderr));
    let adapter = |out: &str| std::fs::read(dir.path().join(out).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("it's") == adapter("it's-again"), "{text}");

    let (code, stdout, stderr) =
        run(rugosa("report --out it's --compare it's-again --html both.html").current_dir(dir.path()));
    assert_eq!((code, stdout.as_str()), (Some(0), "both.html\n"), "{stderr}");
    let both = std::fs::read_to_string(dir.path().join("both.html")).unwrap();
    assert!(both.contains("2 runs") && both.contains("The runs have the same options."), "{both}");

    let (code, stdout, stderr) = run(rugosa("runs .").current_dir(dir.path()));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.starts_with("name") && stdout.matches("finished").count() == 2 && stdout.contains("7/7"),
        "{stdout}"
    );
    let (_, stdout, _) = run(rugosa("runs . --json").current_dir(dir.path()));
    let runs: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let first = &runs[0];
    assert!(first["steps"] == 7 && first["state"] == "finished" && first["eval_loss"].is_f64(), "{runs}");
    fails(rugosa("report --out nowhere").current_dir(dir.path()), 1, &["nowhere"]);
    fails(rugosa("report --out .").current_dir(dir.path()), 1, &["config.toml: is missing: this is no run folder"]);
}

#[test]
fn without_a_folder_a_run_gets_one_by_its_day_and_its_data() {
    let (dir, gguf) = folder();
    for _ in 0..2 {
        let mut command = train(dir.path(), &gguf, "--method lora --steps 1");
        let (code, _, stderr) = run(command.env("SOURCE_DATE_EPOCH", "86400"));
        assert_eq!(code, Some(0), "{stderr}");
    }
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("runs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["1970-01-02-sums", "1970-01-02-sums-2"]);
}

#[test]
fn options_that_need_something_to_evaluate_say_so() {
    let (dir, gguf) = folder();
    for (more, parts) in [
        ("--keep best", ["--keep: needs rows to evaluate on", "--eval-split 0.05"]),
        ("--early-stopping 3", ["--early-stopping: needs rows", "--eval-data FILE"]),
        ("--eval-steps 3", ["--eval-steps: there is nothing to evaluate", "--sample-prompts FILE"]),
        ("--eval-split 5", ["--eval-split: 5 is outside of 0 to 1", "0.05 for 5 %"]),
        ("--eval-split 0.1 --mask-only --keep best", ["--keep: with mask_only", "leave one of them out"]),
        ("--eval-split 0.99", ["--eval-split: 0.99 of 12 rows", "--eval-data FILE"]),
    ] {
        fails(&mut train(dir.path(), &gguf, &format!("--steps 4 --out run {more}")), 2, &parts);
    }
    std::fs::write(dir.path().join("bad.txt"), "fine\n\"torn\n").unwrap();
    let bad = ["bad.txt:2: begins as a JSON string and is none"];
    let mut command = train(dir.path(), &gguf, "--steps 4 --out run --sample-prompts bad.txt");
    let (code, _, stderr) = run(&mut command);
    assert!(code == Some(1) && stderr.contains(bad[0]), "{stderr}");
    assert!(!dir.path().join("run").exists());
}

#[test]
fn answers_are_judged_by_what_an_expression_finds_and_written_one_a_line() {
    let (dir, gguf) = folder();
    let eval = |more: &[&str]| {
        let mut command = rugosa("eval --metric exact-match --json --max-new-tokens 20 --prompt-format raw");
        command
            .arg("--model")
            .arg(&gguf)
            .arg("--data")
            .arg(dir.path().join("sums.jsonl"))
            .current_dir(dir.path())
            .args(more);
        command
    };
    let (code, stdout, stderr) =
        run(&mut eval(&["--answer-regex", "#### (.+)", "--stop", "\n\n", "--output", "answers.jsonl"]));
    assert_eq!(code, Some(0), "{stderr}");
    let scores: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(scores["answers"], 12, "{scores}");
    let text = std::fs::read_to_string(dir.path().join("answers.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 12);
    let mut rows: Vec<u64> = lines.iter().map(|l| l["line"].as_u64().unwrap()).collect();
    rows.sort_unstable();
    assert_eq!(rows, (1..=12).collect::<Vec<_>>());
    let second = lines.iter().find(|l| l["line"] == 2).unwrap();
    assert_eq!((&second["prompt"], &second["wanted"]), (&"1+1=".into(), &"2".into()), "{second}");
    assert!(second["match"].is_boolean() && second["expected"].as_str().unwrap().contains("#### 2"), "{second}");
    // an expression that is in two answers alone
    let (_, stdout, stderr) = run(&mut eval(&["--answer-regex", "#### 2."]));
    let scores: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&scores["answers"], &scores["answers_unmatched"]), (&2.into(), &10.into()), "{scores}");
    assert!(stderr.contains("10 answers are without what --answer-regex looks for"), "{stderr}");

    let (code, _, stderr) = run(&mut eval(&["--output", "answers.jsonl"]));
    assert!(code == Some(1) && stderr.contains("answers.jsonl: --output: is there already"), "{stderr}");
    assert_eq!(std::fs::read_to_string(dir.path().join("answers.jsonl")).unwrap(), text);
    fails(&mut eval(&["--answer-regex", "("]), 2, &["--answer-regex: ", "GSM8K"]);
    fails(&mut rugosa("eval --model m --data d --stop x"), 2, &["--stop: is about answers; add --metric exact-match"]);
}
