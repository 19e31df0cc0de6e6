//! Folders that PEFT wrote, and the original RoSA code's: the logits with each are PEFT's, also once it was exported.

use super::golden::*;
use super::model::{decoder, logits};
use crate::common::device;
use rugosa::adapters::AdapterSet;
use rugosa::data::{Batch, ExampleRef};
use rugosa::io::adapter::{AdapterFolder, ExportFormat, export};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::safetensors::SafetensorsFile;
use rugosa::nn::Decoder;
use rugosa::optim::Training;
use std::path::Path;

/// Between logits of up to 5 that are computed in other orders.
const TOLERANCE: f64 = 2e-5;

fn with_adapter(model: &Decoder, folder: &AdapterFolder, batch: &Batch) -> Vec<f32> {
    let set = AdapterSet::from_folder(device(), model, folder).unwrap();
    set.attach(model, Training::default(), None).unwrap();
    logits(model, batch)
}

#[test]
fn adapters_of_peft_give_its_logits_before_and_after_an_export() {
    let (model, checkpoint) = (decoder(false), Checkpoint::open(&tiny_llama()).unwrap());
    let golden = SafetensorsFile::open(&fixture("adapters/logits.safetensors")).unwrap();
    let ids: Vec<u32> = golden.get("input_ids").unwrap().to_indices().unwrap();
    let labels: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let batch = Batch::new([ExampleRef { ids: &ids, labels: &labels, line: 1 }], 0);
    let read = |folder: &Path| AdapterFolder::read(folder, |name| checkpoint.linear_shape(name)).unwrap();
    let folders = [
        ("supertuning", fixture("adapters/supertuning")),
        ("supertuning-sparse", fixture("adapters/supertuning-sparse")),
        ("lora-bf16", fixture("adapters/lora-bf16")),
        ("rosa", fixture("adapter-rosa")),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, folder) in folders {
        let want = golden.get(name).unwrap().to_f32().unwrap();
        let adapter = read(&folder);
        let same = |what: &str, adapter: &AdapterFolder| {
            let worst = max_abs(&with_adapter(&model, adapter, &batch), &want);
            assert!(worst < TOLERANCE, "{name}, {what}: {worst}");
        };
        same("as it is", &adapter);
        for (what, format) in [("peft", ExportFormat::Peft), ("peft-rosa", ExportFormat::PeftRosa)] {
            let out = dir.path().join(format!("{name}-{what}"));
            let done = export(&adapter, format, &out, None, true).unwrap();
            assert!(done.verified.unwrap().worst < 1.2e-7, "{name}: {done:?}");
            same(what, &read(&out));
        }
    }
}
