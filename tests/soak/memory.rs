//! Memory stays as it is: a run of many steps takes no more than one of few. `make soak-memory` takes 2,000 of them.

use crate::common::tiny;
use rugosa::device::Device;
use rugosa::train::config::{PartialConfig, TrainConfig};
use rugosa::train::metrics::StepMetrics;
use rugosa::train::{Observer, Session};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Optimiser steps of the training phase.
fn steps() -> usize {
    std::env::var("RUGOSA_TEST_SOAK_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(160)
}

/// Rows of many lengths, so that no two steps are alike; warm-up, masks and training.
const RUN: &str = "schedule = 'wl4'\nbatch_size = 2\ngradient_accumulation_steps = 2\nseq_len = 64\npacking = false\nrank = 4\n\
                   density = 0.05\ndropout = 0.1\nlog_steps = 100000\n";

fn write(folder: &Path) -> std::path::PathBuf {
    tiny::write_model(folder);
    tiny::write_rows(folder, 60, 4, 60);
    let path = folder.join("run.toml");
    std::fs::write(&path, format!("{RUN}steps = {}\n", steps())).unwrap();
    path
}

/// Bytes in use and taken from the device behind each step.
#[derive(Default)]
struct Ledgers {
    device: Option<Device>,
    seen: Vec<(u64, u64)>,
}

impl Observer for Ledgers {
    fn note(&mut self, _: &str) {}
    fn begin(&mut self, _: u64, _: u64) {}

    fn opened(&mut self, device: &Device) {
        self.device = Some(device.clone());
    }

    fn step(&mut self, _: &StepMetrics) {
        let ledger = self.device.as_ref().unwrap().ledger();
        self.seen.push((ledger.in_use(), ledger.reserved()));
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// The largest of the second quarter, and of the last.
fn quarters<T: Ord + Copy>(all: &[T]) -> (T, T) {
    let n = all.len() / 4;
    let most = |part: &[T]| *part.iter().max().unwrap();
    (most(&all[n..2 * n]), most(&all[3 * n..]))
}

#[test]
fn the_devices_memory_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = PartialConfig::from_toml(&write(dir.path())).unwrap();
    let paths = PartialConfig {
        model: Some(dir.path().join("model")),
        data: Some(dir.path().join("rows.jsonl")),
        out: Some(dir.path().join("out")),
        ..PartialConfig::default()
    };
    let mut ledgers = Ledgers::default();
    let session = Session::prepare(TrainConfig::resolve(file, paths).unwrap(), &mut ledgers).unwrap();
    let outcome = session.run(&mut ledgers).unwrap().outcome;
    let training = &ledgers.seen[ledgers.seen.len() - steps()..];
    let (in_use, later) = quarters(&training.iter().map(|s| s.0).collect::<Vec<_>>());
    assert!(later <= in_use, "{in_use} bytes in use, later {later}");
    let most = training.iter().map(|s| s.1).max().unwrap();
    assert!(most * 4 <= outcome.plan.total * 5, "{most} bytes taken, {:?}", outcome.plan);
    assert!(outcome.seen.total <= outcome.plan.total, "{:?} and {:?}", outcome.seen, outcome.plan);
    println!("{} steps: {in_use} bytes in use, later {later}; at most {most} taken", steps());
}

/// Resident bytes of a process, where the system says so.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn the_hosts_memory_stays_as_it_is() {
    if resident(std::process::id()).is_none() {
        eprintln!("skipped: this system does not say how much memory a process has");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = write(dir.path());
    let out = dir.path().join("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_rugosa"))
        .arg("train")
        .args([Path::new("--config"), &config, Path::new("--model"), &dir.path().join("model")])
        .args([Path::new("--data"), &dir.path().join("rows.jsonl"), Path::new("--out"), &out])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // the memory at each step that was seen, by its number
    let mut seen: Vec<u64> = Vec::new();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        let lines = std::fs::read(out.join("metrics.jsonl")).map_or(0, |b| b.iter().filter(|b| **b == b'\n').count());
        if let (true, Some(bytes)) = (lines > 0, resident(child.id())) {
            seen.resize(lines.max(seen.len()), bytes);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success());
    let (before, later) = quarters(&seen);
    // what the allocator keeps moves by some pages; 2,000 steps would show 4 KiB that are lost in each
    assert!(later <= before + (8 << 20), "{before} bytes resident, later {later}");
    println!("{} steps: {before} bytes resident, later {later}", steps());
}
