//! Numbers that are not finite: the step is skipped, counted and explained, and too many in a row end the run.

use super::{Watcher, config, tiny};
use rugosa::error::Error;
use rugosa::io::safetensors::{OutTensor, SafetensorsFile, write_safetensors};
use rugosa::train::Session;
use rugosa::train::metrics::StepMetrics;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `value` into element `at` of a tensor of the model in `folder`.
fn plant(folder: &Path, tensor: &str, at: usize, value: f32) {
    let path = folder.join("model/model.safetensors");
    let all: Vec<(String, Vec<usize>, Vec<f32>)> = {
        let file = SafetensorsFile::open(&path).unwrap();
        let read = |(name, shape): (String, Vec<usize>)| {
            let mut data = file.get(&name).unwrap().to_f32().unwrap();
            if name == tensor {
                data[at] = value;
            }
            (name, shape, data)
        };
        tiny::shapes().into_iter().map(read).collect()
    };
    let tensors: Vec<_> = all.iter().map(|(n, s, d)| OutTensor::f32(n.clone(), s, d)).collect();
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
}

pub fn metrics(out: &Path) -> Vec<StepMetrics> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

const COMMON: &str = "seq_len = 32\nrank = 4\ndensity = 0.05\nwarmup_steps = 0\n";

/// A run on a model with `value` in one place ends with an error that holds all of `parts`; returns the notes.
#[track_caller]
pub fn ends(text: &str, tensor: &str, at: usize, value: f32, parts: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 8, 6, 20);
    plant(dir.path(), tensor, at, value);
    let config = config(dir.path(), "out", &format!("{COMMON}{text}"));
    let mut watcher = Watcher::default();
    let error = Session::prepare(config.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::NonFinite { .. }) && !message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part} in {message}");
    }
    let lines = metrics(&config.out);
    assert!(lines.iter().all(|m| m.skipped), "{lines:?}");
    watcher.notes
}

#[test]
fn a_broken_weight_is_named_and_ends_the_run() {
    for (method, checkpointing) in [("lora", "off"), ("lora", "layer"), ("full", "off")] {
        let text = format!("method = '{method}'\ncheckpointing = '{checkpointing}'\nsteps = 30\n");
        let notes = ends(
            &text,
            "model.layers.1.mlp.down_proj.weight",
            3,
            f32::NAN,
            &[
                "step 9: no finite loss and gradient in 10 steps in a row: model.layers.1.mlp.down_proj: ",
                "(forward) gave NaN for",
                "--model",
            ],
        );
        // the first of them was explained at once, the others were not
        let told: Vec<_> = notes.iter().filter(|n| n.contains("is skipped")).collect();
        assert!(told.len() == 1 && told[0].starts_with("step 0 is skipped, "), "{notes:?}");
        assert!(told[0].contains("model.layers.1.mlp.down_proj: "), "{notes:?}");
    }
}

#[test]
fn an_overflow_is_named_where_it_happens() {
    // finite weights: the norm's output overflows, and with it what follows
    ends(
        "method = 'lora'\nsteps = 30\n",
        "model.layers.2.post_attention_layernorm.weight",
        5,
        f32::MAX,
        // software renderers have a norm of their own, add_rmsnorm_simd
        &["model.layers.2.post_attention_layernorm: add_rmsnorm", " (forward) gave ", "inf for ", ", column 5; "],
    );
}

#[test]
fn scores_of_masks_are_explained_too() {
    ends(
        "method = 'rosa'\nschedule = 'default'\nmask_grads = 1\nsteps = 30\n",
        "model.layers.0.self_attn.v_proj.weight",
        0,
        f32::NAN,
        &["scores are not finite", "; model.layers.0.self_attn.v_proj: ", "(forward) gave NaN"],
    );
}

#[test]
fn one_broken_row_costs_its_step_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    let last = tiny::VOCAB - 1;
    plant(dir.path(), "model.embed_tokens.weight", last * tiny::HIDDEN + 7, f32::NAN);
    let row = |i: usize| format!("{{\"input_ids\": [5, 6, {}, 8, 9, 10]}}\n", if i == 2 { last } else { 20 + i });
    std::fs::write(dir.path().join("rows.jsonl"), (0..6).map(row).collect::<String>()).unwrap();
    let text = format!(
        "{COMMON}method = 'lora'\npacking = false\nshuffle = false\nbatch_size = 1\nsteps = 6\n\
                        gradient_accumulation_steps = 1\n"
    );
    let config = config(dir.path(), "out", &text);
    let mut watcher = Watcher::default();
    let outcome = Session::prepare(config.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap();
    assert!(outcome.loss.is_finite());
    let lines = metrics(&config.out);
    let skipped: Vec<bool> = lines.iter().map(|m| m.skipped).collect();
    assert_eq!(skipped, [false, false, true, false, false, false]);
    assert!(lines.iter().all(|m| m.skipped != m.grad_norm.is_finite()), "{lines:?}");
    let told = "step 2 is skipped, its loss or gradient is not finite: model.embed_tokens: gather (forward) gave NaN for 1 \
                of 384 values, first at token 2, column 7";
    assert!(watcher.notes.iter().any(|n| n == told), "{:?}", watcher.notes);
}
