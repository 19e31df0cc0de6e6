//! Runs that are interrupted from outside, and what those beside them use that are killed.

use super::tiny;
use super::{rugosa, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `rugosa train` in `folder` with the run in `out`: 4 steps of warm-up and collection, then those that `more` says.
pub fn train(folder: &Path, out: &str, more: &str) -> Command {
    let mut command = rugosa("train --schedule wl2 --mask-grads 2 --rank 4 --density 0.05 --seq-len 32");
    for (flag, name) in [("--model", "model"), ("--data", "rows.jsonl"), ("--out", out)] {
        command.arg(flag).arg(folder.join(name));
    }
    command.args("--gradient-accumulation-steps 2".split_whitespace()).args(more.split_whitespace());
    command
}

pub const SAVING: &str = "--steps 8 --save-steps 1";

pub fn resume(out: &Path) -> Command {
    let mut command = rugosa("train --resume --out");
    command.arg(out);
    command
}

pub fn lines(out: &Path) -> usize {
    std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| {
        text.split_inclusive('\n').filter(|line| line.starts_with("{\"step\":") && line.ends_with('\n')).count()
    })
}

/// Starts `command` and waits until the run in `out` has reported `count` steps, or is over.
pub fn until(command: &mut Command, out: &Path, count: usize) -> Child {
    until_with(command, out, count, Stdio::null())
}

/// The same with standard error elsewhere.
pub fn until_with(command: &mut Command, out: &Path, count: usize, stderr: Stdio) -> Child {
    let mut child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let started = Instant::now();
    while lines(out) < count && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "the run stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// The adapter, and the metrics without times.
pub fn results(out: &Path) -> (Vec<u8>, Vec<serde_json::Value>) {
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["tokens_per_second"] = 0.into();
        json
    };
    (std::fs::read(out.join("adapter_model.safetensors")).unwrap(), metrics.lines().map(line).collect())
}

pub fn bench() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 20, 6, 30);
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    (dir, whole, killed)
}

#[cfg(unix)]
#[test]
fn interrupted_it_saves_its_state_and_ends_with_130() {
    let (dir, whole, killed) = bench();
    let child = until_with(&mut train(dir.path(), "killed", "--steps 100000"), &killed, 2, Stdio::piped());
    assert!(!killed.join("state").exists());
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("\nstopping: the state will be saved once the step at hand is done"), "{said}");
    let done = lines(&killed);
    assert!(killed.join(format!("state/step-{done}/DONE")).exists());
    assert!(done >= 2 && !whole.exists());
    // what it was started with stands; one flag changed is named
    let (code, _, stderr) = run(resume(&killed).args(["--lr", "1"]));
    assert!(code == Some(1) && stderr.contains("error: lr: is 1.0, but 0.0002 in the run to resume"), "{stderr}");
    // it goes on where it stopped
    let mut child = until(&mut resume(&killed), &killed, done + 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> =
        text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()?["step"].as_u64()).collect();
    assert_eq!(steps, (0..steps.len() as u64).collect::<Vec<_>>(), "every step once");
    assert!(steps.len() >= done + 2);
}

#[test]
fn masks_alone_are_saved_in_the_run_folder_or_where_asked() {
    let (dir, whole, _) = bench();
    let (code, stdout, stderr) = run(&mut train(dir.path(), "whole", "--steps 8 --mask-only"));
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    let default = std::fs::read(whole.join("masks.safetensors")).unwrap();
    assert!(!whole.join("adapter_config.json").exists());
    assert!(stderr.contains("--mask") && stderr.contains("masks.safetensors"), "{stderr}");
    let asked = dir.path().join("m.safetensors");
    let (code, _, stderr) = run(train(dir.path(), "other", "--steps 8 --mask-only --save-mask").arg(&asked));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(std::fs::read(&asked).unwrap() == default && !dir.path().join("other/masks.safetensors").exists());
    // and they can be started from
    let mut command = rugosa("train --steps 2 --rank 4 --seq-len 32 --method rosa");
    for (flag, path) in
        [("--model", "model"), ("--data", "rows.jsonl"), ("--out", "third"), ("--mask", "m.safetensors")]
    {
        command.arg(flag).arg(dir.path().join(path));
    }
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
}
