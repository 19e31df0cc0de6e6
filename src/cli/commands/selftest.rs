//! `rugosa selftest`: the case table on the device at hand.

use super::print;
use crate::cases::{Level, Outcome, Row, launches, table};
use crate::cli::args::SelftestArgs;
use crate::cli::signal;
use crate::device::{Caps, Device, DeviceClass, DeviceOptions, Feature, Precision};
use crate::error::{Error, Result};
use crate::kernels::{KERNELS, precision};
use serde_json::json;
use std::fmt::Write;
use std::time::{Duration, Instant};

pub fn run(args: &SelftestArgs) -> Result<()> {
    signal::install(None)?;
    let device = Device::open(&DeviceOptions::from_env(args.device.device.clone()))?;
    let level = if args.quick { Level::Quick } else { Level::Full };
    let report = check(&device, level, args.limit.map(Duration::from_secs))?;
    print(&if args.json { report.json() } else { report.text() })?;
    report.verdict()
}

/// Runs the rows of `level`, and those below it, for as long as `limit` lets it.
pub(super) fn check(device: &Device, level: Level, limit: Option<Duration>) -> Result<Report<'_>> {
    let start = Instant::now();
    let (mut done, mut not_run) = (Vec::new(), 0);
    let mut run_all = |rows: Vec<Row>| {
        compile_ahead(device, &rows);
        for row in rows {
            if signal::interrupted() {
                return Err(Error::Interrupted);
            }
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                not_run += 1;
                continue;
            }
            let outcome = row.run(device)?;
            done.push((row, outcome));
        }
        Ok(())
    };
    run_all(table().into_iter().filter(|r| r.level <= level).collect())?;
    // products once more on matrix units, where there are some
    if precision::enable(device)? == Precision::F16 {
        let on_units = |r: &Row| r.kernels.iter().any(|k| k.needs.contains(&Feature::CoopMatrix));
        run_all(table().into_iter().filter(|r| r.level <= level && on_units(r)).collect())?;
    }
    Ok(Report { caps: device.caps(), done, not_run, seconds: start.elapsed().as_secs_f64() })
}

/// Compiles what `rows` launch on all cores, where drivers take long for it. Software renderers compile at the first launch
/// whatever is done here.
fn compile_ahead(device: &Device, rows: &[Row]) {
    if device.caps().class != DeviceClass::Software {
        // a kernel that the driver refuses is a fault of its rows
        let _ = device.prepare(&launches(device, rows), &|| !signal::interrupted());
    }
}

/// What came out of the rows.
pub(super) struct Report<'a> {
    caps: &'a Caps,
    done: Vec<(Row, Outcome)>,
    /// Cases for which there was no time.
    not_run: usize,
    seconds: f64,
}

/// A kernel's line.
struct Line {
    kernel: &'static str,
    cases: usize,
    elements: usize,
    worst: f64,
    failed: usize,
}

impl Report<'_> {
    fn failed(&self) -> impl Iterator<Item = (&Row, &Outcome, &str)> {
        self.done.iter().filter_map(|(row, outcome)| Some((row, outcome, outcome.fault.as_deref()?)))
    }

    /// Cases that were run, those of them that failed, and seconds.
    pub(super) fn counts(&self) -> (usize, usize, f64) {
        (self.done.len(), self.failed().count(), self.seconds)
    }

    /// Kernel by kernel; a case counts for each kernel that it launched.
    fn lines(&self) -> Vec<Line> {
        let line = |kernel: &'static str| {
            let mine = || self.done.iter().filter(move |(_, o)| o.launched.contains(kernel)).map(|d| &d.1);
            Line {
                kernel,
                cases: mine().count(),
                elements: mine().map(|o| o.elements).sum(),
                worst: mine().fold(0.0, |w, o| w.max(o.worst)),
                failed: mine().filter(|o| o.fault.is_some()).count(),
            }
        };
        KERNELS.iter().map(|k| line(k.name)).collect()
    }

    fn text(&self) -> String {
        let mut out = format!("{} · {} · {}\n\n", self.caps.name, self.caps.api, self.caps.driver);
        // writing to a String cannot fail
        let _ = writeln!(out, "{:<24}{:>6}{:>12}{:>14}  result", "kernel", "cases", "elements", "error/bound");
        let (used, unused): (Vec<Line>, Vec<Line>) = self.lines().into_iter().partition(|l| l.cases > 0);
        for l in &used {
            let result = if l.failed == 0 { "pass".into() } else { format!("FAIL ({} of {})", l.failed, l.cases) };
            let _ = writeln!(out, "{:<24}{:>6}{:>12}{:>14.3}  {result}", l.kernel, l.cases, l.elements, l.worst);
        }
        if !unused.is_empty() {
            let names: Vec<&str> = unused.iter().map(|l| l.kernel).collect();
            let _ = writeln!(out, "\nnot used on this device: {}", names.join(", "));
        }
        for (row, outcome, fault) in self.failed() {
            let _ = writeln!(out, "\nFAIL {}: {} {}\n  {fault}", row.suspects(outcome), row.op, row.what);
            let _ = writeln!(out, "  the bound: {}", row.why);
        }
        let failed = self.failed().count();
        let left = if self.not_run > 0 { format!(", {} not run in time", self.not_run) } else { String::new() };
        let passed = self.done.len() - failed;
        let _ = writeln!(out, "\n{passed} passed, {failed} failed{left} in {:.1} s", self.seconds);
        out
    }

    fn json(&self) -> String {
        // infinity is no number of JSON's
        let ratio = |worst: f64| if worst.is_finite() { json!(worst) } else { json!(null) };
        let kernels: Vec<_> = (self.lines().iter())
            .map(|l| {
                json!({
                    "kernel": l.kernel, "cases": l.cases, "elements": l.elements,
                    "worst_error_over_bound": ratio(l.worst), "failed": l.failed,
                })
            })
            .collect();
        let cases: Vec<_> = (self.done.iter())
            .map(|(row, o)| {
                json!({
                    "operation": row.op, "case": row.what, "kernels": o.launched, "elements": o.elements,
                    "error_over_bound": ratio(o.worst), "fault": o.fault, "bound": row.why,
                })
            })
            .collect();
        let failed = self.failed().count();
        let report = json!({
            "device": self.caps.name, "api": self.caps.api, "driver": self.caps.driver,
            "passed": self.done.len() - failed, "failed": failed, "not_run": self.not_run, "seconds": self.seconds,
            "kernels": kernels, "cases": cases,
        });
        format!("{report:#}\n")
    }

    /// The first failure as an error.
    pub(super) fn verdict(&self) -> Result<()> {
        let Some((row, outcome, fault)) = self.failed().next() else { return Ok(()) };
        let more = match self.failed().count() {
            1 => String::new(),
            n => format!("; {n} cases fail"),
        };
        let name = row.suspects(outcome);
        Err(Error::Kernel {
            name,
            reason: format!("{} computes wrongly: {} {}: {fault}{more}", self.caps.name, row.op, row.what),
        })
    }
}
