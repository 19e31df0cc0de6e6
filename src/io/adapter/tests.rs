use super::*;
use crate::csr::CsrPattern;
use crate::io::safetensors::{Dtype, OutTensor};
use half::bf16;
use serde_json::{Value, json};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapter-rosa");

/// The linears of the fixture's model: hidden 64, inner 176, two key-value heads of 16.
fn shape_of(module: &str) -> Option<(usize, usize)> {
    match module.rsplit('.').next()? {
        "q_proj" | "o_proj" => Some((64, 64)),
        "k_proj" | "v_proj" => Some((32, 64)),
        "gate_proj" | "up_proj" => Some((176, 64)),
        "down_proj" => Some((64, 176)),
        _ => None,
    }
}

pub(super) fn small(kind: AdapterKind) -> AdapterFolder {
    let mut config = AdapterConfig::new(kind);
    config.r = 2;
    config.target_modules = Targets::Names(vec!["k_proj".into()]);
    let a = Matrix { rows: 2, cols: 64, data: (0..128).map(|i| i as f32).collect() };
    let b = Matrix { rows: 32, cols: 2, data: (0..64).map(|i| -0.5 * i as f32).collect() };
    let pattern = CsrPattern::from_flat(32, 64, &[3, 64, 65, 66, 2047]).unwrap();
    let sparse = Csr { pattern, values: vec![1.0, 2.0, 3.0, 4.0, 5.0] };
    let sparse = (kind == AdapterKind::Rosa).then_some(sparse);
    let module = ModuleTensors { a: Some(a), b: Some(b), sparse };
    AdapterFolder { config, modules: [("model.layers.0.self_attn.k_proj".to_string(), module)].into() }
}

fn json_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(CONFIG_FILE)).unwrap()).unwrap()
}

#[test]
fn the_originals_folder_survives_reading_and_writing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/adapter");
    let adapter = AdapterFolder::read(FIXTURE.as_ref(), shape_of).unwrap();
    assert_eq!((adapter.config.kind, adapter.config.r, adapter.modules.len()), (AdapterKind::Rosa, 4, 21));
    assert_eq!((adapter.config.density, adapter.config.scale("model.layers.0.mlp.up_proj")), (0.02, 4.0));
    adapter.write(&out).unwrap();
    assert_eq!(json_of(&out), json_of(FIXTURE.as_ref()));
    let file = |folder: &Path| SafetensorsFile::open(&folder.join(TENSORS_FILE)).unwrap();
    let (old, new) = (file(FIXTURE.as_ref()), file(&out));
    assert_eq!(old.names().collect::<Vec<_>>(), new.names().collect::<Vec<_>>());
    assert_eq!(old.metadata(), new.metadata());
    for name in old.names() {
        let (a, b) = (old.get(name).unwrap(), new.get(name).unwrap());
        assert_eq!((a.dtype, a.shape, a.data), (b.dtype, b.shape, b.data), "{name}");
    }
    assert_eq!(AdapterFolder::read(&out, shape_of).unwrap(), adapter);
}

#[test]
fn lora_is_written_as_peft_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut adapter = small(AdapterKind::Lora);
    adapter.config.lora_alpha = 2.5;
    adapter.config.lora_dropout = 0.1;
    adapter.config.use_rslora = true;
    adapter.config.rank_pattern = vec![("q_proj".into(), 7)];
    adapter.config.alpha_pattern = vec![("q_proj".into(), 3.0)];
    adapter.config.base_model_name_or_path = Some("some/model".into());
    adapter.write(dir.path()).unwrap();
    let expected = json!({
        "alpha_pattern": {"q_proj": 3}, "auto_mapping": null, "base_model_name_or_path": "some/model", "bias": "none",
        "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "layers_pattern": null,
        "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 2.5, "lora_dropout": 0.1, "megatron_config": null,
        "megatron_core": "megatron.core", "modules_to_save": null, "peft_type": "LORA", "r": 2,
        "rank_pattern": {"q_proj": 7}, "revision": null, "target_modules": ["k_proj"], "task_type": "CAUSAL_LM",
        "use_rslora": true,
    });
    assert_eq!(json_of(dir.path()), expected);
    let file = SafetensorsFile::open(&dir.path().join(TENSORS_FILE)).unwrap();
    let prefix = "base_model.model.model.layers.0.self_attn.k_proj";
    let names = [format!("{prefix}.lora_A.weight"), format!("{prefix}.lora_B.weight")];
    assert_eq!(file.names().collect::<Vec<_>>(), names);
    assert_eq!(file.get(&names[1]).unwrap().shape, [32, 2]);
    assert_eq!(
        AdapterFolder::read(dir.path(), shape_of).unwrap(),
        AdapterFolder { config: AdapterConfig::read(&dir.path().join(CONFIG_FILE)).unwrap(), ..adapter.clone() }
    );
    let c = AdapterConfig::read(&dir.path().join(CONFIG_FILE)).unwrap();
    assert_eq!((c.rank("x.q_proj"), c.alpha("x.q_proj"), c.rank("x.k_proj")), (7, 3.0, 2));
    assert_eq!(c.scale("x.k_proj"), 2.5 / 2f64.sqrt());
    let mut sparse = small(AdapterKind::Rosa);
    sparse.config.kind = AdapterKind::Lora;
    assert!(sparse.write(dir.path()).unwrap_err().to_string().contains("has no sparse part"));
}

