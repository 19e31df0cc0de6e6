//! Numbers that are not finite: the step is skipped, counted and explained, and too many in a row end the run.

use super::{Watcher, config, tiny};
use rugosa::error::Error;
use rugosa::io::safetensors::{OutTensor, SafetensorsFile, write_safetensors};
use rugosa::train::Session;
use rugosa::train::metrics::StepMetrics;
use std::collections::BTreeMap;
use std::path::Path;

/// Changes tensors of the model in `folder`.
pub fn change(folder: &Path, by: impl Fn(&str, &mut [f32])) {
    let path = folder.join("model/model.safetensors");
    let all: Vec<(String, Vec<usize>, Vec<f32>)> = {
        let file = SafetensorsFile::open(&path).unwrap();
        let read = |(name, shape): (String, Vec<usize>)| {
            let mut data = file.get(&name).unwrap().to_f32().unwrap();
            by(&name, &mut data);
            (name, shape, data)
        };
        tiny::shapes().into_iter().map(read).collect()
    };
    let tensors: Vec<_> = all.iter().map(|(n, s, d)| OutTensor::f32(n.clone(), s, d)).collect();
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
}

/// Writes `value` into element `at` of a tensor of the model in `folder`.
fn plant(folder: &Path, tensor: &str, at: usize, value: f32) {
    change(folder, |name, data| {
        if name == tensor {
            data[at] = value;
        }
    });
}

/// A token that no activation of the first MLP is finite for, while no other token is the worse for it: what overflows there is
/// multiplied by 0 behind it, which makes NaN of infinity alone.
pub const BROKEN: usize = tiny::VOCAB - 1;

