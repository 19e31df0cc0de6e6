//! Runs that start from an adapter begin where it is: their first loss is the loss of the model with the adapter on it.

use super::{Watcher, config, tiny};
use rugosa::adapters::AdapterSet;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::head_nll;
use rugosa::csr::{Csr, CsrPattern};
use rugosa::data::{Batch, DataOptions, Dataset};
use rugosa::device::{Device, DeviceOptions};
use rugosa::error::Error;
use rugosa::io::adapter::{AdapterConfig, AdapterFolder, AdapterKind, Matrix, ModuleTensors, Targets};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::nn::DeviceBatch;
use rugosa::nn::loader::{LoadOptions, load};
use rugosa::optim::Training;
use rugosa::rng::Rng;
use rugosa::train::Session;
use rugosa::train::config::{Method, PartialConfig, TrainConfig};
use rugosa::train::metrics::StepMetrics;
use std::path::Path;

/// All rows in a step, which therefore has the loss of `eval`.
const ONE_STEP: &str = "batch_size = 1\ngradient_accumulation_steps = 4\nseq_len = 24\npacking = false\nshuffle = false\n\
                        steps = 1\n";

fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::named(seed, "adapter");
    (0..n).map(|_| 0.1 * rng.normal() as f32).collect()
}

/// An adapter for these linears of the tiny model with random values, large enough to move the loss.
fn adapter(kind: AdapterKind, names: &[&str], rank: usize, sparse: bool) -> AdapterFolder {
    let mut config = AdapterConfig::new(kind);
    (config.r, config.lora_alpha) = (rank, 32.0);
    config.density = if sparse { 0.02 } else { 0.0 };
    config.target_modules = Targets::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let linears = tiny::shapes().into_iter().filter_map(|(name, shape)| {
        let module = name.strip_suffix(".weight")?.to_owned();
        names.iter().any(|n| module.ends_with(n)).then(|| (module, shape[0], shape[1]))
    });
    let modules = linears.enumerate().map(|(i, (module, rows, cols))| {
        let matrix = |seed, rows, cols| Matrix { rows, cols, data: random(seed, rows * cols) };
        let (a, b) = (matrix(2 * i as u64, rank, cols), matrix(2 * i as u64 + 1, rows, rank));
        let count = (0.02 * rows as f64 * cols as f64) as u64;
        let flat: Vec<u64> = (0..count).map(|n| n * 49 + i as u64).collect();
        let pattern = CsrPattern::from_flat(rows, cols, &flat).unwrap();
        let sparse = sparse.then(|| Csr { values: random(i as u64, pattern.nnz()), pattern });
        (module, ModuleTensors { a: (rank > 0).then_some(a), b: (rank > 0).then_some(b), sparse })
    });
    AdapterFolder { modules: modules.collect(), config }
}

/// The mean loss of the rows in `folder` under the model with `adapter` on it, as `rugosa eval` has it.
fn eval(folder: &Path, adapter: Option<&AdapterFolder>) -> f64 {
    let device = Device::open(&DeviceOptions::from_env(None)).unwrap();
    let checkpoint = Checkpoint::open(&folder.join("model")).unwrap();
    let options = LoadOptions { trainable: false, stacked: true, positions: 24 };
    let model = load(&device, &checkpoint, options).unwrap();
    if let Some(adapter) = adapter {
        let set = AdapterSet::from_folder(&device, &model, adapter).unwrap();
        set.attach(&model, Training::default(), None).unwrap();
    }
    let options = DataOptions { seq_len: 24, packing: false, shuffle: false, ..DataOptions::default() };
    let dataset = Dataset::open(&folder.join("rows.jsonl"), &options, None, tiny::VOCAB).unwrap();
    let batch = DeviceBatch::upload(&device, &Batch::new(dataset.examples(), 0), None).unwrap();
    let hidden = model.hidden(&mut Tape::inference(), &batch.input, 0).unwrap();
    let nll = head_nll(&hidden.value, &model.head, &batch.targets).unwrap();
    nll.iter().map(|n| f64::from(*n)).sum::<f64>() / nll.len() as f64
}

