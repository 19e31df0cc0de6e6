//! Sparse adapters in the weights themselves, and beside them.

use super::{rugosa, run, tiny};
use std::path::Path;

/// The adapter and the losses of a run, with `RUGOSA_SPARSE=apart` or without: masks from the gradients, the start over, S
/// alone and with A and B.
fn results(folder: &Path, apart: bool, more: &str) -> (Vec<u8>, Vec<String>) {
    let out = folder.join(format!("{apart}{}", more.len()));
    let mut command = rugosa("train --rank 4 --density 0.05 --seq-len 48 --steps 4 --gradient-accumulation-steps 2");
    // a library, where there is one, takes the one and not the other, and adds in an order of its own
    command.args(more.split_whitespace()).env_remove("RUGOSA_SPARSE").env("RUGOSA_DISABLE", "gemm");
    if apart {
        command.env("RUGOSA_SPARSE", "apart");
    }
    for (flag, path) in [("--model", &folder.join("model")), ("--data", &folder.join("rows.jsonl")), ("--out", &out)] {
        command.arg(flag).arg(path);
    }
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let numbers = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {}", json["loss"], json["grad_norm"])
    };
    (std::fs::read(out.join("adapter_model.safetensors")).unwrap(), metrics.lines().map(numbers).collect())
}

#[test]
fn runs_are_the_same_bits_with_s_in_the_weights_and_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    // rows long enough for the kernels that large batches take, which add up in one order with S and without
    tiny::write_rows(dir.path(), 20, 24, 40);
    for more in ["--schedule wl2 --mask-grads 2", "--method spa --checkpointing layer"] {
        let (adapter, losses) = results(dir.path(), false, more);
        let (apart, apart_losses) = results(dir.path(), true, more);
        assert_eq!(losses, apart_losses, "{more}");
        assert!(adapter == apart, "{more}");
    }
}