#[test]
fn sparse_only_and_low_rank_only_are_rosa() {
    let dir = tempfile::tempdir().unwrap();
    for sparse_only in [true, false] {
        let mut adapter = small(AdapterKind::Rosa);
        for m in adapter.modules.values_mut() {
            if sparse_only {
                (m.a, m.b) = (None, None);
            } else {
                m.sparse = None;
            }
        }
        if sparse_only {
            adapter.config.r = 0;
        }
        adapter.write(dir.path()).unwrap();
        let read = AdapterFolder::read(dir.path(), shape_of).unwrap();
        assert_eq!(read.modules, adapter.modules);
        assert_eq!(json_of(dir.path())["peft_type"], "ROSA");
    }
    assert_eq!(AdapterConfig { r: 0, ..AdapterConfig::new(AdapterKind::Rosa) }.scale("m"), 1.0);
}

#[test]
fn wide_matrices_have_32_bit_indices() {
    let dir = tempfile::tempdir().unwrap();
    for (cols, dtype) in [(32_767, Dtype::I16), (32_768, Dtype::I32), (50_000, Dtype::I32)] {
        let pattern = CsrPattern::from_flat(3, cols, &[0, cols as u64, 2 * cols as u64 - 1]).unwrap();
        let sparse = Some(Csr { pattern, values: vec![1.0, 2.0, 3.0] });
        let mut adapter = small(AdapterKind::Rosa);
        adapter.modules = [("lm_head".to_string(), ModuleTensors { sparse, ..Default::default() })].into();
        adapter.write(dir.path()).unwrap();
        let file = SafetensorsFile::open(&dir.path().join(TENSORS_FILE)).unwrap();
        for (index, expected) in [("col_idx", vec![0, 0, cols as i32 - 1]), ("row_idx", vec![1, 0, 2])] {
            let t = file.get(&format!("base_model.model.lm_head.rosa_spa.{index}")).unwrap();
            assert_eq!((t.dtype, t.to_i32().unwrap()), (dtype, expected));
        }
        assert_eq!(
            file.metadata().get("sparse_index_dtype").map(String::as_str),
            (dtype == Dtype::I32).then_some("I32")
        );
        assert_eq!(AdapterFolder::read(dir.path(), |_| Some((3, cols))).unwrap().modules, adapter.modules);
    }
}

/// Writes `small(Rosa)` with its tensors changed by `change`, and reads it again.
fn read_changed(change: impl FnOnce(&mut Vec<OutTensor<'_>>)) -> Result<AdapterFolder> {
    let dir = tempfile::tempdir().unwrap();
    let adapter = small(AdapterKind::Rosa);
    adapter.write(dir.path()).unwrap();
    let (mut tensors, metadata) = tensors::to_write(&adapter).unwrap();
    change(&mut tensors);
    write_safetensors(&dir.path().join(TENSORS_FILE), &tensors, &metadata).unwrap();
    AdapterFolder::read(dir.path(), shape_of)
}

fn find<'a, 'b>(tensors: &'a mut [OutTensor<'b>], end: &str) -> &'a mut OutTensor<'b> {
    tensors.iter_mut().find(|t| t.name.ends_with(end)).unwrap()
}

