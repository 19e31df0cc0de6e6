//! The examples, on a tiny model.

use super::tiny;
use rugosa::data::ExampleRef;
use rugosa::evaluate::token_nll;
use rugosa::prelude::*;
use std::path::Path;

#[allow(dead_code, reason = "an example's main")]
#[path = "../../examples/custom_loop.rs"]
mod custom_loop;
#[allow(dead_code, reason = "an example's main")]
#[path = "../../examples/finetune.rs"]
mod finetune;
#[allow(dead_code, reason = "an example's main")]
#[path = "../../examples/own_adapter.rs"]
mod own_adapter;

/// Losses, and the adapter that is left.
fn trained(train: impl FnOnce(&Path, &Path, &Path) -> Result<Vec<f64>>) -> (Vec<f64>, AdapterFolder) {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::write_model(dir.path());
    let rows = tiny::write_rows(dir.path(), 4, 6, 20);
    let out = dir.path().join("out");
    let losses = train(&model, &rows, &out).unwrap();
    let shapes = tiny::shapes();
    let shape_of = |name: &str| {
        let (_, shape) = shapes.iter().find(|(n, _)| n.strip_suffix(".weight") == Some(name))?;
        Some((shape[0], shape[1]))
    };
    (losses, AdapterFolder::read(&out, shape_of).unwrap())
}

#[test]
fn a_loop_of_ones_own_trains_and_leaves_an_adapter() {
    let (losses, adapter) = trained(custom_loop::train);
    assert!(losses.last() < losses.first(), "{losses:?}");
    let is_trained = |b: &[f32]| b.iter().any(|v| *v != 0.0);
    assert!(adapter.modules.values().all(|m| m.sparse.is_none() && is_trained(&m.b.as_ref().unwrap().data)));
}

#[test]
fn masks_of_ones_own_train() {
    let (losses, adapter) = trained(own_adapter::train);
    assert!(losses.last() < losses.first(), "{losses:?}");
    let is_trained = |v: &[f32]| v.iter().any(|v| *v != 0.0);
    assert!(adapter.modules.values().all(|m| m.a.is_none() && is_trained(&m.sparse.as_ref().unwrap().values)));
}

/// The configuration of a run on the demo model, whose tokenizer reads the rows, written to `folder`.
fn on_demo_model(folder: &Path, method: Method) -> PartialConfig {
    let rows = "{\"prompt\": \"a b\", \"response\": \"c d e f\"}\n".repeat(8);
    std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
    PartialConfig {
        model: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")),
        data: Some(folder.join("rows.jsonl")),
        out: Some(folder.join("out")),
        method: Some(method),
        seq_len: Some(64),
        steps: Some(4),
        rank: Some(2),
        density: (method == Method::Rosa).then_some(0.02),
        ..PartialConfig::default()
    }
}

/// Losses of two rows of tokens.
fn losses_of(device: &Device, model: &Decoder) -> Vec<Vec<f32>> {
    let (ids, labels): (Vec<u32>, Vec<i32>) = ((3..43).collect(), (3..43).collect());
    let row = |n: usize| ExampleRef { ids: &ids[..n], labels: &labels[..n], line: n };
    token_nll(device, model, &[&[row(40), row(7)]], &mut |_| true).unwrap()
}

#[test]
fn what_a_run_gives_back_is_what_its_folder_holds() {
    let dir = tempfile::tempdir().unwrap();
    let options = on_demo_model(dir.path(), Method::Rosa);
    let model = options.model.clone().unwrap();
    let (trained, answer) = finetune::train(options, "a b").unwrap();
    assert!(trained.outcome.loss.is_finite() && !answer.is_empty());

    let checkpoint = Checkpoint::open(&model).unwrap();
    let options = LoadOptions { trainable: false, stacked: true, positions: 64 };
    let again = load(&trained.device, &checkpoint, options).unwrap();
    let base = losses_of(&trained.device, &again);
    let shapes = module_shapes(&again);
    let shape_of = |name: &str| shapes.iter().find(|s| s.name == name).map(|s| (s.out_features, s.in_features));
    let folder = AdapterFolder::read(&dir.path().join("out"), shape_of).unwrap();
    assert!(folder.modules.values().all(|m| m.a.is_some() && m.sparse.is_some()));
    assert!(trained.adapter().unwrap().unwrap().modules == folder.modules);
    let set = AdapterSet::from_folder(&trained.device, &again, &folder).unwrap();
    set.attach(&again, Training::default(), None).unwrap();
    let losses = losses_of(&trained.device, &trained.model);
    assert!(losses == losses_of(&trained.device, &again) && losses != base);
}

#[test]
fn a_run_that_trains_the_model_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (trained, _) = finetune::train(on_demo_model(dir.path(), Method::Full), "a b").unwrap();
    assert!(trained.adapters.is_none() && trained.adapter().unwrap().is_none());
    let checkpoint = Checkpoint::open(&dir.path().join("out")).unwrap();
    let options = LoadOptions { trainable: false, stacked: true, positions: 64 };
    let again = load(&trained.device, &checkpoint, options).unwrap();
    assert_eq!(losses_of(&trained.device, &trained.model), losses_of(&trained.device, &again));
}
