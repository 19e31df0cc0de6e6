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
