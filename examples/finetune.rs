//! A whole run, as `rugosa train` does it: what is not said here has the program's defaults.
//!
//!     cargo run --release --example finetune -- MODEL ROWS.jsonl OUT

use rugosa::prelude::*;
use rugosa::train::metrics::StepMetrics;
use std::path::Path;

fn main() -> Result<()> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, rows, out] = paths.as_slice() else {
        return Err(Error::invalid("finetune", "give a model, a file of rows and a folder to write"));
    };
    let options = PartialConfig { seq_len: Some(64), steps: Some(12), ..PartialConfig::default() };
    println!("{:?}", train(options, model.as_ref(), rows.as_ref(), out.as_ref())?);
    Ok(())
}

/// Trains RoSA on `rows` and leaves the adapter in `out`.
pub fn train(options: PartialConfig, model: &Path, rows: &Path, out: &Path) -> Result<Outcome> {
    let paths = PartialConfig {
        model: Some(model.into()),
        data: Some(rows.into()),
        out: Some(out.into()),
        ..PartialConfig::default()
    };
    let config = TrainConfig::resolve(PartialConfig::default(), options.or(paths))?;
    Session::prepare(config, &mut Lines)?.run(&mut Lines)
}

/// Prints what a run says.
struct Lines;

impl Observer for Lines {
    fn note(&mut self, line: &str) {
        println!("{line}");
    }

    fn begin(&mut self, steps: u64, _: u64) {
        println!("{steps} steps");
    }

    fn step(&mut self, metrics: &StepMetrics) {
        println!("step {}: loss {:.3}", metrics.step + 1, metrics.loss);
    }

    fn interrupted(&self) -> bool {
        false
    }
}
