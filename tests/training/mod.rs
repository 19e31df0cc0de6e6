//! Runs of a few steps on a tiny model, through the library.

mod bf16;
mod collect;
mod evaluation;
mod examples;
mod groups;
mod halves;
mod in_weight;
mod init_adapter;
mod length;
mod lost;
mod non_finite;
mod plan;
mod proof;
mod ranks;
mod resume;
mod session;
mod sharded;
mod tune;
mod warm;

use crate::common::tiny;
use rugosa::train::Observer;
use rugosa::train::config::{PartialConfig, TrainConfig};
use rugosa::train::metrics::StepMetrics;
use rugosa::train::warm::Compiled;
use std::path::Path;

/// The configuration in `text`, for the tiny model and rows in `folder`, with the run in `folder/out`.
fn config(folder: &Path, out: &str, text: &str) -> TrainConfig {
    let path = folder.join(format!("{out}.toml"));
    std::fs::write(&path, text).unwrap();
    let paths = PartialConfig {
        model: Some(folder.join("model")),
        data: Some(folder.join("rows.jsonl")),
        out: Some(folder.join(out)),
        ..PartialConfig::default()
    };
    TrainConfig::resolve(PartialConfig::from_toml(&path).unwrap(), paths).unwrap()
}

/// Counts steps, and interrupts once it has been asked before step `stop_at` (from 0).
#[derive(Default)]
struct Watcher {
    stop_at: Option<u64>,
    done: u64,
    asked: std::cell::Cell<u64>,
    seen: Vec<u64>,
    notes: Vec<String>,
    compiled: Vec<Compiled>,
}

impl Observer for Watcher {
    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }

    fn begin(&mut self, _steps: u64, done: u64) {
        self.done = done;
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.seen.push(metrics.step);
    }

    fn compiled(&mut self, at: Compiled) {
        self.compiled.push(at);
    }

    fn interrupted(&self) -> bool {
        let next = self.done + self.asked.get();
        self.asked.set(self.asked.get() + 1);
        self.stop_at == Some(next)
    }
}
