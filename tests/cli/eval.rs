use super::{model, rugosa, run};

#[test]
fn the_tokens_numbers_are_those_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    std::fs::write(&data, "{\"text\": \"a rose\"}\n{\"prompt\": \"2+2=\", \"response\": \"4\"}\n{\"text\": \"xy\"}\n")
        .unwrap();
    let (model, data) = (model::gguf(folder.path()), data.to_str().unwrap());
    let eval = |more: &str| {
        let mut command = rugosa("eval --batch-size 2");
        command.arg("--model").arg(&model).args(["--data", data]).args(more.split_whitespace());
        command
    };
    let (code, stdout, stderr) = run(&mut eval("--json --per-token"));
    assert_eq!(code, Some(0), "{stderr}");
    let scores: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let rows: Vec<Vec<f64>> = serde_json::from_value(scores["token_nll"].clone()).unwrap();
    // a text without its first token; the answer and its end token
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [5, 2, 1]);
    let (sum, count) = (rows.iter().flatten().sum::<f64>(), 8.0);
    assert!((sum / count - scores["nll"].as_f64().unwrap()).abs() < 1e-6, "{scores}");
    let (_, stdout, _) = run(&mut eval("--json"));
    assert!(!stdout.contains("token_nll"), "{stdout}");
    let (code, _, stderr) = run(&mut eval("--per-token"));
    assert!(code == Some(2) && stderr.contains("--json"), "{stderr}");
}

/// What was cut is counted, and neither it nor an answer that is longer than what may be said is scored as wrong.
#[test]
fn answers_that_are_cut_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let turn = |role: &str, content: &str| format!("{{\"role\": \"{role}\", \"content\": \"{content}\"}}");
    let talk =
        [turn("user", "a"), turn("assistant", "bc"), turn("user", "d"), turn("assistant", "efghijkl")].join(", ");
    std::fs::write(&data, format!("{{\"messages\": [{talk}]}}\n{{\"prompt\": \"2\", \"response\": \"3\"}}\n")).unwrap();
    let model = model::gguf(folder.path());
    let eval = |more: &str| {
        let mut command = rugosa("eval --metric exact-match --json");
        let (code, stdout, stderr) =
            run(command.arg("--model").arg(&model).arg("--data").arg(&data).args(more.split_whitespace()));
        assert_eq!(code, Some(0), "{stderr}");
        (serde_json::from_str::<serde_json::Value>(&stdout).unwrap(), stderr)
    };
    let numbers = |s: &serde_json::Value| {
        ["answers", "answers_cut", "answers_too_long", "rows_answer_cut", "examples"].map(|k| s[k].as_u64().unwrap())
    };
    let (all, _) = eval("--max-new-tokens 9");
    assert_eq!(numbers(&all), [3, 0, 0, 0, 2], "{all}");
    let longest = all["longest_row"].as_u64().unwrap();
    let (cut, stderr) = eval(&format!("--max-new-tokens 9 --seq-len {}", longest - 4));
    assert_eq!(numbers(&cut), [2, 1, 0, 1, 2], "{cut}");
    assert!(stderr.contains(&format!("cuts the answers of 1 of 2 rows; --seq-len {longest} keeps all")), "{stderr}");
    // the second answer lies wholly behind the cut
    let (cut, stderr) = eval(&format!("--max-new-tokens 9 --seq-len {}", longest - 15));
    assert_eq!(numbers(&cut), [2, 1, 0, 1, 2], "{cut}");
    assert!(stderr.contains("1 answer is cut by --seq-len and not compared"), "{stderr}");
    let (short, stderr) = eval("--max-new-tokens 8");
    assert_eq!(numbers(&short), [2, 0, 1, 0, 2], "{short}");
    assert!(stderr.contains("--max-new-tokens 9 compares all"), "{stderr}");
    assert!(eval("--max-new-tokens 1").0["exact_match"].is_null());
}

/// The score does not fall with `--seq-len`: an answer that is cut is not judged, and those that are whole stay right.
#[test]
fn what_is_right_stays_right_at_any_length() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let model = model::gguf(folder.path());
    let json = |command: &str, more: &[&str]| {
        let (code, stdout, stderr) = run(rugosa(command).arg("--model").arg(&model).args(more));
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<serde_json::Value>(&stdout).unwrap()
    };
    std::fs::write(&data, "{\"text\": \"ab\"}").unwrap();
    let at = data.to_str().unwrap();
    let prompt = json("preview --json", &["--data", at])["input_ids"].as_array().unwrap().clone();
    // what the model says is the right answer, of four lengths
    let said = json("generate --json --temperature 0 --max-new-tokens 20", &["--prompt", "ab"])["token_ids"].clone();
    let said = said.as_array().unwrap();
    let lengths = [2, 8, 14, 20].map(|n| n.min(said.len()));
    assert_eq!(lengths[3], 20, "the model ends at once: {said:?}");
    let rows = lengths.map(|n| {
        let ids = [&prompt[..], &said[..n]].concat();
        let labels = [&vec![serde_json::json!(-100); prompt.len()][..], &said[..n]].concat();
        serde_json::json!({ "input_ids": ids, "labels": labels }).to_string()
    });
    std::fs::write(&data, rows.join("\n")).unwrap();
    for (kept, length) in [(4, 20), (3, 19), (2, 8), (1, 7)] {
        let length = (prompt.len() + length).to_string();
        let more = ["--data", at, "--seq-len", &length];
        let scores = json("eval --metric exact-match --json --max-new-tokens 20", &more);
        assert_eq!((&scores["exact_match"], &scores["answers"]), (&1.0.into(), &kept.into()), "{length}: {scores}");
        assert_eq!(scores["answers_cut"], 4 - kept, "{length}: {scores}");
    }
}