#[test]
fn half_precision_values_are_read() {
    let adapter = read_changed(|tensors| {
        for end in ["rosa_A.weight", "spa.values"] {
            let t = find(tensors, end);
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&t.data);
            t.data = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<_>>().into();
            t.dtype = Dtype::BF16;
        }
    });
    assert_eq!(adapter.unwrap().modules, small(AdapterKind::Rosa).modules); // all values have few bits
}

#[test]
fn bad_tensors_are_refused() {
    let rejects = |change: &dyn Fn(&mut Vec<OutTensor<'_>>), expected: &str| {
        let message = read_changed(|t| change(t)).unwrap_err().to_string();
        assert!(message.contains("adapter_model.safetensors: ") && message.contains(expected), "{message}");
    };
    rejects(&|t| t.clear(), "no adapter found");
    rejects(&|t| t.retain(|t| !t.name.ends_with("rosa_A.weight")), "of the matrices A and B only one");
    rejects(&|t| t.retain(|t| !t.name.ends_with("values")), "only some are in the file");
    rejects(&|t| find(t, "rosa_A.weight").shape = vec![64, 2], "rosa_A.weight: has the shape [64, 2], but");
    rejects(
        &|t| find(t, "rosa_B.weight").name = "base_model.model.x.lora_B.weight".into(),
        "is no tensor of an adapter",
    );
    rejects(
        &|t| find(t, "col_idx").data.to_mut()[..2].copy_from_slice(&(-25_536i16).to_le_bytes()),
        "rosa_spa.col_idx: holds the negative index -25536: 16 bits have wrapped",
    );
    rejects(&|t| find(t, "col_idx").data.to_mut()[..2].copy_from_slice(&64i16.to_le_bytes()), "outside of the matrix");
    rejects(&|t| find(t, "row_offs").shape = vec![33, 1], "expected a vector");
    rejects(
        &|t| {
            let t = find(t, "values");
            t.shape = vec![1];
            t.data.to_mut().truncate(4);
        },
        "has 1 values, but there are 5 positions",
    );
    rejects(&|t| find(t, "values").dtype = Dtype::I32, "has type I32, expected F32");
}

#[test]
fn another_models_adapter_is_called_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut adapter = small(AdapterKind::Rosa);
    adapter.config.base_model_name_or_path = Some("small/rose".into());
    let message = |adapter: &AdapterFolder, shape: Option<(usize, usize)>| {
        adapter.write(dir.path()).unwrap();
        AdapterFolder::read(dir.path(), |_| shape).unwrap_err().to_string()
    };
    let what =
        "adapter_model.safetensors: modules: the adapter is for another model (\"small/rose\"): 1 of its 1 modules";
    let module = "model.layers.0.self_attn.k_proj";
    let none = message(&adapter, None);
    assert!(none.contains(what) && none.contains(&format!("{module} is no linear of this model")), "{none}");
    for shape in [(32, 128), (64, 64)] {
        let m = message(&adapter, Some(shape));
        let (rows, cols) = shape;
        assert!(m.contains(&format!("{module} is [32, 64] in it, and [{rows}, {cols}] in this model")), "{m}");
    }
    // a sparse part alone knows its rows
    adapter.config.r = 0;
    adapter.modules.values_mut().for_each(|m| (m.a, m.b) = (None, None));
    let m = message(&adapter, Some((48, 64)));
    assert!(m.contains(&format!("{module} is [32, 64] in it, and [48, 64] in this model")), "{m}");
}

#[test]
fn an_outline_says_what_there_is() {
    let outline = Outline::read(FIXTURE.as_ref()).unwrap();
    assert_eq!((outline.config.r, outline.modules.len()), (4, 21));
    assert!(outline.modules.values().all(|h| *h == Halves { low_rank: true, sparse: true }));
    let dir = tempfile::tempdir().unwrap();
    small(AdapterKind::Lora).write(dir.path()).unwrap();
    let halves: Vec<Halves> = Outline::read(dir.path()).unwrap().modules.into_values().collect();
    assert_eq!(halves, [Halves { low_rank: true, sparse: false }]);
    let above = dir.path().join("run");
    small(AdapterKind::Lora).write(&above.join("checkpoint-9")).unwrap();
    let message = Outline::read(&above).unwrap_err().to_string();
    assert!(message.contains("there is one in a folder below, give that one: ") && message.ends_with("checkpoint-9"));
}

