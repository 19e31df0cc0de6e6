//! `rugosa bench`: speeds on the device at hand.

use super::{print, tell};
use crate::bench::report::{head, step_json, step_text};
use crate::bench::shapes::Shape;
use crate::bench::step::{Adapter, StepCase, StepRuns, run as run_step};
use crate::cli::args::{Bench, BenchArgs, BenchStepArgs, JsonArgs};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::train::config::PrecisionOption;
use serde_json::Value;
use std::path::Path;

pub fn run(args: BenchArgs) -> Result<()> {
    match args.what {
        Bench::Step(args) => step(&args),
    }
}

fn step(args: &BenchStepArgs) -> Result<()> {
    let cases = step_cases(args)?;
    let runs = StepRuns { warmup: args.warmup, steps: args.steps, profile: args.profile };
    let mut rows = Vec::new();
    for (i, case) in cases.into_iter().enumerate() {
        let report = run_step(&case, runs, args.device.device.clone())?;
        if i == 0 {
            tell(&format!("device: {} ({}, {})", report.caps.name, report.caps.api, report.caps.driver));
        }
        if report.precision != case.precision {
            tell("this device has no matrix units that can be used; products run in f32");
        }
        let name = case.shape.name;
        tell(&format!("{name} {:?}: {:.0} tokens/s", case.adapter, report.tokens_per_second()));
        rows.push((case, report));
    }
    let mut json = match rows.first() {
        Some((_, report)) => head(&report.caps),
        None => Value::Null,
    };
    json["steps"] = args.steps.into();
    json["warmup"] = args.warmup.into();
    json["rows"] = rows.iter().map(|(case, report)| step_json(case, report)).collect();
    deliver(&args.json, || step_text(&rows), &json)
}

/// Every combination of what is listed.
fn step_cases(args: &BenchStepArgs) -> Result<Vec<StepCase>> {
    let shapes: Vec<_> = args.shape.iter().map(|n| Shape::named(n)).collect::<Result<_>>().map_err(Error::as_usage)?;
    let mut cases = Vec::new();
    for shape in shapes {
        for weights in &args.weights {
            for precision in &args.precision {
                cases.extend(args.method.iter().map(|&adapter| StepCase {
                    shape,
                    adapter,
                    weights: weights.dtype(),
                    precision: match precision {
                        PrecisionOption::F32 => Precision::F32,
                        PrecisionOption::F16 => Precision::F16,
                    },
                    rank: args.lora_rank.filter(|_| adapter == Adapter::Lora).unwrap_or(args.rank),
                    density: args.density,
                    mask: args.mask,
                    batch_size: args.batch_size,
                    seq_len: args.seq_len,
                    checkpointed: args.checkpointing,
                }));
            }
        }
    }
    Ok(cases)
}

/// The table to standard output and the JSON to a file, or the JSON alone to standard output.
fn deliver(to: &JsonArgs, table: impl Fn() -> String, json: &Value) -> Result<()> {
    let text = format!("{json:#}\n");
    match &to.json {
        Some(path) if path == Path::new("-") => print(&text),
        Some(path) => {
            print(&table())?;
            write_atomic(path, |out| out.write_all(text.as_bytes()))
        }
        None => print(&table()),
    }
}
