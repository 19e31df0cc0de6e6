//! `rugosa bench`: speeds on the device at hand.

use super::{print, tell};
use crate::bench::kernels::{self, KernelsCase, PlanRow};
use crate::bench::report::{head, kernels_json, kernels_text, step_json, step_text};
use crate::bench::shapes::Shape;
use crate::bench::step::{Adapter, StepCase, StepReport, StepRuns, run as run_step};
use crate::cases::speeds::SpeedSizes;
use crate::cli::args::{Bench, BenchArgs, BenchKernelsArgs, BenchStepArgs, JsonArgs};
use crate::device::{DeviceClass, Precision};
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::train::config::PrecisionOption;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Tokens of a step, at most.
const MOST_TOKENS: usize = 1 << 24;

pub fn run(args: BenchArgs) -> Result<()> {
    match args.what {
        Bench::Step(args) => step(&args),
        Bench::Kernels(args) => kernels(&args),
    }
}

fn step(args: &BenchStepArgs) -> Result<()> {
    let cases = step_cases(args)?;
    check_folder(&args.json)?;
    let tune = args.tune.map(Duration::from_secs_f64);
    let runs = StepRuns { warmup: args.warmup, steps: args.steps, profile: args.profile, tune };
    let mut rows = Vec::new();
    let mut failed = Ok(());
    for case in cases {
        match run_step(&case, runs, args.device.device.clone()) {
            Ok(report) => {
                tell_step(&case, &report, rows.is_empty());
                rows.push((case, report));
            }
            // what was measured until then may have taken long
            Err(error) => {
                failed = Err(error);
                break;
            }
        }
    }
    if let Some((_, first)) = rows.first() {
        let mut json = head(&first.caps);
        json["steps"] = args.steps.into();
        json["warmup"] = args.warmup.into();
        json["rows"] = rows.iter().map(|(case, report)| step_json(case, report)).collect();
        deliver(&args.json, || step_text(&rows), &json)?;
    }
    failed
}

fn tell_step(case: &StepCase, report: &StepReport, first: bool) {
    if first {
        tell(&format!("device: {} ({}, {})", report.caps.name, report.caps.api, report.caps.driver));
    }
    if report.precision != case.precision {
        tell("this device has no matrix units that can be used; products run in f32");
    }
    report.tuning.iter().for_each(|tuning| tell(&tuning.line()));
    let (name, rate) = (case.shape.name, report.tokens_per_second());
    tell(&format!("{name} {:?} {}: {rate:.0} tokens/s", case.adapter, case.weights));
}

/// Every combination of what is listed.
fn step_cases(args: &BenchStepArgs) -> Result<Vec<StepCase>> {
    let shapes = shapes(&args.shape)?;
    let tokens = args.batch_size.saturating_mul(args.seq_len);
    if tokens > MOST_TOKENS {
        let reason = format!(
            "{} of --seq-len {} are more than the {MOST_TOKENS} tokens of a step",
            args.batch_size, args.seq_len
        );
        return Err(Error::invalid("--batch-size", reason).as_usage());
    }
    let mut cases = Vec::new();
    for shape in shapes {
        for weights in &args.weights {
            for precision in &args.precision {
                let each = args.method.iter().flat_map(|m| args.checkpointing.iter().map(|c| (*m, *c)));
                cases.extend(each.map(|(adapter, checkpointing)| StepCase {
                    shape,
                    adapter,
                    weights: weights.dtype(),
                    precision: precision_of(*precision),
                    rank: args.lora_rank.filter(|_| adapter == Adapter::Lora).unwrap_or(args.rank),
                    density: args.density,
                    mask: args.mask,
                    batch_size: args.batch_size,
                    seq_len: args.seq_len,
                    checkpointing,
                }));
            }
        }
    }
    Ok(cases)
}

fn shapes(names: &[String]) -> Result<Vec<&'static Shape>> {
    names.iter().map(|name| Shape::named(name)).collect::<Result<_>>().map_err(Error::as_usage)
}

fn precision_of(option: PrecisionOption) -> Precision {
    match option {
        PrecisionOption::F32 => Precision::F32,
        PrecisionOption::F16 => Precision::F16,
    }
}

fn kernels(args: &BenchKernelsArgs) -> Result<()> {
    // names are checked before a device is opened
    let mut models = shapes(&args.shape)?;
    check_folder(&args.json)?;
    let device = kernels::open(args.device.device.clone())?;
    tell(&format!("device: {} ({}, {})", device.caps().name, device.caps().api, device.caps().driver));
    let software = device.caps().class == DeviceClass::Software;
    if models.is_empty() {
        let names: &[&str] = if software { &["smollm2-135m"] } else { &["smollm2-135m", "llama2-7b"] };
        models = names.iter().map(|name| Shape::named(name)).collect::<Result<_>>()?;
    }
    let case = KernelsCase {
        sizes: SpeedSizes {
            models: models.iter().map(|s| (s.name, s.config())).collect(),
            tokens: args.tokens.unwrap_or(if software { 256 } else { 4096 }),
            weights: args.weights.iter().map(|w| w.dtype()).collect(),
            rank: args.rank,
            density: args.density,
            squares: if software { vec![512, 1024] } else { vec![1024, 4096] },
            halves: false,
            original: !software,
        },
        precisions: args.precision.iter().map(|p| precision_of(*p)).collect(),
        filters: args.filter.clone(),
        repeats: args.repeats,
    };
    if args.plan {
        let rows = kernels::plans(&case, &device)?;
        return print(&rows.iter().map(PlanRow::to_string).collect::<String>());
    }
    let report =
        kernels::run(&case, &device, |row| tell(&format!("{} {}: {:.3} ms", row.op, row.what, row.seconds() * 1e3)))?;
    if case.precisions.contains(&Precision::F16) && report.ceilings.f16.is_none() {
        tell("this device has no matrix units that can be used; there are no rows for f16");
    }
    let mut json = head(&report.caps);
    kernels_json(&report, &mut json);
    deliver(&args.json, || kernels_text(&report), &json)
}

/// A file that is written at the end needs its folder from the start.
fn check_folder(to: &JsonArgs) -> Result<()> {
    let folder = to.json.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| std::fs::read_dir(folder).map(drop).map_err(Error::io(folder)))
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
