//! PEFT's SUPERTUNING: for each linear the values of S and their flat positions, and where the configuration has a rank a LoRA.
//!
//! PEFT makes the adapter by its configuration before it loads a file, so in every linear S must have exactly
//! int(rows · columns · (1 - sparsity)) entries, at least one, and A and B the one rank of the configuration.

use super::config::number;
use super::{AdapterConfig, ModuleTensors};
use crate::csr::{Csr, CsrPattern};
use crate::error::{Error, Result};
use crate::io::safetensors::{Dtype, OutTensor, RawTensor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// `sparsity` where a configuration leaves it out.
pub(super) const SPARSITY: f64 = 0.99;
/// The key that keeps its exact number: PEFT counts entries by it.
const SPARSITY_KEY: &str = "sparsity";

/// Why values without positions are refused.
pub(super) const NO_INDICES: &str = "has values of S without their positions, which PEFT then chooses by the base model's \
    weights; save the adapter with save_precomputed_indices=True";

/// Entries of S in a matrix of so many elements, as PEFT computes it.
pub(super) fn entries(elements: usize, sparsity: f64) -> usize {
    (elements as f64 * (1.0 - sparsity)) as usize
}

/// `sparsity` in the configuration at `path`.
pub(super) fn sparsity_of(path: &Path, map: &Map<String, Value>) -> Result<f64> {
    let Some(value) = map.get(SPARSITY_KEY).filter(|v| !v.is_null()) else { return Ok(SPARSITY) };
    let share = value.as_f64().filter(|v| (0.0..1.0).contains(v));
    share.ok_or_else(|| Error::file(path, SPARSITY_KEY, format!("{value} is no share from 0 to below 1")))
}

fn sparsity(config: &AdapterConfig) -> f64 {
    config.extra.get(SPARSITY_KEY).and_then(Value::as_f64).unwrap_or(1.0 - config.density)
}

/// Sets the density of `config` by the number that PEFT counts with.
pub(super) fn set_sparsity(config: &mut AdapterConfig, sparsity: f64) {
    config.density = 1.0 - sparsity;
    config.extra.insert(SPARSITY_KEY.into(), json!(sparsity));
}

/// The configuration, keys sorted.
pub(super) fn to_json(config: &AdapterConfig) -> Value {
    let defaults = json!({
        "auto_mapping": null,
        "inference_mode": true,
        "init_weights": true,
        "modules_to_save": null,
        "revision": null,
        "save_precomputed_indices": true,
        "select_top": true,
        "task_type": "CAUSAL_LM",
    });
    let mut map = defaults.as_object().cloned().unwrap_or_default();
    map.extend(config.extra.clone());
    let low_rank = config.r > 0;
    let own = [
        ("base_model_name_or_path", json!(config.base_model_name_or_path)),
        ("lora_alpha", if low_rank { number(config.lora_alpha) } else { Value::Null }),
        ("lora_dropout", number(config.lora_dropout)),
        ("peft_type", json!("SUPERTUNING")),
        ("r", if low_rank { json!(config.r) } else { Value::Null }),
        ("save_precomputed_indices", json!(true)),
        (SPARSITY_KEY, json!(sparsity(config))),
        ("target_modules", config.target_modules.to_json()),
    ];
    map.extend(own.map(|(key, value)| (key.to_owned(), value)));
    map.sort_keys();
    Value::Object(map)
}

/// S of a linear `[rows, cols]`.
pub(super) fn sparse(values: &RawTensor<'_>, indices: &RawTensor<'_>, rows: usize, cols: usize) -> Result<Csr> {
    for t in [values, indices] {
        if t.shape.len() != 1 {
            return Err(t.error(format!("has the shape {:?}, expected a vector", t.shape)));
        }
    }
    let (count, positions) = (values.shape[0], indices.shape[0]);
    if count != positions {
        return Err(values.error(format!("has {count} values, but there are {positions} positions")));
    }
    // before any of it is read: the file may be a hole of any size
    if positions > rows * cols {
        return Err(indices.error(format!("has {positions} positions, more than [{rows}, {cols}] holds")));
    }
    let flat = indices.to_indices()?;
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_unstable_by_key(|&i| flat[i]);
    let sorted: Vec<u64> = order.iter().map(|&i| u64::from(flat[i])).collect();
    if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
        return Err(indices.error(format!("holds the position {} twice", twice[0])));
    }
    if let Some(last) = sorted.last().filter(|last| **last >= (rows * cols) as u64) {
        return Err(indices.error(format!("holds the position {last}, outside of the matrix [{rows}, {cols}]")));
    }
    let pattern = CsrPattern::from_flat(rows, cols, &sorted)?;
    let all = values.to_finite()?;
    Ok(Csr { pattern, values: order.into_iter().map(|i| all[i]).collect() })
}

