//! A run that is interrupted and taken up again leaves the bytes of one that never was.

use super::non_finite::{BROKEN, ROW_BY_ROW, break_token};
use super::{Watcher, config, tiny};
use rugosa::error::Error;
use rugosa::train::Session;
use std::collections::BTreeMap;
use std::path::Path;

/// Every file of a run folder but the summary, which has the memory of the last process alone; of the metrics all but the times,
/// of the configuration all but the folder's own name.
pub(super) fn contents(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = std::fs::read(&path).unwrap();
        if name == "metrics.jsonl" {
            let text = String::from_utf8(bytes).unwrap();
            let line = |line: &str| {
                let mut json: serde_json::Value = serde_json::from_str(line).unwrap();
                json["tokens_per_second"] = 0.into();
                json.to_string()
            };
            bytes = text.lines().map(line).collect::<Vec<_>>().join("\n").into_bytes();
        }
        if !["config.toml", "summary.json"].contains(&name.as_str()) {
            all.insert(name, bytes);
        }
    }
    all
}

/// The same files with the same bytes.
#[track_caller]
pub(super) fn assert_same(whole: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(whole.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, bytes) in whole {
        assert!(*bytes == other[name], "{name} differs:\n{}", String::from_utf8_lossy(&other[name]));
    }
}

/// Runs `text` once to the end, and once with an interruption before each of the steps `stops`; compares.
fn interrupted_equals_uninterrupted(text: &str, stops: &[u64]) {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    interrupted_in(dir, text, stops);
}

/// The same on the model and the rows in `dir`.
fn interrupted_in(dir: tempfile::TempDir, text: &str, stops: &[u64]) {
    let whole = config(dir.path(), "whole", text);
    Session::prepare(whole.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default()).unwrap();

    let parts = config(dir.path(), "parts", text);
    for (i, &stop) in stops.iter().enumerate() {
        let mut watcher = Watcher { stop_at: Some(stop), ..Watcher::default() };
        let session = match i {
            0 => Session::prepare(parts.clone(), &mut watcher),
            _ => Session::resume(parts.clone(), &mut watcher),
        };
        let ended = session.unwrap().run(&mut watcher);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        let before = if i == 0 { 0 } else { stops[i - 1] };
        assert_eq!(watcher.seen, (before..stop).collect::<Vec<_>>(), "no step is lost or done twice");
        assert!(watcher.notes.iter().any(|n| n.contains("⟨resume⟩ ⟨out⟩")), "{:?}", watcher.notes);
        assert!(parts.out.join(format!("state/step-{stop}/DONE")).exists());
    }
    let mut watcher = Watcher::default();
    Session::resume(parts.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap();
    assert_same(&contents(&whole.out), &contents(&parts.out));
    // and then it is over
    let again = Session::resume(parts, &mut Watcher::default()).map(drop).unwrap_err().to_string();
    assert!(again.contains("⟨resume⟩: the run is finished"), "{again}");
}

pub(super) const COMMON: &str = "batch_size = 1\ngradient_accumulation_steps = 2\nseq_len = 24\nrank = 4\ndensity = 0.05\n\
                      dropout = 0.1\nwarmup_steps = 1\nmax_grad_norm = 0.5\n";

#[test]
fn rosa_in_every_phase() {
    // steps 0 and 1 warm up, 2 and 3 collect, from 4 on everything trains afresh, over the end of an epoch
    let text = format!("{COMMON}schedule = 'wl2'\nmask_grads = 2\nsteps = 6");
    interrupted_equals_uninterrupted(&text, &[1, 3, 4, 8]);
}

#[test]
fn rosa_that_goes_on_without_a_restart() {
    let text = format!("{COMMON}schedule = 'wl1'\nmask_grads = 2\nrestart = false\nmask_mode = 'mean'\nsteps = 6");
    interrupted_equals_uninterrupted(&text, &[0, 2, 5]);
}

#[test]
fn full_with_checkpointing() {
    let text = format!("{COMMON}method = 'full'\nlr = 1e-3\ncheckpointing = 'layer'\nsteps = 5");
    interrupted_equals_uninterrupted(&text, &[2]);
}

#[test]
fn what_has_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::write_model(dir.path());
    let rows = tiny::write_rows(dir.path(), 10, 6, 20);
    let text = format!("{COMMON}method = 'lora'\nsteps = 3");
    let run = config(dir.path(), "out", &text);
    let mut watcher = Watcher { stop_at: Some(1), ..Watcher::default() };
    let ended = Session::prepare(run.clone(), &mut watcher).unwrap().run(&mut watcher);
    assert!(matches!(ended, Err(Error::Interrupted)));
    let message = |run: &rugosa::train::config::TrainConfig| {
        Session::resume(run.clone(), &mut Watcher::default()).map(drop).unwrap_err().to_string()
    };

    let mut other = run.clone();
    other.rank = 2;
    assert!(message(&other).starts_with("rank: is 2, but 4 in the run to resume"), "{}", message(&other));
    let mut data = std::fs::read_to_string(&rows).unwrap();
    let untouched = data.clone();
    data += "{\"input_ids\": [5, 6, 7, 8, 9]}\n";
    std::fs::write(&rows, &data).unwrap();
    assert!(message(&run).contains("rows.jsonl: data: is not what the run"), "{}", message(&run));
    std::fs::write(&rows, untouched).unwrap();
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    assert!(message(&run).contains("model: model: is not what the run"), "{}", message(&run));
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();

    // a new run does not step on it, and files may move
    let taken = Session::prepare(run.clone(), &mut Watcher::default()).map(drop).unwrap_err().to_string();
    assert!(taken.contains("⟨out⟩: the run folder exists already"), "{taken}");
    let moved = dir.path().join("moved.jsonl");
    std::fs::rename(&rows, &moved).unwrap();
    let elsewhere = rugosa::train::config::TrainConfig { data: moved, ..run.clone() };
    assert!(Session::resume(elsewhere, &mut Watcher::default()).is_ok());
}

#[test]
fn skipped_steps_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    break_token(dir.path());
    // the second, fifth and sixth steps are skipped; the third collects
    let row =
        |i: usize| format!("{{\"input_ids\": [5, 6, {}, 8]}}\n", if [1, 4, 5].contains(&i) { BROKEN } else { 20 + i });
    std::fs::write(dir.path().join("rows.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    let text = format!("{ROW_BY_ROW}schedule = 'wl2'\nmask_grads = 1\nrestart = false\nsteps = 8");
    interrupted_in(dir, &text, &[2, 5, 6]);
}
