//! The examples, on a tiny model.

use super::tiny;
use rugosa::error::Result;
use rugosa::io::adapter::AdapterFolder;
use rugosa::train::config::PartialConfig;
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

#[test]
fn a_whole_run_leaves_an_adapter_with_both_halves() {
    let options = PartialConfig {
        seq_len: Some(32),
        steps: Some(4),
        rank: Some(2),
        density: Some(0.02),
        ..PartialConfig::default()
    };
    let train =
        |model: &Path, rows: &Path, out: &Path| finetune::train(options, model, rows, out).map(|o| vec![o.loss]);
    let (losses, adapter) = trained(train);
    assert!(losses[0].is_finite() && adapter.modules.values().all(|m| m.a.is_some() && m.sparse.is_some()));
}
