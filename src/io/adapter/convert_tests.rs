use super::super::tests::small;
use super::*;
use crate::io::adapter::compare;

/// `small` with more modules: `up_proj` of another rank and density, `down_proj` without an S, `o_proj` with an S alone.
fn uneven() -> AdapterFolder {
    let mut adapter = small(AdapterKind::Rosa);
    let matrix = |rows, cols| Some(Matrix { rows, cols, data: (0..rows * cols).map(|i| i as f32 / 7.0).collect() });
    let sparse = |rows: usize, flat: &[u64]| {
        let pattern = CsrPattern::from_flat(rows, 64, flat).unwrap();
        Some(Csr { values: (1..=flat.len()).map(|v| v as f32).collect(), pattern })
    };
    let modules = [
        ("mlp.up_proj", ModuleTensors { a: matrix(3, 64), b: matrix(16, 3), sparse: sparse(16, &[0, 1, 2, 9, 1023]) }),
        ("mlp.down_proj", ModuleTensors { a: matrix(2, 64), b: matrix(8, 2), sparse: None }),
        ("self_attn.o_proj", ModuleTensors { a: None, b: None, sparse: sparse(64, &[5]) }),
    ];
    adapter.modules.extend(modules.map(|(name, m)| (format!("model.layers.0.{name}"), m)));
    adapter.config.lora_alpha = 4.0;
    adapter.config.rank_pattern = vec![("up_proj".into(), 3), ("o_proj".into(), 0)];
    adapter.config.alpha_pattern = vec![("down_proj".into(), 5.0)];
    adapter
}

/// Writes and reads `adapter` in its format, and compares it with `original`.
fn survives(adapter: &AdapterFolder, original: &AdapterFolder) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path()).unwrap();
    let shape_of = |name: &str| shape(name, original.modules.get(name)?).ok();
    let read = AdapterFolder::read(dir.path(), shape_of).unwrap();
    assert_eq!(read.modules, adapter.modules);
    compare(original, &read).unwrap().worst
}

#[test]
fn an_even_rosa_adapter_is_supertuning_as_it_is() {
    let adapter = small(AdapterKind::Rosa);
    let Converted { adapter: peft, notes } = adapter.to_peft().unwrap();
    assert_eq!(peft.config.kind, AdapterKind::Supertuning);
    assert!(notes.is_empty() && peft.modules == adapter.modules, "{notes:?}");
    assert_eq!((peft.config.r, peft.config.lora_alpha), (2, 8.0));
    assert_eq!(survives(&peft, &adapter), 0.0);
}

#[test]
fn what_supertuning_cannot_say_is_padded_and_said() {
    let adapter = uneven();
    let Converted { adapter: peft, notes } = adapter.to_peft().unwrap();
    let sparsity = peft.config.extra["sparsity"].as_f64().unwrap();
    for (name, m) in &peft.modules {
        let (a, b, s) = (m.a.as_ref().unwrap(), m.b.as_ref().unwrap(), m.sparse.as_ref().unwrap());
        assert_eq!((a.rows, b.cols), (3, 3), "{name}");
        let elements = s.pattern.rows * s.pattern.cols;
        assert_eq!(s.pattern.nnz(), (elements as f64 * (1.0 - sparsity)) as usize, "{name}");
    }
    let zeros: usize = peft.modules.values().map(|m| m.sparse.as_ref().unwrap().pattern.nnz()).sum();
    // 5 of 1,024 is the largest share: 10, 5, 2 and 20 entries, of which 11 are the adapter's
    assert!(notes[0].contains(&format!("so {} zeros are added", zeros - 11)) && zeros == 37, "{notes:?}");
    assert!(notes[1].contains("3 modules are filled up to 3"), "{notes:?}");
    assert!(notes[2].contains("scales of 2 modules"), "{notes:?}");
    let worst = survives(&peft, &adapter);
    assert!(worst > 0.0 && worst < 1.2e-7, "{worst}");
}

