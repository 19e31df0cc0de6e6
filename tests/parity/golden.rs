//! The reference numbers in `tests/fixtures/golden`, and the tolerances that they come with.

pub use crate::common::{max_abs, rel_l2};
use rugosa::csr::CsrPattern;
use rugosa::data::{Batch, BatchOptions, DataOptions, Dataset};
use rugosa::io::adapter::{AdapterFolder, Matrix};
use rugosa::io::safetensors::SafetensorsFile;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A file or folder among the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The model that all of it is about.
pub fn tiny_llama() -> PathBuf {
    fixture("golden/tiny-llama")
}

/// A value of `golden.json` by its path, `/` between keys.
pub fn golden(path: &str) -> &'static Value {
    static GOLDEN: OnceLock<Value> = OnceLock::new();
    let all = GOLDEN.get_or_init(|| {
        serde_json::from_str(&std::fs::read_to_string(fixture("golden/golden.json")).unwrap()).unwrap()
    });
    path.split('/').fold(all, |v, key| v.get(key).unwrap_or_else(|| panic!("golden.json has no {key} of {path}")))
}

/// A tolerance of `golden.json`.
pub fn tolerance(path: &str) -> f64 {
    golden(&format!("tolerances/{path}")).as_f64().unwrap()
}

/// A list of numbers in `golden.json`.
pub fn numbers(path: &str) -> Vec<f64> {
    golden(path).as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// One of the golden safetensors files.
pub struct Tensors(SafetensorsFile);

impl Tensors {
    pub fn open(name: &str) -> Tensors {
        Tensors(SafetensorsFile::open(&fixture("golden").join(format!("{name}.safetensors"))).unwrap())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.names()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.0.get(name).unwrap().to_f32().unwrap()
    }

    pub fn i32(&self, name: &str) -> Vec<i32> {
        self.0.get(name).unwrap().to_i32().unwrap()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.0.get(name).unwrap().shape.to_vec()
    }

    /// The rows `<prefix>{input_ids, attention_mask, labels}`, padding and all, as lines of JSON.
    pub fn rows(&self, prefix: &str) -> String {
        let of = |name: &str| self.i32(&format!("{prefix}{name}"));
        let width = self.shape(&format!("{prefix}input_ids"))[1];
        let (ids, mask, labels) = (of("input_ids"), of("attention_mask"), of("labels"));
        let mut lines = String::new();
        for ((ids, mask), labels) in ids.chunks(width).zip(mask.chunks(width)).zip(labels.chunks(width)) {
            writeln!(lines, "{}", json!({ "input_ids": ids, "attention_mask": mask, "labels": labels })).unwrap();
        }
        lines
    }

    /// The same rows as one micro-batch.
    pub fn batch(&self, prefix: &str) -> Batch {
        batches(&self.rows(prefix), 2).swap_remove(0)
    }

    /// Where the tokens of those rows that are no padding stand in `[rows · width]`.
    pub fn kept(&self, prefix: &str) -> Vec<usize> {
        let mask = self.i32(&format!("{prefix}attention_mask"));
        mask.iter().enumerate().filter(|(_, m)| **m == 1).map(|(i, _)| i).collect()
    }
}

/// The micro-batches of `rows` lines each of an optimiser step over all of `lines`, in their order.
pub fn batches(lines: &str, rows: usize) -> Vec<Batch> {
    batches_of(lines, rows, false)
}

/// The same; with `packing` of `rows` sequences each, which hold several lines.
pub fn batches_of(lines: &str, rows: usize, packing: bool) -> Vec<Batch> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, lines).unwrap();
    let options = DataOptions { seq_len: 128, packing, shuffle: false, ..DataOptions::default() };
    let dataset = Dataset::open(&path, &options, None, 300).unwrap();
    let steps = dataset.report().sequences.div_ceil(rows);
    let options = BatchOptions { batch_size: rows, gradient_accumulation_steps: steps };
    dataset.batches(&options).unwrap().next_window().unwrap()
}

/// The modules that the runs adapt, with the shape `[out, in]` of their weights.
pub fn modules(rosa: &Tensors) -> BTreeMap<String, (usize, usize)> {
    let module = |name: &str| {
        let module = name.strip_prefix("maskgrad.")?;
        let shape = rosa.shape(name);
        Some((module.to_owned(), (shape[0], shape[1])))
    };
    rosa.names().filter_map(module).collect()
}

/// The masks of `key`.
pub fn masks(rosa: &Tensors, key: &str) -> BTreeMap<String, CsrPattern> {
    let indices = |name: String| rosa.i32(&name).into_iter().map(|i| i as u32).collect();
    let mask = |(module, (rows, cols)): (String, (usize, usize))| {
        let at = format!("mask.{key}.{module}");
        let pattern = CsrPattern::new(rows, cols, indices(format!("{at}.row_offs")), indices(format!("{at}.col_idx")));
        (module, pattern.unwrap())
    };
    modules(rosa).into_iter().map(mask).collect()
}

/// An adapter folder of the runs' shape.
pub fn read_adapter(folder: &Path) -> AdapterFolder {
    let shapes = modules(&Tensors::open("rosa_llama"));
    AdapterFolder::read(folder, |name| shapes.get(name).copied()).unwrap()
}

/// An adapter of low rank alone: A as `prefix` has it, B likewise or zero.
pub fn low_rank(rosa: &Tensors, prefix: &str) -> AdapterFolder {
    let mut adapter = read_adapter(&fixture("adapter-rosa"));
    adapter.config.density = 0.0;
    for (module, (rows, cols)) in modules(rosa) {
        let (a, b) = (format!("{prefix}.{module}.A"), format!("{prefix}.{module}.B"));
        let b = if rosa.names().any(|n| n == b) { rosa.f32(&b) } else { vec![0.0; rows * 4] };
        let tensors = adapter.modules.get_mut(&module).unwrap();
        tensors.a = Some(Matrix { rows: 4, cols, data: rosa.f32(&a) });
        tensors.b = Some(Matrix { rows, cols: 4, data: b });
        tensors.sparse = None;
    }
    adapter
}
