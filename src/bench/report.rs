//! What was measured, as a table and as JSON.

use super::Spread;
use super::kernels::KernelsReport;
use super::profile::{Profile, ProfileRow};
use super::step::{StepCase, StepReport};
use crate::device::{Caps, Precision};
use crate::train::config::Checkpointing;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

/// Lines of cells in columns as wide as their widest cell; the first `left` columns are flush left.
pub fn columns(rows: &[Vec<String>], left: usize) -> String {
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let padded = row.iter().zip(&widths).enumerate().map(|(c, (cell, &w))| match c < left {
            true => format!("{cell:<w$}"),
            false => format!("{cell:>w$}"),
        });
        let _ = writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end()); // writing to a String cannot fail
    }
    out
}

/// A rate with three digits that count.
fn digits(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x if x >= 1.0 => format!("{x:.2}"),
        x if x >= 0.1 => format!("{x:.3}"),
        x => format!("{x:.4}"),
    }
}

/// What holds for a whole run of the program: what it ran on, as what, and how it was called.
pub fn head(caps: &Caps) -> Value {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    json!({
        "device": caps.name,
        "driver": caps.driver,
        "api": caps.api,
        "version": env!("CARGO_PKG_VERSION"),
        "commit": commit(),
        "command": format!("rugosa {}", arguments.join(" ")),
    })
}

/// The commit that the program was built from: as the build says in `RUGOSA_COMMIT`, or that of the checkout that the
/// program lies in.
fn commit() -> Option<String> {
    if let Some(commit) = option_env!("RUGOSA_COMMIT").filter(|c| !c.is_empty()) {
        return Some(commit.to_owned());
    }
    let program = std::env::current_exe().ok()?;
    let checkout =
        program.ancestors().find(|folder| folder.join("Cargo.toml").exists() && folder.join(".git").exists())?;
    let git = Command::new("git").arg("-C").arg(checkout).args(["rev-parse", "--short=10", "HEAD"]).output().ok()?;
    Some(String::from_utf8(git.stdout).ok()?.trim().to_owned()).filter(|c| !c.is_empty())
}

fn ms(s: Spread) -> Value {
    json!({ "median": s.median * 1e3, "min": s.min * 1e3, "max": s.max * 1e3 })
}

fn precision(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::F16 => "f16",
    }
}