#[test]
fn sparsity_gives_each_module_its_entries() {
    for d in [0.02, 0.006, 0.018, 0.0045, 1.0, 0.5, 1.0 / 3.0, 0.25, 0.9999] {
        let sizes = [64 * 64, 32 * 64, 176 * 64, 4096 * 11_008, 151_936 * 896];
        let counts = sizes.map(|e: usize| (e, (e as f64 * d) as usize));
        let sparsity = sparsity_for(&counts, d);
        assert!((0.0..1.0).contains(&sparsity));
        for (elements, nnz) in counts {
            let given = supertuning::entries(elements, sparsity);
            assert!(given >= nnz && given <= nnz + 1, "{d}: {given} for {nnz} of {elements}");
        }
    }
}

#[test]
fn without_an_s_it_is_a_lora() {
    let mut adapter = uneven();
    adapter.modules.retain(|_, m| m.a.is_some());
    adapter.modules.values_mut().for_each(|m| m.sparse = None);
    let Converted { adapter: peft, notes } = adapter.to_peft().unwrap();
    assert_eq!((peft.config.kind, peft.config.density, notes.len()), (AdapterKind::Lora, 0.0, 0));
    assert_eq!(survives(&peft, &adapter), 0.0);
    // and a LoRA stays what it is
    assert_eq!(peft.to_peft().unwrap().adapter, peft);
}

#[test]
fn the_originals_format_names_the_modules_that_differ() {
    let adapter = uneven();
    let rosa = adapter.to_peft_rosa().unwrap().adapter;
    assert_eq!(survives(&rosa, &adapter), 0.0);
    let config = &rosa.config;
    for (name, m) in &rosa.modules {
        let (rows, cols) = shape(name, m).unwrap();
        let nnz = (config.density_of(name) * (rows * cols) as f64) as usize;
        assert_eq!(nnz, m.sparse.as_ref().map_or(0, |s| s.pattern.nnz()), "{name}");
        assert_eq!(config.rank(name), m.a.as_ref().map_or(0, |a| a.rows), "{name}");
    }
    let keys = config.rank_pattern.iter().map(|(k, _)| k).chain(config.density_pattern.iter().map(|(k, _)| k));
    assert!(keys.into_iter().all(|key| key.starts_with("model.layers.0.")), "{config:?}");
    // there and back
    let back = adapter.to_peft().unwrap().adapter.to_peft_rosa().unwrap().adapter;
    assert_eq!((back.config.kind, back.config.schedule.as_deref()), (AdapterKind::Rosa, Some("default")));
    assert!(survives(&back, &adapter) < 1.2e-7);
    let lora = small(AdapterKind::Lora).to_peft_rosa().unwrap().adapter;
    assert_eq!((lora.config.density, lora.config.schedule.as_deref()), (0.0, Some("lora_only")));
}

#[test]
fn a_changed_number_is_found() {
    let adapter = small(AdapterKind::Rosa);
    let name = "model.layers.0.self_attn.k_proj";
    let changed = |change: &dyn Fn(&mut ModuleTensors)| {
        let mut other = adapter.clone();
        change(other.modules.get_mut(name).unwrap());
        compare(&adapter, &other).unwrap_err().to_string()
    };
    let a = changed(&|m| m.a.as_mut().unwrap().data[70] += 1e-3);
    assert!(a.contains(&format!("{name}: A differs at row 1, column 6: 70 and 70.00")), "{a}");
    let s = changed(&|m| m.sparse.as_mut().unwrap().pattern.col_idx[0] = 4);
    assert!(s.contains("S differs at row 0, column 3: 1 and 0"), "{s}");
    assert!(changed(&|m| *m = ModuleTensors::default()).contains("A differs at row 0, column 1"));
    let mut other = adapter.clone();
    other.config.lora_alpha *= 2.0;
    assert!(compare(&adapter, &other).unwrap_err().to_string().contains("B differs"));
    let seen = compare(&adapter, &adapter).unwrap();
    assert_eq!((seen.modules, seen.numbers, seen.worst), (1, 128 + 64 + 5, 0.0));
}
