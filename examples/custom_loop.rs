//! A training loop of one's own, of the parts that `rugosa train` is made of: rates, stopping and what is kept are decided here.
//!
//!     cargo run --release --example custom_loop -- MODEL ROWS.jsonl OUT

use rugosa::prelude::*;
use std::path::Path;

const STEPS: u64 = 12;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let [model, rows, out] = [(); 3].map(|()| args.next().unwrap_or_default());
    println!("loss {:.3?}", train(model.as_ref(), rows.as_ref(), out.as_ref())?);
    Ok(())
}

/// Trains low-rank adapters until the loss is half of what it was, and leaves them in `out`. The loss of each step.
pub fn train(model: &Path, rows: &Path, out: &Path) -> Result<Vec<f64>> {
    let checkpoint = Checkpoint::open(model)?;
    let tokenizer = Tokenizer::of_model(&checkpoint)?;
    let options = DataOptions { seq_len: 64, ..DataOptions::default() };
    let dataset = Dataset::open(rows, &options, tokenizer.as_ref(), checkpoint.config.vocab_size)?;
    let mut batches = dataset.batches(&BatchOptions { batch_size: 2, gradient_accumulation_steps: 1 })?;

    let device = Device::open(&DeviceOptions::from_env(None))?;
    let model = load(&device, &checkpoint, LoadOptions { trainable: false, stacked: true, positions: 64 })?;
    let rules = TargetRules { rank: 4, alpha: 8.0, ..TargetRules::default() };
    let mut adapters = AdapterSet::new(&device, select(&module_shapes(&model), &rules)?, 0.0)?;
    adapters.initialise(0, None)?;
    adapters.attach(&model, Training::only([Group::LowRank]), None)?;

    let stepper = Stepper::new(&device, AdamW::default(), LossNormalisation::Tokens, 0, 0, false)?;
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let rates = Rates::default().with(Group::LowRank, 1e-2 * LrSchedule::Cosine.factor(step, 2, STEPS));
        let turn = Turn { step, rates, loss_scale: 1.0 };
        losses.push(stepper.run(&model, &batches.next_window()?, adapters.blocks(), turn, None)?.wait()?.loss);
        if losses[step as usize] < losses[0] / 2.0 {
            break;
        }
    }
    let config = AdapterConfig { r: 4, lora_alpha: 8.0, ..AdapterConfig::new(AdapterKind::Lora) };
    AdapterFolder { config, modules: adapters.export()? }.write(out)?;
    Ok(losses)
}