/// The tensors of S in the module called `prefix`.
pub(super) fn to_write<'a>(
    prefix: &str,
    config: &AdapterConfig,
    module: &'a ModuleTensors,
) -> Result<[OutTensor<'a>; 2]> {
    let bad = |reason: String| Error::shape("adapter", format!("{prefix}: {reason}"));
    let Some(s) = &module.sparse else { return Err(bad("PEFT's SUPERTUNING format has an S in every module".into())) };
    let (elements, nnz) = (s.pattern.rows * s.pattern.cols, s.pattern.nnz());
    let wanted = entries(elements, sparsity(config));
    if nnz != wanted || nnz == 0 {
        return Err(bad(format!("S has {nnz} entries, but by the configuration's sparsity it has {wanted}")));
    }
    let rank = module.a.as_ref().map_or(0, |a| a.rows);
    if rank != config.r {
        return Err(bad(format!("has the rank {rank}, but the configuration has {}", config.r)));
    }
    if i32::try_from(elements).is_err() {
        return Err(bad(format!("has {elements} weights, more than the positions of 32 bits can count")));
    }
    let flat = s.pattern.entries().map(|(row, col)| row as usize * s.pattern.cols + col as usize);
    let bytes: Vec<u8> = flat.flat_map(|i| (i as i32).to_le_bytes()).collect();
    let indices = OutTensor {
        name: format!("{prefix}.supertuning_indices"),
        dtype: Dtype::I32,
        shape: vec![nnz],
        data: bytes.into(),
    };
    Ok([OutTensor::f32(format!("{prefix}.supertuning_values"), &[nnz], &s.values), indices])
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::super::{AdapterFolder, AdapterKind, CONFIG_FILE, TENSORS_FILE, tensors};
    use super::*;
    use crate::io::safetensors::write_safetensors;

    fn written() -> (tempfile::TempDir, AdapterFolder) {
        let dir = tempfile::tempdir().unwrap();
        let adapter = small(AdapterKind::Rosa).to_peft().unwrap().adapter;
        adapter.write(dir.path()).unwrap();
        (dir, adapter)
    }

    fn read(folder: &Path) -> Result<AdapterFolder, String> {
        AdapterFolder::read(folder, |_| Some((32, 64))).map_err(|e| e.to_string())
    }

    #[test]
    fn it_is_written_as_peft_reads_it() {
        let (dir, adapter) = written();
        let json: Value = serde_json::from_slice(&std::fs::read(dir.path().join(CONFIG_FILE)).unwrap()).unwrap();
        let sparsity = json["sparsity"].as_f64().unwrap();
        assert_eq!(entries(32 * 64, sparsity), 5);
        let expected = json!({
            "auto_mapping": null, "base_model_name_or_path": null, "inference_mode": true, "init_weights": true, "lora_alpha": 8,
            "lora_dropout": 0, "modules_to_save": null, "peft_type": "SUPERTUNING", "r": 2, "revision": null,
            "save_precomputed_indices": true, "select_top": true, "sparsity": sparsity, "target_modules": ["k_proj"],
            "task_type": "CAUSAL_LM",
        });
        assert_eq!(json, expected);
        let again = read(dir.path()).unwrap();
        assert_eq!((again.modules, again.config.density), (adapter.modules, adapter.config.density));
    }

    #[test]
    fn positions_come_in_any_order_and_bad_ones_are_refused() {
        let (dir, adapter) = written();
        let with = |indices: &[i32]| {
            let (mut tensors, metadata) = tensors::to_write(&adapter).unwrap();
            let t = tensors.iter_mut().find(|t| t.name.ends_with("supertuning_indices")).unwrap();
            t.data = indices.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>().into();
            t.shape = vec![indices.len()];
            write_safetensors(&dir.path().join(TENSORS_FILE), &tensors, &metadata).unwrap();
            read(dir.path())
        };
        let module = with(&[2047, 66, 3, 65, 64]).unwrap().modules.into_values().next().unwrap();
        assert_eq!(module.sparse.unwrap().values, [3.0, 5.0, 4.0, 2.0, 1.0]);
        assert!(with(&[3, 64, 65, 66, 64]).unwrap_err().contains("supertuning_indices: holds the position 64 twice"));
        assert!(
            with(&[3, 64, 65, 66, 2048]).unwrap_err().contains("the position 2048, outside of the matrix [32, 64]")
        );
        assert!(with(&[3, 64, 65, 66, -1]).unwrap_err().contains("the negative index -1"));
        assert!(with(&[3, 64]).unwrap_err().contains("has 5 values, but there are 2 positions"));
        let (mut tensors, metadata) = tensors::to_write(&adapter).unwrap();
        tensors.retain(|t| !t.name.ends_with("supertuning_indices"));
        write_safetensors(&dir.path().join(TENSORS_FILE), &tensors, &metadata).unwrap();
        assert!(read(dir.path()).unwrap_err().contains("save_precomputed_indices=True"));
    }

    #[test]
    fn what_peft_leaves_out_or_forbids_in_a_configuration() {
        let (dir, adapter) = written();
        let with = |key: &str, value: Value| {
            let mut json = adapter.config.to_json();
            json[key] = value;
            std::fs::write(dir.path().join(CONFIG_FILE), json.to_string()).unwrap();
            read(dir.path())
        };
        assert_eq!(with("lora_alpha", Value::Null).unwrap().config.lora_alpha, 4.0, "twice the rank");
        assert!(with("sparsity", json!(1.0)).unwrap_err().contains("sparsity: 1.0 is no share from 0 to below 1"));
        assert!(with("modules_to_save", json!(["lm_head"])).unwrap_err().contains("modules_to_save"));
    }

    #[test]
    fn what_does_not_fit_the_configuration_is_not_written() {
        let (dir, adapter) = written();
        let refused = |change: &dyn Fn(&mut AdapterFolder)| {
            let mut changed = adapter.clone();
            change(&mut changed);
            changed.write(&dir.path().join("other")).unwrap_err().to_string()
        };
        assert!(
            refused(&|a| set_sparsity(&mut a.config, 0.9))
                .contains("S has 5 entries, but by the configuration's sparsity it has 204")
        );
        assert!(refused(&|a| a.config.r = 3).contains("has the rank 2, but the configuration has 3"));
        assert!(
            refused(&|a| a.modules.values_mut().for_each(|m| m.sparse = None)).contains("has an S in every module")
        );
    }
}
