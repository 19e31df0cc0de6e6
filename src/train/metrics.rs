//! `metrics.jsonl`: one JSON object an optimiser step, appended and flushed as the run goes.

use crate::error::{Error, Result};
use crate::io::disk::OutFile;
use crate::train::phase::Phase;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// What one optimiser step did. Floats are written so that they read back bit for bit; what is not finite is written as
/// `null`, for JSON has no word for it, and reads back as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimiser steps before this one since the start of the run, over all phases.
    pub step: u64,
    pub phase: Phase,
    /// Position in the learning-rate schedule; begins anew at a restart.
    pub schedule_step: u64,
    /// Mean over the step's window as `loss_normalisation` says, in nats a token, before the step's update.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Rate of this step: for all weights with method `full`, for the sparse values where they train, else for the low-rank
    /// matrices; 0 where nothing trains.
    pub lr: f64,
    /// Rate of this step for the low-rank matrices; only where they train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_lr: Option<f64>,
    /// Euclidean norm of the gradient of all that trains, before clipping.
    #[serde(deserialize_with = "or_nan")]
    pub grad_norm: f64,
    /// Tokens that the loss counts, of this step.
    pub supervised_tokens: u64,
    /// Tokens that went through the model in this step.
    pub tokens: u64,
    /// `tokens` over the step's wall time.
    #[serde(deserialize_with = "or_nan")]
    pub tokens_per_second: f64,
    /// Passes over the data since the last restart, with fraction.
    pub epoch: f64,
    /// The step changed nothing, because its loss or gradient was not finite. The next one has the next rows and the next
    /// rate of the schedule.
    pub skipped: bool,
}

fn or_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The open file.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: OutFile,
}

impl MetricsLog {
    /// An empty log at `path`; what was there is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Ok(MetricsLog { path: path.to_path_buf(), file: OutFile::create(path)? })
    }

    /// The log at `path` as it was before step `step`: later lines, and a line that a crash cut short, are removed.
    ///
    /// # Errors
    /// [`Error::Io`], also where there is no such file.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let mut file = OutFile::append(path)?;
        let mut reader = BufReader::new(file.file());
        let (mut keep, mut line) = (0u64, Vec::new());
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(Error::io(path))?;
            let whole = line.ends_with(b"\n");
            let earlier = serde_json::from_slice::<StepMetrics>(&line).is_ok_and(|m| m.step < step);
            if !(whole && earlier) {
                break;
            }
            keep += length as u64;
        }
        file.truncate(keep)?;
        Ok(MetricsLog { path: path.to_path_buf(), file })
    }

    /// Waits until the disk has every line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Writes one line and hands it to the operating system.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics).map_err(|e| Error::io(&self.path)(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            phase: Phase::Train,
            schedule_step: step,
            loss: 6.424_800_872_802_734,
            lr: 2e-4 / 3.0,
            lora_lr: Some(7e-4),
            grad_norm: f64::from(0.1f32),
            supervised_tokens: 30,
            tokens: 48,
            tokens_per_second: 1234.5,
            epoch: 0.1 + 0.2,
            skipped: false,
        }
    }

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_read_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::create(&path).unwrap();
        for step in 0..3 {
            log.append(&metrics(step)).unwrap();
            // seen by a reader while the run goes on
            assert_eq!(text(&path).lines().count() as u64, step + 1);
        }
        let read: Vec<StepMetrics> = text(&path).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(read, (0..3).map(metrics).collect::<Vec<_>>());
        assert!(text(&path).starts_with(r#"{"step":0,"phase":"train","schedule_step":0,"loss":6.424800872802734,"#));
        assert!(text(&path).contains(r#""grad_norm":0.10000000149011612,"#));
    }

    #[test]
    fn what_is_not_finite_becomes_null() {
        let m = StepMetrics { loss: f64::NAN, grad_norm: f64::INFINITY, skipped: true, ..metrics(0) };
        let line = serde_json::to_string(&m).unwrap();
        assert!(line.contains(r#""loss":null"#) && line.contains(r#""grad_norm":null"#), "{line}");
        let back: StepMetrics = serde_json::from_str(&line).unwrap();
        assert!(back.loss.is_nan() && back.grad_norm.is_nan() && back.skipped);
    }

    #[test]
    fn resuming_drops_later_lines_and_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::create(&path).unwrap();
        (0..5).for_each(|step| log.append(&metrics(step)).unwrap());
        let whole = text(&path);
        std::fs::write(&path, format!("{whole}{{\"step\":5,\"lo")).unwrap();
        drop(MetricsLog::resume(&path, 9).unwrap());
        assert_eq!(text(&path), whole);
        let mut log = MetricsLog::resume(&path, 2).unwrap();
        assert_eq!(text(&path).lines().count(), 2);
        (2..5).for_each(|step| log.append(&metrics(step)).unwrap());
        assert_eq!(text(&path), whole);
    }

    #[test]
    fn a_missing_log_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let err = MetricsLog::resume(&dir.path().join("none.jsonl"), 1).unwrap_err();
        assert!(matches!(&err, Error::Io { path, .. } if path.ends_with("none.jsonl")), "{err}");
    }
}