fn first_loss(config: &TrainConfig) -> f64 {
    let text = std::fs::read_to_string(config.out.join("metrics.jsonl")).unwrap();
    serde_json::from_str::<StepMetrics>(text.lines().next().unwrap()).unwrap().loss
}

fn finish(session: rugosa::error::Result<Session>) -> Vec<String> {
    let mut watcher = Watcher::default();
    session.unwrap().run(&mut watcher).unwrap();
    watcher.notes
}

#[test]
fn the_first_loss_is_the_adapters() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 4, 12, 20);
    let plain = eval(dir.path(), None);
    let (qv, all) =
        (["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    let mut patterns = adapter(AdapterKind::Lora, &qv, 4, false);
    patterns.config.use_rslora = true;
    patterns.config.alpha_pattern = vec![("layers.1.self_attn.v_proj".into(), 3.0)];
    patterns.modules.remove("model.layers.2.self_attn.q_proj");
    let cases = [
        ("lora", Method::Lora, adapter(AdapterKind::Lora, &qv, 4, false)),
        ("patterns", Method::Lora, patterns),
        ("rosa", Method::Rosa, adapter(AdapterKind::Rosa, &all, 2, true)),
        ("spa", Method::Spa, adapter(AdapterKind::Rosa, &["down_proj"], 0, true)),
        ("supertuning", Method::Rosa, adapter(AdapterKind::Rosa, &qv, 4, true).to_peft().unwrap().adapter),
    ];
    for (name, method, adapter) in cases {
        let folder = dir.path().join(format!("{name}-adapter"));
        adapter.write(&folder).unwrap();
        let want = eval(dir.path(), Some(&adapter));
        assert!((want - plain).abs() > 1e-3, "{name}: the adapter does nothing");
        let text = format!("{ONE_STEP}init_adapter = {folder:?}\n");
        let run = config(dir.path(), name, &text);
        assert_eq!(run.method, method, "{name}");
        finish(Session::prepare(run.clone(), &mut Watcher::default()));
        let got = first_loss(&run);
        assert!((got - want).abs() < 1e-6, "{name}: {got}, not {want}");
        if !["patterns", "rosa"].contains(&name) {
            continue; // a device and two runs less
        }
        // one that was stopped before its first step goes on from there
        let stopped = config(dir.path(), &format!("{name}-stopped"), &text);
        let mut watcher = Watcher { stop_at: Some(0), ..Watcher::default() };
        Session::prepare(stopped.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap_err();
        // as a user who gives a density again, which the masks have anyway
        let again = format!("{text}method = '{name}'\ndensity = 0.5\n");
        let again = config(dir.path(), &format!("{name}-stopped"), if method == Method::Lora { &text } else { &again });
        finish(Session::resume(again, &mut Watcher::default()));
        assert_eq!(first_loss(&stopped).to_bits(), got.to_bits(), "{name}");
        let bytes = |run: &TrainConfig| std::fs::read(run.out.join("adapter_model.safetensors")).unwrap();
        assert!(bytes(&run) == bytes(&stopped), "{name}: the adapters differ");
    }
    // and so does a run from the folder of a run
    let next = config(dir.path(), "next", &format!("{ONE_STEP}init_adapter = {:?}\n", dir.path().join("rosa")));
    assert_eq!((next.method, next.density, next.rank, next.target_modules.0.len()), (Method::Rosa, 0.02, 2, 7));
}

/// Another mask keeps the values at the positions that it shares; a run's files say the density of its masks.
#[test]
fn a_run_says_the_density_of_its_masks() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 4, 12, 20);
    let old = adapter(AdapterKind::Rosa, &["q_proj", "up_proj"], 2, true);
    let folder = dir.path().join("adapter");
    old.write(&folder).unwrap();
    let mask = dir.path().join("mask.safetensors");
    let mut masks = old.masks();
    // every second entry of one module elsewhere
    let changed = masks.get_mut("model.layers.1.mlp.up_proj").unwrap();
    let flat: Vec<u64> = (0..changed.nnz() as u64).map(|n| n * 49 + 3 + n % 2).collect();
    *changed = CsrPattern::from_flat(changed.rows, changed.cols, &flat).unwrap();
    rugosa::io::mask::write_masks(&mask, &masks).unwrap();
    let text = format!("{ONE_STEP}init_adapter = {folder:?}\nmask = {mask:?}\nlr = 0\nlora_lr = 0\ndensity = 0.3\n");
    let run = config(dir.path(), "run", &text);
    let notes = finish(Session::prepare(run.clone(), &mut Watcher::default()));
    assert!(notes.iter().all(|n| !n.contains("density_pattern")), "{notes:?}");
    let shapes = tiny::shapes();
    let shape_of = |module: &str| {
        let (_, shape) = shapes.iter().find(|(name, _)| name.strip_suffix(".weight") == Some(module))?;
        Some((shape[0], shape[1]))
    };
    let new = AdapterFolder::read(&run.out, shape_of).unwrap();
    assert_eq!((new.config.density, new.config.density_pattern.len()), (0.02, 0));
    let toml = std::fs::read_to_string(run.out.join("config.toml")).unwrap();
    assert!(toml.contains("\ndensity = 0.02\n"), "{toml}");
    for (module, tensors) in &old.modules {
        let (before, after) = (tensors.sparse.as_ref().unwrap(), new.modules[module].sparse.as_ref().unwrap());
        assert_eq!(after.pattern, masks[module], "{module}");
        let kept = after.values.iter().filter(|v| **v != 0.0).count();
        let all = before.values.len();
        assert_eq!(kept, if module.ends_with("1.mlp.up_proj") { all.div_ceil(2) } else { all }, "{module}");
        assert_eq!(new.modules[module].a, tensors.a, "{module}");
    }
}

