use super::*;
use crate::csr::Csr;
use crate::io::adapter::{Matrix, ModuleTensors};
use crate::train::state;

const Q: &str = "self_attn.q_proj";
const UP: &str = "mlp.up_proj";

fn module(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

/// The linears of a model with three layers.
fn shapes() -> Vec<LinearShape> {
    let shape = |layer: usize, name: &str, out_features: usize| LinearShape {
        name: module(layer, name),
        out_features,
        in_features: 8,
        ..LinearShape::default()
    };
    (0..3).flat_map(|layer| [shape(layer, Q, 8), shape(layer, UP, 16)]).collect()
}

/// An adapter of these modules of layers, of rank 2, with S of density 0.07 where it has such.
fn adapter(kind: AdapterKind, layers: usize, names: &[&str], low_rank: bool, sparse: bool) -> AdapterFolder {
    let mut config = AdapterConfig::new(kind);
    config.r = if low_rank { 2 } else { 0 };
    config.lora_alpha = 32.0;
    config.density = if sparse { 0.07 } else { 0.0 };
    config.target_modules = Targets::Names(names.iter().map(|name| last_part(name).to_owned()).collect());
    let tensors = |name: &str| {
        let rows = if name == Q { 8 } else { 16 };
        let matrix = |rows, cols| Some(Matrix { rows, cols, data: vec![0.5; rows * cols] }).filter(|_| low_rank);
        let flat: Vec<u64> = (0..rows as u64 / 2).map(|i| 9 * i).collect();
        let pattern = CsrPattern::from_flat(rows, 8, &flat).unwrap();
        let sparse = sparse.then(|| Csr { values: vec![1.0; pattern.nnz()], pattern });
        ModuleTensors { a: matrix(2, 8), b: matrix(rows, 2), sparse }
    };
    let modules = (0..layers).flat_map(|layer| names.iter().map(move |name| (module(layer, name), tensors(name))));
    AdapterFolder { config, modules: modules.collect() }
}

/// What `flags`, as a file, resolve to with this adapter to start from.
fn resolve(adapter: &AdapterFolder, flags: &str) -> Result<TrainConfig> {
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path()).unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, format!("model = 'm'\ndata = 'd'\nout = 'o'\n{flags}")).unwrap();
    let given = PartialConfig { init_adapter: Some(dir.path().into()), ..PartialConfig::default() };
    TrainConfig::resolve(PartialConfig::from_toml(&file)?, given)
}

/// What a run with this adapter and `flags` is told, and its configuration.
fn start(adapter: &AdapterFolder, flags: &str) -> Result<(TrainConfig, Start, String)> {
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path()).unwrap();
    let mut config = resolve(adapter, flags)?;
    config.init_adapter = Some(dir.path().into());
    let (start, lines) = Start::read(&mut config, &shapes())?;
    Ok((config, start, lines.join("\n")))
}

#[test]
fn an_adapters_sizes_are_the_runs() {
    let mut lora = adapter(AdapterKind::Lora, 3, &[Q], true, false);
    lora.config.use_rslora = true;
    let c = resolve(&lora, "").unwrap();
    assert_eq!((c.method, c.rank, c.alpha, c.rslora), (Method::Lora, 2, 32.0, true));
    assert_eq!(
        (c.target_modules.0, c.schedule.unwrap().to_string()),
        (vec!["q_proj".to_owned()], "lora_only".to_owned())
    );

    let rosa = adapter(AdapterKind::Rosa, 3, &[Q, UP], true, true);
    let c = resolve(&rosa, "").unwrap();
    assert_eq!(
        (c.method, c.rank, c.density, c.schedule.unwrap().to_string()),
        (Method::Rosa, 2, 0.07, "default".to_owned())
    );
    assert_eq!(c.target_modules.0, ["q_proj", "up_proj"]);
    assert_eq!(resolve(&rosa, "schedule = 'wl5'").unwrap().schedule.unwrap().to_string(), "wl5");

    // a module with S alone stays one
    let mut some = rosa.clone();
    let without = some.modules.get_mut(&module(1, UP)).unwrap();
    (without.a, without.b) = (None, None);
    let c = resolve(&some, "").unwrap();
    assert_eq!((c.rank, c.rank_pattern.get(&module(1, UP)), c.rank_pattern.0.len()), (2, Some(0), 1));

    let c = resolve(&adapter(AdapterKind::Rosa, 3, &[Q], false, true), "").unwrap();
    assert_eq!((c.method, c.density, c.rank), (Method::Spa, 0.07, 8));
    // what the original's runs for A and B alone leave
    assert_eq!(resolve(&adapter(AdapterKind::Rosa, 3, &[Q], true, false), "").unwrap().method, Method::Lora);
    // stopped before its masks: they are still to be made, as its configuration says
    let mut warm = adapter(AdapterKind::Rosa, 3, &[Q], true, false);
    (warm.config.density, warm.config.spa_num_grads, warm.config.grad_acc_mode) = (0.04, 3, "mean".into());
    let c = resolve(&warm, "").unwrap();
    assert_eq!((c.method, c.density, c.mask_grads, c.mask_mode), (Method::Rosa, 0.04, Some(3), MaskMode::Mean));
}