#[test]
fn bad_configs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    small(AdapterKind::Rosa).write(dir.path()).unwrap();
    let good = json_of(dir.path());
    let rejects = |key: &str, value: Value, expected: &str| {
        let mut json = good.clone();
        json[key] = value;
        std::fs::write(dir.path().join(CONFIG_FILE), json.to_string()).unwrap();
        let message = AdapterFolder::read(dir.path(), shape_of).unwrap_err().to_string();
        assert!(message.contains("adapter_config.json: ") && message.contains(expected), "{message}");
    };
    rejects("peft_type", json!("IA3"), "the adapter type \"IA3\" is not supported; supported: LORA, ROSA, SUPERTUNING");
    rejects("peft_type", json!(null), "peft_type: this key is missing");
    rejects("r", json!(-1), "r: -1 is no rank");
    rejects("d", json!(1.5), "d: 1.5 is no share");
    rejects("lora_alpha", json!("x"), "lora_alpha: \"x\" is no number");
    rejects("target_modules", json!(null), "target_modules: this key is missing");
    rejects("target_modules", json!([1]), "is no name or list");
    rejects("rank_pattern", json!({".*proj": 4}), "is a regular expression");
    rejects("density_pattern", json!({"q_proj": 2}), "density_pattern.q_proj: 2 is out of range");
    rejects("fan_in_fan_out", json!(true), "fan_in_fan_out: true is not supported");
    rejects("bias", json!("all"), "bias: \"all\" is not supported");
    rejects("modules_to_save", json!(["lm_head"]), "modules_to_save");
    rejects("use_dora", json!(true), "use_dora");
    rejects("init_lora_weights", json!("pissa"), "init_lora_weights: \"pissa\"");
    std::fs::write(dir.path().join(CONFIG_FILE), "{\n\"r\": }").unwrap();
    let message = AdapterFolder::read(dir.path(), shape_of).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json:2: is not a valid JSON object"), "{message}");
}

#[test]
fn a_rank_that_the_config_denies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut adapter = small(AdapterKind::Lora);
    adapter.config.rank_pattern = vec![("self_attn.k_proj".into(), 3)];
    adapter.write(dir.path()).unwrap();
    let message = AdapterFolder::read(dir.path(), shape_of).unwrap_err().to_string();
    assert!(
        message
            .contains("lora_A.weight: has the shape [2, 64], but by the model and adapter_config.json it is [3, 64]"),
        "{message}"
    );
}

#[test]
fn folders_without_an_adapter_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &Path| AdapterFolder::read(path, shape_of).unwrap_err();
    assert!(matches!(read(&dir.path().join("nowhere")), Error::Io { .. }));
    assert!(read(dir.path()).to_string().contains("adapter_config.json: no adapter found, this file is missing; give"));
    std::fs::copy(Path::new(FIXTURE).join(CONFIG_FILE), dir.path().join(CONFIG_FILE)).unwrap();
    assert!(read(dir.path()).to_string().contains("adapter_model.safetensors: no adapter found"));
    std::fs::write(dir.path().join("adapter_model.bin"), "x").unwrap();
    assert!(read(dir.path()).to_string().contains("adapter_model.bin is not read"));
    let bytes = std::fs::read(Path::new(FIXTURE).join(TENSORS_FILE)).unwrap();
    std::fs::write(dir.path().join(TENSORS_FILE), &bytes[..bytes.len() / 2]).unwrap();
    assert!(read(dir.path()).to_string().contains("truncated"));
}

#[test]
fn tensors_that_do_not_fit_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let rejects = |change: &dyn Fn(&mut ModuleTensors), expected: &str| {
        let mut adapter = small(AdapterKind::Rosa);
        adapter.modules.values_mut().for_each(change);
        let message = adapter.write(dir.path()).unwrap_err().to_string();
        assert!(message.contains("model.layers.0.self_attn.k_proj") && message.contains(expected), "{message}");
    };
    rejects(&|m| m.a = None, "one of A and B is missing");
    rejects(&|m| m.b.as_mut().unwrap().cols = 1, "not as long as its shape");
    rejects(&|m| m.sparse.as_mut().unwrap().pattern.cols = 65, "don't fit together");
    rejects(&|m| m.sparse.as_mut().unwrap().values.truncate(4), "the sparse values don't fit");
    assert!(!dir.path().join(TENSORS_FILE).exists());
}
