//! Runs of the program itself.

use super::golden::*;
use rugosa::io::adapter::AdapterFolder;
use rugosa::io::mask::read_masks;
use rugosa::train::metrics::StepMetrics;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What all runs on the golden batches share, unless the run says otherwise.
const COMMON: &[(&str, &str)] = &[
    ("--seq-len", "128"),
    ("--rank", "4"),
    ("--alpha", "16"),
    ("--density", "0.02"),
    ("--dropout", "0"),
    ("--batch-size", "2"),
    ("--gradient-accumulation-steps", "1"),
    ("--warmup-steps", "0"),
    ("--lr-schedule", "constant"),
    ("--lora-lr", "2e-3"),
    ("--lr", "2e-3"),
];

/// Runs `rugosa` and gives its standard output.
///
/// # Panics
/// With what it said, if it fails.
#[track_caller]
pub fn rugosa(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rugosa"));
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "rugosa {}: {}\n{said}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A run that is through, in a folder of its own.
pub struct Run(TempDir);

impl Run {
    /// Trains on `lines` with `flags` and, for each of `files`, a flag and a path.
    #[track_caller]
    pub fn train(lines: &str, flags: &str, files: &[(&str, &Path)]) -> Run {
        Run::train_in(&[], lines, flags, files)
    }

    /// The same in another environment.
    #[track_caller]
    pub fn train_in(environment: &[(&str, &str)], lines: &str, flags: &str, files: &[(&str, &Path)]) -> Run {
        let run = Run(tempfile::tempdir().unwrap());
        let data = run.0.path().join("rows.jsonl");
        std::fs::write(&data, lines).unwrap();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let given = |flag: &str| flags.contains(&flag);
        let mut all = vec!["train"];
        all.extend(COMMON.iter().filter(|(flag, _)| !given(flag)).flat_map(|(flag, value)| [*flag, *value]));
        all.extend(["--no-packing", "--no-shuffle"].iter().filter(|no| !given(&no.replace("no-", ""))));
        all.extend(&flags);
        let (model, out, masks) = (tiny_llama(), run.out(), run.masks());
        let mut paths: Vec<(&str, &Path)> = vec![("--model", &model), ("--data", &data), ("--out", &out)];
        if given("--schedule") && !files.iter().any(|(f, _)| *f == "--mask") {
            paths.push(("--save-mask", &masks));
        }
        paths.extend(files);
        all.extend(paths.iter().flat_map(|(flag, path)| [*flag, path.to_str().unwrap()]));
        rugosa(&all, environment);
        run
    }

    /// The run folder.
    pub fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    pub fn metrics(&self) -> Vec<StepMetrics> {
        let text = std::fs::read_to_string(self.out().join("metrics.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    pub fn losses(&self) -> Vec<f64> {
        self.metrics().iter().map(|m| m.loss).collect()
    }

    /// The masks that the run saved.
    pub fn masks(&self) -> PathBuf {
        self.0.path().join("masks.safetensors")
    }

    pub fn adapter(&self) -> AdapterFolder {
        read_adapter(&self.out())
    }

    pub fn adapter_bytes(&self) -> Vec<u8> {
        std::fs::read(self.out().join("adapter_model.safetensors")).unwrap()
    }

    /// Fails unless the masks that the run saved are those of `key`, entry for entry.
    #[track_caller]
    pub fn assert_masks(&self, rosa: &Tensors, key: &str) {
        let shapes = modules(rosa);
        let got = read_masks(&self.masks(), |m| shapes.get(m).copied()).unwrap();
        let want = masks(rosa, key);
        assert_eq!((got.len(), want.len()), (21, 21), "{key}");
        for (module, mask) in &want {
            assert!(got[module] == *mask, "{key}: the mask of {module} differs");
        }
    }
}

/// The golden batches of these names, one behind the other.
pub fn rows<'a>(rosa: &Tensors, names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|n| rosa.rows(&format!("batch.{n}."))).collect()
}

/// Names of the batches that masks are made of: three of warm-up, then that of the gradient.
pub const WARM: [&str; 4] = ["warm0", "warm1", "warm2", "grad"];

/// The ten batches of the runs.
pub const TRAIN: [&str; 10] =
    ["train0", "train1", "train2", "train3", "train4", "train5", "train6", "train7", "train8", "train9"];

/// Files that runs start from.
pub struct Start(TempDir);

impl Start {
    pub fn new(rosa: &Tensors) -> Start {
        let folder = tempfile::tempdir().unwrap();
        low_rank(rosa, "init").write(&folder.path().join("init")).unwrap();
        rugosa::io::mask::write_masks(&folder.path().join("mask.safetensors"), &masks(rosa, "main")).unwrap();
        Start(folder)
    }

    /// An adapter with the A of all runs, and B zero.
    pub fn adapter(&self) -> PathBuf {
        self.0.path().join("init")
    }

    /// The masks `main`.
    pub fn mask(&self) -> PathBuf {
        self.0.path().join("mask.safetensors")
    }
}
