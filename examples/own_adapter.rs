//! An adapter of one's own: sparse values at positions that are drawn at random (as SHiRA has them) instead of chosen by gradients.
//! Masks from anywhere else, magnitudes of the weights say, go the same way.
//!
//!     cargo run --release --example own_adapter -- MODEL ROWS.jsonl OUT

use rugosa::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const DENSITY: f64 = 0.02;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let [model, rows, out] = [(); 3].map(|()| args.next().unwrap_or_default());
    println!("loss {:.3?}", train(model.as_ref(), rows.as_ref(), out.as_ref())?);
    Ok(())
}

/// Trains values at random positions for a few steps and leaves them in `out`. The loss of each step.
pub fn train(model: &Path, rows: &Path, out: &Path) -> Result<Vec<f64>> {
    let checkpoint = Checkpoint::open(model)?;
    let tokenizer = Tokenizer::of_model(&checkpoint)?;
    let options = DataOptions { seq_len: 64, ..DataOptions::default() };
    let dataset = Dataset::open(rows, &options, tokenizer.as_ref(), checkpoint.config.vocab_size)?;
    let mut batches = dataset.batches(&BatchOptions { batch_size: 2, gradient_accumulation_steps: 1 })?;

    let device = Device::open(&DeviceOptions::from_env(None))?;
    let model = load(&device, &checkpoint, LoadOptions { trainable: false, stacked: true, positions: 64 })?;
    let rules = TargetRules { density: DENSITY, ..TargetRules::default() };
    let targets = select(&module_shapes(&model), &rules)?;
    let masks: BTreeMap<String, CsrPattern> = targets
        .iter()
        .map(|t| {
            let (rows, cols) = (t.module.out_features, t.module.in_features);
            Ok((t.module.name.clone(), drawn(&t.module.name, rows, cols, t.nnz)?))
        })
        .collect::<Result<_>>()?;

    let mut adapters = AdapterSet::new(&device, targets, 0.0)?;
    adapters.set_masks(&masks)?;
    adapters.initialise(0, None)?;
    adapters.attach(&model, Training::only([Group::Sparse]), None)?;
    let stepper = Stepper::new(&device, AdamW::default(), LossNormalisation::Tokens, 0, 0, false)?;
    let rates = Rates::default().with(Group::Sparse, 5e-3);
    let mut losses = Vec::new();
    for step in 0..12 {
        let window = batches.next_window()?;
        let turn = Turn { step, rates, loss_scale: 1.0 };
        losses.push(stepper.run(&model, &window, adapters.blocks(), turn, None)?.wait()?.loss);
    }
    let config = AdapterConfig { r: 0, density: DENSITY, ..AdapterConfig::new(AdapterKind::Rosa) };
    AdapterFolder { config, modules: adapters.export()? }.write(out)?;
    Ok(losses)
}

/// `nnz` positions of a matrix `[rows, cols]`, each as likely as any other; the same for the same module.
fn drawn(module: &str, rows: usize, cols: usize, nnz: usize) -> Result<CsrPattern> {
    let mut rng = Rng::named(0, module);
    let mut flat = BTreeSet::new();
    while flat.len() < nnz {
        flat.insert(rng.below((rows * cols) as u64));
    }
    CsrPattern::from_flat(rows, cols, &flat.into_iter().collect::<Vec<_>>())
}
