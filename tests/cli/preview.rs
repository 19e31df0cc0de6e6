use super::{fails, model, rugosa, run};
use std::path::Path;
use std::process::Command;

const ROWS: &str = r#"{"messages": [{"role": "user", "content": "Rose?"}, {"role": "assistant", "content": "Bite\u001b me"}]}
{"prompt": "2+2=", "response": "4"}
{"text": "third"}
"#;

/// `rugosa preview` of `rows` with the tiny model.
fn preview(folder: &Path, rows: &str, more: &str) -> Command {
    preview_with(&model::gguf(folder), folder, rows, more)
}

fn preview_with(model: &Path, folder: &Path, rows: &str, more: &str) -> Command {
    let data = folder.join("rows.jsonl");
    std::fs::write(&data, rows).unwrap();
    let mut command = rugosa("preview");
    command.arg("--model").arg(model).arg("--data").arg(data).args(more.split_whitespace());
    command
}

#[test]
fn rows_are_shown_as_the_model_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(&mut preview(folder.path(), ROWS, "--rows 2"));
    assert_eq!(code, Some(0), "{stderr}");
    let chat = "<|im_start|>user\nRose?<|im_end|>\n<|im_start|>assistant\n‹Bite\\u{1b} me<|im_end|>›";
    assert!(stdout.starts_with(chat), "{stdout}");
    // a pair as `generate --chat` asks
    assert!(stdout.contains("user\n2+2=<|im_end|>\n<|im_start|>assistant\n‹4<|im_end|>›\nline 2: "), "{stdout}");
    assert!(!stdout.contains("\nline 3: "), "{stdout}");
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    assert!(stderr.starts_with("3 rows, 0 truncated and 0 dropped at --seq-len "), "{stderr}");
    assert!(stderr.contains("\nprompt format chat: 1 row through the model's chat template"), "{stderr}");
    assert!(stderr.contains("\n2 conversations: learnt are the assistant's words"), "{stderr}");
}

/// What nobody can read is no reason to end: `eprintln!` would panic here.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_that_takes_nothing_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = preview(folder.path(), ROWS, "").stderr(full).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("\nline 3: "));
}

#[test]
fn rows_as_json_hold_text_ids_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(&mut preview(folder.path(), ROWS, "--json --prompt-format raw --separator="));
    assert_eq!((code, stdout.lines().count()), (Some(0), 3), "{stderr}");
    let rows: Vec<serde_json::Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let text = "<|im_start|>user\nRose?<|im_end|>\n<|im_start|>assistant\nBite\u{1b} me<|im_end|>\n";
    assert_eq!((rows[0]["text"].as_str(), rows[0]["line"].as_u64()), (Some(text), Some(1)));
    let second = serde_json::json!({
        "line": 2, "text": "2+2=4<|im_end|>", "input_ids": [50, 43, 50, 61, 52, 258],
        "labels": [-100, -100, -100, -100, 52, 258],
    });
    assert_eq!(rows[1], second);
}

#[test]
fn colour_marks_what_is_learnt_where_it_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (_, stdout, _) = run(preview(folder.path(), ROWS, "").env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR"));
    assert!(stdout.contains("\u{1b}[1m\u{1b}[32mBite\\u{1b} me<|im_end|>") && !stdout.contains('‹'), "{stdout:?}");
}

#[test]
fn a_model_without_a_tokenizer_shows_ids() {
    let folder = tempfile::tempdir().unwrap();
    let model = model::folder(folder.path());
    let rows = r#"{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}"#;
    let (code, stdout, stderr) = run(&mut preview_with(&model, folder.path(), rows, ""));
    assert_eq!((code, stdout.as_str()), (Some(0), "5‹ 6 7›\nline 1: 3 tokens, 2 learnt\n\n"), "{stderr}");
    fails(&mut preview_with(&model, folder.path(), ROWS, ""), 1, &["rows.jsonl:1: ", "tokenizer"]);
    fails(&mut preview_with(&model, folder.path(), r#"{"input_ids": [1, 259]}"#, ""), 1, &["rows.jsonl:1: ", "259"]);
}

#[test]
fn bad_input_is_one_line_and_1() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fails(&mut preview(at, "{\"text\": \"a b\"}\n{\"text\": ", ""), 1, &["rows.jsonl:2: "]);
    fails(&mut preview(at, "", ""), 1, &["rows.jsonl"]);
    fails(&mut preview(at, ROWS, "--data-format alpaca"), 1, &["rows.jsonl:1: "]);
    fails(rugosa("preview --model nowhere --data").arg(at.join("rows.jsonl")), 1, &["nowhere: "]);
    let model = at.join("tiny.gguf");
    fails(rugosa("preview --data nowhere.jsonl --model").arg(&model), 1, &["nowhere.jsonl: "]);
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(at.join("cut.gguf"), &bytes[..bytes.len() - 100]).unwrap();
    fails(rugosa("preview --data rows.jsonl --model").arg(at.join("cut.gguf")), 1, &["cut.gguf: "]);
}

#[test]
fn wrong_options_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let more = "--prompt-field same --response-field same";
    fails(&mut preview(folder.path(), ROWS, more), 2, &["prompt_field"]);
}
