//! The tiny models and their reference numbers in `tests/fixtures/golden`.

use crate::common::device;
pub use crate::common::{max_abs, rel_l2};
use rugosa::data::{Batch, ExampleRef, IGNORED};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::safetensors::SafetensorsFile;
use rugosa::nn::Decoder;
use rugosa::nn::loader::{LoadOptions, load};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub const FAMILIES: [&str; 21] = [
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "phi4mini",
    "ministral3",
    "seed_oss",
    "granite",
    "granite4",
    "hunyuan",
    "arcee",
    "olmo2",
    "olmo3",
    "exaone4",
    "glm4",
    "gemma3vision",
    "cohere2",
    "lfm2",
];
pub const VOCAB: usize = 300;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

/// The model folder of a family.
pub fn folder(family: &str) -> PathBuf {
    fixtures().join(format!("tiny-{family}"))
}

/// The model of a family on the tests' device.
pub fn decoder(family: &str, trainable: bool) -> Decoder {
    let checkpoint = Checkpoint::open(&folder(family)).unwrap();
    load(device(), &checkpoint, LoadOptions { trainable, stacked: true, positions: 64 }).unwrap()
}

/// Reference numbers of one family.
pub struct Golden {
    file: SafetensorsFile,
    numbers: Value,
}

impl Golden {
    pub fn open(family: &str) -> Golden {
        let file = SafetensorsFile::open(&fixtures().join(format!("model_{family}.safetensors"))).unwrap();
        let text = std::fs::read_to_string(fixtures().join("families.json")).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        Golden { file, numbers: all["models"][format!("tiny-{family}")].clone() }
    }

    pub fn loss(&self) -> f64 {
        self.numbers["loss"].as_f64().unwrap()
    }

    pub fn tolerance(&self, of: &str) -> f64 {
        self.numbers["tolerance"][of].as_f64().unwrap()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.file.get(name).unwrap().to_f32().unwrap()
    }

    /// How many tensors have a reference gradient.
    pub fn gradients(&self) -> usize {
        self.file.names().filter(|n| n.starts_with("grad.")).count()
    }

    /// The logits `[tokens, vocab]` of the tokens that are no padding.
    pub fn logits(&self) -> Vec<f32> {
        let all = self.f32("logits");
        let mask = self.i32("attention_mask");
        all.chunks(VOCAB).zip(&mask).filter(|(_, m)| **m == 1).flat_map(|(row, _)| row.to_vec()).collect()
    }

    /// `(token ids, labels)` of each row, without padding.
    pub fn rows(&self) -> Vec<(Vec<u32>, Vec<i32>)> {
        let width = self.file.get("input_ids").unwrap().shape[1];
        let (ids, labels, mask) = (self.i32("input_ids"), self.i32("labels"), self.i32("attention_mask"));
        ids.chunks(width)
            .zip(labels.chunks(width))
            .zip(mask.chunks(width))
            .map(|((ids, labels), mask)| {
                let n = mask.iter().filter(|m| **m == 1).count();
                (ids[..n].iter().map(|i| *i as u32).collect(), labels[..n].to_vec())
            })
            .collect()
    }

    /// The rows as one micro-batch.
    pub fn batch(&self) -> Batch {
        let rows = self.rows();
        Batch::new(rows.iter().map(|(ids, labels)| ExampleRef { ids, labels, line: 0 }), 0)
    }

    pub fn i32(&self, name: &str) -> Vec<i32> {
        self.file.get(name).unwrap().to_i32().unwrap()
    }
}

/// A batch of whole rows without labels.
pub fn unlabelled(rows: &[Vec<u32>]) -> Batch {
    let none: Vec<Vec<i32>> = rows.iter().map(|r| vec![IGNORED; r.len()]).collect();
    Batch::new(rows.iter().zip(&none).map(|(ids, labels)| ExampleRef { ids, labels, line: 0 }), 0)
}