/// A choice as the command line spells it.
fn name(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// A row of `rugosa bench step` as JSON. Times in milliseconds, sizes in bytes.
pub fn step_json(case: &StepCase, r: &StepReport) -> Value {
    let c = r.counted;
    json!({
        "shape": case.shape.name,
        "method": name(case.adapter),
        "weights": case.weights.to_string(),
        "precision": precision(r.precision),
        "batch_size": case.batch_size,
        "seq_len": case.seq_len,
        "rank": case.rank,
        "density": case.density,
        "mask": name(case.mask),
        "checkpointing": case.checkpointing.to_string(),
        "parameters": r.parameters,
        "tokens_per_second": r.tokens_per_second(),
        "tokens_per_second_streamed": r.tokens as f64 / r.streamed.max(1e-12),
        "step_ms": ms(r.step),
        "forward_ms": ms(r.forward),
        "backward_ms": ms(r.backward),
        "update_ms": ms(r.update),
        "record_ms": ms(r.record),
        "record_dry_ms": ms(r.record_dry),
        "per_step": {
            "launches": c.launches,
            "submissions": c.submissions,
            "pipelines": c.pipelines,
            "bind_groups": c.bind_groups,
            "allocations": c.allocations,
            "readbacks": c.readbacks,
        },
        "peak_bytes": r.peak,
        "peak_reserved_bytes": r.reserved,
        "run_peak_bytes": r.run_peak(),
        "collection": r.collection.map(|c| json!({
            "groups": c.groups,
            "peak_bytes": c.peak,
            "step_ms": c.step.map(|s| s * 1e3),
        })),
        "open_seconds": r.open,
        "build_seconds": r.build,
        "kernels": r.compilation.kernels,
        "compile_seconds": r.compilation.seconds,
        "compile_waited_seconds": r.compilation.waited,
        "first_step_seconds": r.first_step,
        "late_kernels": r.late_kernels,
        "measured_tiles": r.tiles,
        "seconds_to_first_step": r.to_first_step(),
        "first_loss": r.losses.0,
        "last_loss": r.losses.1,
        "profile": r.profile.as_ref().map(Profile::json),
    })
}

/// Rows of `rugosa bench step` as two tables, and the profiles behind them.
pub fn step_text(rows: &[(StepCase, StepReport)]) -> String {
    let title = |case: &StepCase, r: &StepReport| {
        let checkpointing = match case.checkpointing {
            Checkpointing::OFF => String::new(),
            other => format!(" ckpt {other}"),
        };
        vec![
            case.shape.name.to_owned(),
            name(case.adapter),
            format!("{} {}", case.weights, precision(r.precision)),
            format!("{} x {}{checkpointing}", case.batch_size, case.seq_len),
        ]
    };
    let heads = |more: &[&str]| -> Vec<String> {
        ["shape", "method", "weights", "batch"].iter().chain(more).map(|s| (*s).to_owned()).collect()
    };
    let mut speeds = vec![heads(&[
        "parameters",
        "tokens/s",
        "streamed",
        "ms/step",
        "min",
        "max",
        "forward",
        "backward",
        "update",
        "to 1st step",
        "loss",
    ])];
    let mut counts =
        vec![heads(&["launches", "submissions", "pipelines", "bind groups", "allocations", "peak", "reserved"])];
    let mut runs = vec![heads(&["peak", "groups", "ms/group"])];
    for (case, r) in rows {
        let ms = |s: f64| format!("{:.2}", s * 1e3);
        let rate = |seconds: f64| format!("{:.0}", r.tokens as f64 / seconds.max(1e-12));
        let mut row = title(case, r);
        row.extend([r.parameters.to_string(), rate(r.step.median), rate(r.streamed)]);
        row.extend([r.step.median, r.step.min, r.step.max].map(ms));
        row.extend([r.forward.median, r.backward.median, r.update.median].map(ms));
        row.extend([format!("{:.2} s", r.to_first_step()), format!("{:.3} -> {:.3}", r.losses.0, r.losses.1)]);
        speeds.push(row);
        let c = r.counted;
        let mut row = title(case, r);
        row.extend([c.launches, c.submissions, c.pipelines, c.bind_groups, c.allocations].map(|n| format!("{n:.1}")));
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
        row.extend([r.peak, r.reserved].map(gib));
        counts.push(row);
        let mut row = title(case, r);
        let (groups, step) = r.collection.map_or((0, None), |c| (c.groups, c.step));
        row.extend([gib(r.run_peak()), groups.to_string(), step.map_or("-".to_owned(), ms)]);
        runs.push(row);
    }
    let mut starts = vec![heads(&["open", "build", "compile", "1st step", "record", "record dry"])];
    for (case, r) in rows {
        let mut row = title(case, r);
        let seconds = [r.open, r.build, r.compilation.waited, r.first_step];
        row.extend(seconds.map(|s| format!("{s:.2} s")));
        row.extend([r.record.median, r.record_dry.median].map(|s| format!("{:.2} ms", s * 1e3)));
        starts.push(row);
    }
    let mut out = columns(&speeds, 4);
    out += "\nup to the first step (compile: beside build), and the CPU's part of a step (dry: above the API):\n";
    out += &columns(&starts, 4);
    out += "\na step, and on the device at most:\n";
    out += &columns(&counts, 4);
    out += "\na whole run at most (planned), and its collecting steps, run once for each group of modules:\n";
    out += &columns(&runs, 4);
    for (case, r) in rows {
        if let Some(profile) = &r.profile {
            let _ = write!(out, "\n{}: {:.2} ms a step in kernels\n", title(case, r).join(", "), profile.ms);
            out += &profile_text(profile);
        }
    }
    out
}

/// By kernel; below each the launches that do the same work, where there are several kinds and they count.
fn profile_text(profile: &Profile) -> String {
    let cells = |name: String, r: &ProfileRow| {
        let share = format!("{:.1} %", r.share * 100.0);
        let rates = [digits(r.flops / 1e12), digits(r.bytes / 1e9)];
        [vec![name, r.launches.to_string(), format!("{:.3}", r.ms), share], rates.to_vec()].concat()
    };
    let each = |l: &ProfileRow| format!("  {:.3} GFLOP {:.2} MB", l.each.flops / 1e9, l.each.bytes / 1e6);
    let mut rows = vec![["kernel", "launches", "ms/step", "share", "TFLOP/s", "GB/s"].map(str::to_owned).to_vec()];
    for kernel in &profile.kernels {
        rows.push(cells(kernel.kernel.to_owned(), kernel));
        let kinds: Vec<_> = profile.launches.iter().filter(|l| l.kernel == kernel.kernel).collect();
        if kinds.len() > 1 {
            rows.extend(kinds.iter().filter(|l| l.share >= 0.01).map(|l| cells(each(l), l)));
        }
    }
    columns(&rows, 1)
}

/// Puts the rows of `rugosa bench kernels` and the device's ceilings into `json`.
pub fn kernels_json(report: &KernelsReport, json: &mut Value) {
    let c = &report.ceilings;
    json["ceilings"] = json!({
        "copy_gb_per_second": c.copy / 1e9,
        "product_f32_tflops": c.f32 / 1e12,
        "product_f16_tflops": c.f16.map(|f| f / 1e12),
        "products_tflops": c.products.iter().map(|(name, f)| (name.clone(), f / 1e12)).collect::<BTreeMap<_, _>>(),
    });
    let rows = report.rows.iter().map(|r| {
        let seconds = r.seconds();
        json!({
            "op": r.op,
            "what": r.what,
            "precision": precision(r.precision),
            "device_ms": r.device.map(ms),
            "wall_ms": ms(r.wall),
            "first_ms": r.first * 1e3,
            "tflops": r.floor.flops / seconds / 1e12,
            "gb_per_second": r.floor.bytes / seconds / 1e9,
            "floor_ms": r.floor_seconds * 1e3,
            "of_floor": r.of_floor(),
            "working_set_bytes": r.floor.bytes,
            "kernels": r.kernels,
            "baseline": r.baseline.as_ref().map(|(what, times)| json!({ "what": what, "times_as_long": times })),
        })
    });
    json["rows"] = rows.collect();
}

/// Operands of fewer bytes may have stayed in a cache from run to run.
const CACHED: f64 = 64e6;

/// Rows of `rugosa bench kernels` as a table.
pub fn kernels_text(report: &KernelsReport) -> String {
    let c = &report.ceilings;
    let f16 = c.f16.map_or(String::new(), |f| format!(", {} TFLOP/s in f16", digits(f / 1e12)));
    let mut out = format!(
        "ceilings seen here: copy {} GB/s, product {} TFLOP/s in f32{f16}\n",
        digits(c.copy / 1e9),
        digits(c.f32 / 1e12)
    );
    let products = c.products.iter().map(|(name, f)| format!("{name} {}", digits(f / 1e12)));
    out += &format!("TFLOP/s by operands: {}\n\n", products.collect::<Vec<_>>().join(", "));
    let heads =
        ["operation", "shape", "products", "device ms", "wall ms", "TFLOP/s", "GB/s", "floor ms", "of floor", "plain"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for r in &report.rows {
        let seconds = r.seconds();
        let mark = if r.floor.bytes < CACHED { "*" } else { "" };
        rows.push(vec![
            r.op.to_owned(),
            r.what.clone(),
            precision(r.precision).to_owned(),
            r.device.map_or("-".to_owned(), |d| format!("{:.4}", d.median * 1e3)),
            format!("{:.4}", r.wall.median * 1e3),
            digits(r.floor.flops / seconds / 1e12),
            digits(r.floor.bytes / seconds / 1e9) + mark,
            format!("{:.4}", r.floor_seconds * 1e3),
            format!("{:.1} %", r.of_floor() * 100.0),
            r.baseline.as_ref().map_or(String::new(), |(_, times)| format!("x {times:.3}")),
        ]);
    }
    out += &columns(&rows, 3);
    out + "\n* operands of under 64 MB, which may have stayed in a cache; plain: times the row without S\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a", "1"], vec!["long", "100"]].map(|r| r.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(columns(&rows, 1), "a       1\nlong  100\n");
    }
}