#[test]
fn flags_win_over_the_adapter() {
    let mut lora = adapter(AdapterKind::Lora, 3, &[Q, UP], true, false);
    lora.config.alpha_pattern = vec![("up_proj".into(), 4.0)];
    let c = resolve(&lora, "").unwrap();
    assert_eq!((c.alpha, c.alpha_pattern.get("x.up_proj"), c.alpha_pattern.get("x.q_proj")), (32.0, Some(4.0), None));
    let c = resolve(&lora, "alpha = 8").unwrap();
    assert_eq!((c.alpha, c.alpha_pattern.0.len()), (8.0, 0), "a number that is asked for is all modules'");
    let c = resolve(&lora, "target_modules = 'q_proj'\nrslora = true").unwrap();
    assert_eq!((c.target_modules.0, c.alpha_pattern.0.len(), c.rslora), (vec!["q_proj".to_owned()], 0, true));
    // masks that are asked for need a method with masks
    for flags in ["density = 0.1", "mask = 'm'", "save_mask = 'm'"] {
        assert_eq!(resolve(&lora, flags).unwrap().method, Method::Rosa, "{flags}");
    }
    assert_eq!(resolve(&adapter(AdapterKind::Rosa, 3, &[Q], false, true), "rank = 4").unwrap().method, Method::Rosa);
    assert_eq!(resolve(&lora, "method = 'spa'\ndensity = 0.1").unwrap().method, Method::Spa);
}

#[test]
fn the_originals_folder_is_understood() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapter-rosa");
    let options = options(folder.as_ref(), &PartialConfig::default()).unwrap();
    assert_eq!((options.method, options.rank, options.alpha), (Some(Method::Rosa), Some(4), Some(16.0)));
    assert_eq!((options.density, options.target_modules.unwrap().0.len()), (Some(0.02), 7));
}

#[test]
fn another_rank_is_refused() {
    let lora = adapter(AdapterKind::Lora, 3, &[Q], true, false);
    for flags in ["rank = 8", "rank_pattern = { q_proj = 8 }"] {
        let err = start(&lora, flags).unwrap_err().to_string();
        assert!(err.starts_with("⟨rank⟩: 8 of model.layers.0.self_attn.q_proj is not the 2 of the adapter"), "{err}");
    }
}

#[test]
fn modules_are_those_with_tensors() {
    let of = |change: &dyn Fn(&mut AdapterFolder)| {
        let mut lora = adapter(AdapterKind::Lora, 3, &[Q, UP], true, false);
        change(&mut lora);
        resolve(&lora, "").unwrap().target_modules.0
    };
    assert_eq!(of(&|_| {}), ["q_proj", "up_proj"]);
    assert_eq!(of(&|a| a.config.target_modules = Targets::Pattern("all-linear".into())), ["q_proj", "up_proj"]);
    let five = of(&|a| drop(a.modules.remove(&module(1, Q))));
    assert_eq!((five.len(), five[0].as_str()), (5, "model.layers.0.mlp.up_proj"));
    assert_eq!(of(&|a| a.config.target_modules = Targets::Pattern(".*proj".into())).len(), 6);
    assert_eq!(
        of(&|a| drop(a.config.extra.insert("layers_to_transform".into(), serde_json::json!([0, 1, 2])))).len(),
        6
    );
}

#[test]
fn what_an_adapter_gives_is_said() {
    let rosa = adapter(AdapterKind::Rosa, 3, &[Q, UP], true, true);
    let (config, began, lines) = start(&rosa, "").unwrap();
    let all = "adapter to start from: A and B of 6 modules, 36 values of S\nmasks: 36 entries in 6 of 6 target modules, those of ";
    assert!(lines.starts_with(all) && lines.ends_with("; density 0.07"), "{lines}");
    assert_eq!((config.density, config.density_pattern.0.len()), (0.07, 0));
    assert_eq!((began.masks.unwrap().len(), began.adapter.unwrap().modules), (6, rosa.modules.clone()));
    // without the masks of a module no density is that of all
    let mut fewer = rosa.clone();
    fewer.modules.get_mut(&module(1, UP)).unwrap().sparse = None;
    let (config, _, lines) = start(&fewer, "").unwrap();
    assert_eq!((config.density, config.density_pattern.get(&module(1, UP))), (0.07, Some(0.0)));
    assert!(lines.contains("28 entries in 5 of 6") && lines.ends_with("the original RoSA code cannot load"), "{lines}");
    let (config, start, lines) = start(&adapter(AdapterKind::Lora, 3, &[Q], true, false), "").unwrap();
    assert_eq!((lines.as_str(), start.masks), ("adapter to start from: A and B of 3 modules, 0 values of S", None));
    assert_eq!(config.density_pattern.0.len(), 0);
}

