//! Models and rows by name, from a small Hub on loopback.

use super::resume::{lines, until};
use super::{fails, model, rugosa, run, tiny};
use crate::common::hub_server::{COMMIT, Server};
use std::path::Path;
use std::process::Command;

/// `rugosa` that knows no other Hub than `server`, with its cache in `home`.
fn with(server: &Server, home: &Path, args: &str) -> Command {
    let mut command = rugosa(args);
    command.env("HF_ENDPOINT", &server.address).env("HF_HOME", home).env("NO_PROXY", "127.0.0.1,localhost");
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn a_model_and_rows_by_name_are_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let (server, home) = (Server::start(), folder.path().join("hf"));
    server.put("org/tiny", "q/tiny.gguf", &std::fs::read(model::gguf(folder.path())).unwrap());
    server.put("datasets/org/rows", "rows.jsonl", b"{\"prompt\": \"2+2=\", \"response\": \"4\"}\n");
    let args = "preview --model hf:org/tiny/q/tiny.gguf --data hf:org/rows@v1/rows.jsonl";
    let (code, stdout, stderr) = run(&mut with(&server, &home, args));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("2+2="), "{stdout}");
    assert!(stderr.contains("fetching 1 file of hf:org/tiny/q/tiny.gguf, "), "{stderr}");
    server.log();
    let offline = run(with(&server, &home, args).env("HF_HUB_OFFLINE", "1"));
    assert_eq!((offline.0, offline.1), (Some(0), stdout), "{}", offline.2);
    assert!(server.log().is_empty() && !offline.2.contains("fetching"), "{}", offline.2);
    // a wrong name is one line, and what it may have meant
    fails(&mut with(&server, &home, &args.replace("rows.jsonl", "row.jsonl")), 1, &["did you mean rows.jsonl?"]);
    fails(&mut with(&server, &home, &args.replace("org/tiny", "org/tinny")), 1, &["hf:org/tinny/q/tiny.gguf: "]);
    fails(&mut with(&server, &home, &args.replace("hf:org/tiny", "hf:org//x")), 1, &["hf:org/name"]);
    fails(with(&server, &home, args).env("HF_ENDPOINT", "nowhere"), 2, &["HF_ENDPOINT: \"nowhere\""]);
}

#[test]
fn a_run_goes_on_with_the_commit_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let (server, home, out) = (Server::start(), folder.path().join("hf"), folder.path().join("run"));
    let model = tiny::write_model(folder.path());
    let rows = std::fs::read(tiny::write_rows(folder.path(), 20, 6, 30)).unwrap();
    for file in ["config.json", "model.safetensors"] {
        server.put("org/tiny", file, &std::fs::read(model.join(file)).unwrap());
    }
    server.put("datasets/org/rows", "rows.jsonl", &rows);
    let args = "train --model hf:org/tiny --data hf:org/rows/rows.jsonl --method lora --rank 4 --seq-len 32 --save-steps 1 --steps 12";
    let mut child = until(with(&server, &home, args).arg("--out").arg(&out), &out, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // the branch moves on
    server.put("org/tiny", "model.safetensors", b"another model");
    server.commit(&"f".repeat(40));
    let mut resume = with(&server, &home, "train --resume --out");
    let (code, _, stderr) = run(resume.arg(&out).env("HF_HUB_OFFLINE", "1"));
    assert_eq!((code, lines(&out)), (Some(0), 12), "{stderr}");
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(config.contains(&format!("model = \"hf:org/tiny@{COMMIT}\"")), "{config}");
    assert!(config.contains(&format!("data = \"hf:org/rows@{COMMIT}/rows.jsonl\"")), "{config}");
    let adapter = std::fs::read(out.join("adapter_config.json")).unwrap();
    let adapter: serde_json::Value = serde_json::from_slice(&adapter).unwrap();
    assert_eq!(
        (adapter["base_model_name_or_path"].as_str(), adapter["revision"].as_str()),
        (Some("org/tiny"), Some(COMMIT))
    );
}
