use super::{fails, model, rugosa, run};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// `rugosa chat` that is told `input`; its exit code, standard output and standard error.
fn chat(model: &Path, more: &str, input: &str) -> (Option<i32>, String, String) {
    let mut command = rugosa("chat");
    if !more.contains("--max-new-tokens") {
        command.arg("--max-new-tokens=6");
    }
    command.arg("--model").arg(model).args(more.split_whitespace());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What `rugosa generate` answers.
fn answer(model: &Path, args: &[&str]) -> String {
    let mut command: Command = rugosa("generate --max-new-tokens 6");
    let (code, stdout, stderr) = run(command.arg("--model").arg(model).args(args));
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

#[test]
fn turns_are_answered_and_a_reset_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = model::gguf(folder.path());
    let once = answer(&model, &["--chat", "Hi"]);
    let (code, stdout, stderr) = chat(&model, "", "Hi\n\n/reset\n  Hi \n/nonsense\n/help\n/quit\nHi\n");
    assert_eq!((code, stdout.as_str()), (Some(0), once.repeat(2).as_str()), "{stderr}");
    for part in ["begun again", "/nonsense: is no command here", "/adapter PATH"] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
    let (_, quiet, stderr) = chat(&model, "--quiet", "Hi\n");
    assert_eq!((quiet, stderr.as_str()), (once, ""));
    // what went wrong is said all the same
    let (_, _, stderr) = chat(&model, "--quiet", "/adapter nowhere\n/nothing\n");
    assert!(stderr.contains("nowhere: ") && stderr.contains("/nothing: is no command"), "{stderr}");
}

#[test]
fn a_conversation_that_fills_the_context_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = model::gguf(folder.path());
    let (code, stdout, stderr) = chat(&model, "", &format!("Hi\n{}\n/reset\nHi\n", "long ".repeat(20)));
    assert_eq!((code, stdout), (Some(0), answer(&model, &["--chat", "Hi"]).repeat(2)), "{stderr}");
    assert!(
        stderr.contains("this is not asked: with what was said so far it takes ") && stderr.contains("/reset"),
        "{stderr}"
    );
    let (_, _, stderr) = chat(&model, "--max-new-tokens 200", "Hi\n");
    let full = stderr.contains("(the model's 64 positions are full");
    // unless it happened to end its answer before
    assert!(full || !stderr.contains('('), "{stderr}");
}

#[test]
fn adapters_are_swapped_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (model::gguf(folder.path()), folder.path().join("run"));
    let rows = folder.path().join("rows.jsonl");
    std::fs::write(&rows, "{\"prompt\": \"Hi\", \"response\": \"yes\"}\n".repeat(8)).unwrap();
    let mut train =
        rugosa("train --rank 4 --density 0.05 --steps 12 --lr 0.05 --lora-lr 0.05 --seq-len 48 --schedule wl2");
    let (code, _, stderr) = run(train.arg("--model").arg(&model).arg("--data").arg(&rows).arg("--out").arg(&out));
    assert_eq!(code, Some(0), "{stderr}");
    let (plain, adapted) =
        (answer(&model, &["--chat", "Hi"]), answer(&model, &["--chat", "Hi", "--adapter", out.to_str().unwrap()]));
    assert_ne!(plain, adapted, "the adapter has learnt nothing");
    let input = format!(
        "Hi\n/reset\n/adapter {0}\nHi\n/reset\n/adapter nowhere\nHi\n/reset\n/adapter none\nHi\n",
        out.display()
    );
    let (code, stdout, stderr) = chat(&model, "", &input);
    assert_eq!((code, stdout), (Some(0), [&*plain, &*adapted, &*adapted, &*plain].concat()), "{stderr}");
    assert!(stderr.contains("\nnowhere") && stderr.contains("adapter: none"), "{stderr}");
}

#[test]
fn without_a_template_texts_are_continued_and_without_a_tokenizer_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = model::gguf_without_template(folder.path());
    let (code, stdout, stderr) = chat(&model, "", "Hi\n");
    assert_eq!((code, stdout), (Some(0), answer(&model, &["--prompt", "Hi"])), "{stderr}");
    assert!(stderr.contains("the model has no chat template"), "{stderr}");
    fails(rugosa("chat --model").arg(model::folder(folder.path())), 1, &["tokenizer.json"]);
    fails(&mut rugosa("chat --model nowhere"), 1, &["nowhere"]);
}