#[test]
fn what_is_left_out_is_said() {
    let mut rosa = adapter(AdapterKind::Rosa, 3, &[Q, UP], true, true);
    let said = |adapter: &AdapterFolder, flags: &str, what: &[&str]| {
        let (_, _, lines) = start(adapter, flags).unwrap();
        what.iter().for_each(|what| assert!(lines.contains(what), "{flags}: {what} in\n{lines}"));
    };
    const ELSEWHERE: &str = "the run does not begin where the adapter ended";
    said(
        &rosa,
        "method = 'lora'",
        &["of it is not used: 36 of 36 values of S, in 6 modules (q_proj, up_proj); ", ELSEWHERE],
    );
    said(&rosa, "method = 'spa'", &["of it is not used: A and B of 6 modules (q_proj, up_proj); ", ELSEWHERE]);
    let not_up = "A and B of 3 modules (up_proj); 24 of 36 values of S, in 3 modules (up_proj)";
    said(&rosa, "target_modules = 'q_proj'", &[not_up, "masks of 3 modules (up_proj) are not used"]);
    said(
        &rosa,
        "alpha = 16",
        &["B·A is scaled by 8 instead of the adapter's 16 in 6 modules (q_proj, up_proj)", ELSEWHERE],
    );
    said(&rosa, "rslora = true", &["instead of the adapter's 16"]);
    said(&rosa, "density = 0.5", &["(⟨density⟩ 0.5 is not used)"]);
    rosa.config.lora_dropout = 0.05;
    said(&rosa, "", &["the adapter's dropout of 0.05 is not taken over, it is 0: ⟨dropout⟩ 0.05 does"]);
    let q = adapter(AdapterKind::Lora, 3, &[Q], true, false);
    said(&q, "target_modules = 'all-linear'", &["not in the adapter, so they begin at zero: 3 modules (up_proj)"]);
}

#[test]
fn other_masks_keep_the_values_that_they_share() {
    let rosa = adapter(AdapterKind::Rosa, 3, &[Q], true, true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let mask = CsrPattern::from_flat(8, 8, &[0, 9, 10]).unwrap();
    let masks: Masks = (0..3).map(|layer| (module(layer, Q), mask.clone())).collect();
    crate::io::mask::write_masks(&path, &masks).unwrap();
    let (config, start, lines) = start(&rosa, &format!("mask = {path:?}")).unwrap();
    assert!(lines.contains("of it is not used: 6 of 12 values of S, in 3 modules (q_proj); the run"), "{lines}");
    assert!(lines.contains("masks: 9 entries in 3 of 3 target modules, those of "), "{lines}");
    assert!(lines.ends_with("density 0.05 (⟨density⟩ 0.07 is not used)"), "{lines}");
    assert_eq!((config.density, start.masks.unwrap()), (0.05, masks));
    let none: Masks = BTreeMap::from([(module(0, UP), CsrPattern::from_flat(16, 8, &[5]).unwrap())]);
    crate::io::mask::write_masks(&path, &none).unwrap();
    let err = super::tests::start(&rosa, &format!("mask = {path:?}")).unwrap_err().to_string();
    assert!(err.contains("the masks have no entry for any of the target modules"), "{err}");
}

#[test]
fn folders_that_hold_no_adapter_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let message = || {
        let given = PartialConfig::default();
        options(dir.path(), &given).unwrap_err().to_string()
    };
    assert!(message().contains("no adapter found, this file is missing"), "{}", message());
    std::fs::write(at("config.toml"), "").unwrap();
    assert!(message().contains("has not finished and saved no state; rugosa train ⟨resume⟩"), "{}", message());
    std::fs::write(at("masks.safetensors"), "").unwrap();
    assert!(message().contains("the run made masks and no adapter; use them with ⟨mask⟩ "), "{}", message());
    state::save(dir.path(), state::header_for_tests(3), &state::Parts::none(), 1).unwrap();
    let finish = "has not finished, and it makes no adapter; finish it with rugosa train ⟨resume⟩";
    assert!(message().contains(finish), "{}", message());
    std::fs::write(at("config.json"), "{}").unwrap();
    assert!(message().contains("this folder holds a model, no adapter; give it as the model: ⟨model⟩ "));
}