/// Breaks that token of the model in `folder`.
pub fn break_token(folder: &Path) {
    const COLUMN: usize = 7;
    change(folder, |name, data| match name {
        // the norm leaves 8 of it, and 3 of what others have there
        "model.embed_tokens.weight" => data[BROKEN * tiny::HIDDEN + COLUMN] = 1e4,
        "model.layers.0.mlp.gate_proj.weight" | "model.layers.0.mlp.up_proj.weight" => data[COLUMN] = 3e18,
        "model.layers.0.mlp.down_proj.weight" => {
            data.chunks_exact_mut(tiny::INTERMEDIATE).for_each(|row| row[0] = 0.0);
        }
        _ => {}
    });
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
fn a_weight_that_is_not_finite_is_named_before_anything_is_computed() {
    for (tensor, at, value, place) in [
        ("model.layers.1.mlp.down_proj.weight", 2 * tiny::INTERMEDIATE + 3, f32::NAN, "row 2, column 3"),
        ("model.layers.0.self_attn.v_proj.weight", 0, f32::INFINITY, "row 0, column 0"),
        ("model.embed_tokens.weight", tiny::HIDDEN, f32::NEG_INFINITY, "row 1, column 0"),
        ("model.norm.weight", 5, f32::NAN, "element 5"),
        ("lm_head.weight", 1, f32::NAN, "row 0, column 1"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path());
        tiny::write_rows(dir.path(), 8, 6, 20);
        plant(dir.path(), tensor, at, value);
        let method = if at == 5 { "full" } else { "lora" };
        let config = config(dir.path(), "out", &format!("{COMMON}method = '{method}'\nsteps = 3\n"));
        let error = Session::prepare(config, &mut Watcher::default()).map(drop).unwrap_err().to_string();
        let parts = format!("model.safetensors: {tensor}: holds a number that is NaN or infinite, first at {place}: ");
        assert!(error.contains(&parts) && !error.contains('\n'), "{error}");
    }
}

const GAIN: &str = "model.layers.2.post_attention_layernorm";

#[test]
fn steps_without_a_finite_loss_are_explained_and_end_the_run() {
    for (method, checkpointing) in [("lora", "off"), ("lora", "layer"), ("full", "off")] {
        let text = format!("method = '{method}'\ncheckpointing = '{checkpointing}'\nsteps = 30\n");
        let cause =
            "step 9: no finite loss and gradient in 10 steps in a row: model.layers.2.post_attention_layernorm: ";
        let notes = ends(&text, &format!("{GAIN}.weight"), 3, f32::MAX, &[cause, "(forward) gave ", "⟨data⟩"]);
        // the first of them was explained at once, the others were not
        let told: Vec<_> = notes.iter().filter(|n| n.contains("is skipped")).collect();
        assert!(told.len() == 1 && told[0].starts_with("step 0 is skipped, "), "{notes:?}");
        assert!(told[0].contains(&format!("{GAIN}: ")), "{notes:?}");
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
        &format!("{GAIN}.weight"),
        0,
        f32::MAX,
        &[
            "scores are not finite: no micro-batch gave",
            &format!("; {GAIN}: "),
            "(forward) gave ",
            "; look at the rows",
        ],
    );
}

/// Rows of their own, of which those of `broken` have the broken token.
fn write_rows(folder: &Path, rows: impl IntoIterator<Item = usize>, broken: &[usize]) {
    let row = |i: usize| {
        let third = if broken.contains(&i) { BROKEN } else { 20 + i };
        format!("{{\"input_ids\": [5, 6, {third}, {}, 9, 10]}}\n", 40 + i)
    };
    std::fs::write(folder.join("rows.jsonl"), rows.into_iter().map(row).collect::<String>()).unwrap();
}

/// One row a step, in order.
pub const ROW_BY_ROW: &str = "seq_len = 32\nrank = 4\ndensity = 0.05\nwarmup_steps = 0\ntarget_modules = ['q_proj', 'v_proj']\n\
                              packing = false\nshuffle = false\nbatch_size = 1\ngradient_accumulation_steps = 1\n";

#[test]
fn one_broken_row_costs_its_step_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    break_token(dir.path());
    write_rows(dir.path(), 0..6, &[2]);
    let config = config(dir.path(), "out", &format!("{ROW_BY_ROW}method = 'lora'\nsteps = 6\n"));
    let mut watcher = Watcher::default();
    let outcome = Session::prepare(config.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap().outcome;
    assert!(outcome.loss.is_finite());
    let lines = metrics(&config.out);
    let skipped: Vec<bool> = lines.iter().map(|m| m.skipped).collect();
    assert_eq!((skipped, outcome.skipped), (vec![false, false, true, false, false, false], 1));
    assert!(lines.iter().all(|m| m.skipped != m.grad_norm.is_finite()), "{lines:?}");
    // the rate that trains, and that of A and B, which is the same
    assert!(lines.iter().all(|m| m.lr > 0.0 && m.lora_lr == Some(m.lr)), "{lines:?}");
    let told = "step 2 is skipped, its loss or gradient is not finite: model.layers.0.mlp: ";
    assert!(watcher.notes.iter().any(|n| n.starts_with(told)), "{:?}", watcher.notes);
    assert!(watcher.notes.iter().any(|n| n.starts_with("1 of 6 steps were skipped")), "{:?}", watcher.notes);
}

#[test]
fn a_run_is_to_the_bit_what_it_is_without_the_steps_that_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    break_token(dir.path());
    for method in ["method = 'lora'", "method = 'rosa'\nschedule = 'wl2'\nmask_grads = 1\nrestart = false"] {
        let run = |name: &str, rows: &[usize], broken: &[usize]| {
            write_rows(dir.path(), rows.iter().copied(), broken);
            let text =
                format!("{ROW_BY_ROW}{method}\nlr_schedule = 'constant'\nweight_decay = 0.1\nsteps = {}\n", rows.len());
            let config = config(dir.path(), name, &text);
            let out = Session::prepare(config.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default());
            assert_eq!(out.unwrap().outcome.skipped, broken.len() as u64);
            let bytes = std::fs::read(config.out.join("adapter_model.safetensors")).unwrap();
            std::fs::remove_dir_all(&config.out).unwrap();
            bytes
        };
        // masks come of the third row, and S trains from the fourth on
        let whole = run("whole", &[0, 1, 2, 3, 4], &[]);
        // a schedule counts all steps: a skipped one is put where it leaves the phases as they are
        if method.contains("rosa") {
            assert!(run("last", &[0, 1, 2, 3, 4, 9], &[9]) == whole, "{method}");
            assert!(run("within", &[0, 1, 2, 3, 9, 4], &[9]) == whole, "{method}");
        } else {
            assert!(run("first", &[9, 0, 1, 2, 3, 4], &[9]) == whole, "{method}");
            assert!(run("within", &[0, 8, 9, 1, 2, 3, 4], &[8, 9]) == whole, "{method}");
        }
    }
}
