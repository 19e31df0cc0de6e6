//! Other ways to the same step: split, packed, checkpointed, repeated. All through the command line.

use super::golden::*;
use super::program::*;
use serde_json::Value;

/// Eight rows, over and over.
const EIGHT: [&str; 4] = ["train0", "train1", "train2", "train3"];

/// Loss and gradient norm of each step within rounding, and the final adapter within what ten steps of Adam make of
/// rounding (the loosest of the golden runs' tolerances).
#[track_caller]
fn assert_alike(what: &str, a: &Run, b: &Run) {
    let (ma, mb) = (a.metrics(), b.metrics());
    assert_eq!(ma.len(), mb.len(), "{what}");
    for (x, y) in ma.iter().zip(&mb) {
        assert!((x.loss - y.loss).abs() <= 1e-5, "{what}: losses {} and {}", x.loss, y.loss);
        let norms = (x.grad_norm - y.grad_norm).abs() / y.grad_norm;
        assert!(norms <= 1e-4, "{what}: gradient norms {} and {}", x.grad_norm, y.grad_norm);
        assert_eq!((x.supervised_tokens, x.tokens), (y.supervised_tokens, y.tokens), "{what}");
    }
    let tolerance = tolerance("rosa.final.rel_l2/norestart.A");
    for (module, y) in b.adapter().modules {
        let x = &a.adapter().modules[&module];
        let matrices =
            [(&x.a, &y.a), (&x.b, &y.b)].map(|(x, y)| (&x.as_ref().unwrap().data, &y.as_ref().unwrap().data));
        let values = (&x.sparse.as_ref().unwrap().values, &y.sparse.as_ref().unwrap().values);
        for (x, y) in matrices.into_iter().chain([values]) {
            let l2 = rel_l2(x, y);
            assert!(l2 <= tolerance, "{what}: {module} differs by {l2}");
        }
    }
}

#[test]
fn however_a_step_is_split_it_is_the_same_step() {
    let rosa = Tensors::open("rosa_llama");
    let (start, lines) = (Start::new(&rosa), rows(&rosa, EIGHT));
    let (adapter, mask) = (start.adapter(), start.mask());
    let files = [("--init-adapter", adapter.as_path()), ("--mask", mask.as_path())];
    // dropout included: its masks follow the tokens, not the micro-batches
    for dropout in ["0", "0.3"] {
        let run = |split: &str| {
            let flags = format!("--method rosa --steps 4 --lora-lr 7e-3 --dropout {dropout} {split}");
            Run::train(&lines, &flags, &files)
        };
        let whole = run("--batch-size 8 --gradient-accumulation-steps 1");
        for split in
            ["--batch-size 1 --gradient-accumulation-steps 8", "--batch-size 4 --gradient-accumulation-steps 2"]
        {
            assert_alike(&format!("dropout {dropout}, {split}"), &run(split), &whole);
        }
        if dropout == "0" {
            let packed = run("--packing --batch-size 8 --gradient-accumulation-steps 1");
            assert_alike("packed", &packed, &whole);
        } else {
            let without = Run::train(&lines, "--method rosa --steps 4 --lora-lr 7e-3 --batch-size 8", &files);
            assert!((without.losses()[3] - whole.losses()[3]).abs() > 1e-4, "dropout does nothing");
        }
    }
}

/// What a run leaves, without how long it took.
fn left(run: &Run) -> (Vec<u8>, Vec<Value>) {
    let text = std::fs::read_to_string(run.out().join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut metrics: Value = serde_json::from_str(line).unwrap();
        metrics.as_object_mut().unwrap().remove("tokens_per_second").unwrap();
        metrics
    };
    (run.adapter_bytes(), text.lines().map(timeless).collect())
}

#[test]
fn a_second_run_leaves_the_same_bytes() {
    let rosa = Tensors::open("rosa_llama");
    let lines = rows(&rosa, TRAIN);
    let run = |more: &str| {
        let flags = "--method rosa --schedule wl2 --steps 4 --packing --shuffle --dropout 0.1 --seq-len 64";
        left(&Run::train(&lines, &format!("{flags} {more}"), &[]))
    };
    let first = run("--seed 7");
    assert_eq!(first.1.len(), 7);
    assert!(first == run("--seed 7"), "a second run differs");
    assert!(first.0 != run("--seed 8").0, "the seed does nothing");
    for checkpointing in ["layer", "2"] {
        let again = run(&format!("--seed 7 --checkpointing {checkpointing}"));
        assert!(first == again, "--checkpointing {checkpointing} makes a difference");
    }
}