/// The adapter of a run that has not finished is that of its last state, which the run removes when it goes on.
#[test]
fn a_run_from_an_unfinished_one_resumes_after_that_one_went_on() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    let text = "method = 'lora'\nbatch_size = 1\ngradient_accumulation_steps = 2\nseq_len = 24\nsteps = 6\n";
    let stopped = |session: rugosa::error::Result<Session>, at: u64| {
        let mut watcher = Watcher { stop_at: Some(at), ..Watcher::default() };
        let ended = session.unwrap().run(&mut watcher);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    };
    let first = config(dir.path(), "first", text);
    stopped(Session::prepare(first.clone(), &mut Watcher::default()), 3);
    let from_first = format!("{text}init_adapter = {:?}\n", first.out);
    let (whole, parts) = (config(dir.path(), "whole", &from_first), config(dir.path(), "parts", &from_first));
    finish(Session::prepare(whole.clone(), &mut Watcher::default()));
    stopped(Session::prepare(parts.clone(), &mut Watcher::default()), 2);
    finish(Session::resume(first.clone(), &mut Watcher::default()));
    assert!(!first.out.join("state").exists());
    // with the options of the start, and with what the run's folder says
    stopped(Session::resume(parts.clone(), &mut Watcher::default()), 4);
    let own = PartialConfig::from_toml(&parts.out.join("config.toml")).unwrap();
    let own = TrainConfig::resolve(own, PartialConfig::default()).unwrap();
    assert_eq!(own.init_adapter, Some(parts.out.join("init_adapter")));
    finish(Session::resume(own, &mut Watcher::default()));
    let adapter = |config: &TrainConfig| std::fs::read(config.out.join("adapter_model.safetensors")).unwrap();
    assert!(adapter(&whole) == adapter(&parts), "it is not the run that was never stopped");
}
