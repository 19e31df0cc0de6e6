//! `metrics.jsonl`: one JSON object an optimiser step, and one an evaluation, appended and flushed as the run goes.

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

/// What an evaluation found. Its line begins with `"after"`, that of a step with `"step"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalMetrics {
    /// Optimiser steps before it since the start of the run, over all phases.
    pub after: u64,
    /// Of the last of these steps.
    pub phase: Phase,
    /// Mean negative log-likelihood of the supervised tokens of the evaluation rows, in nats; null where it is not finite, or
    /// where there are no rows.
    pub eval_loss: Option<f64>,
    pub eval_tokens: u64,
    /// Share of the answers that are given word for word, where some are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answers: u64,
    /// The lowest loss of the training phase so far.
    pub best: bool,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Step(StepMetrics),
    Eval(EvalMetrics),
}

impl Line {
    /// The line in `text`; none where it is torn, or something else.
    pub fn parse(text: &[u8]) -> Option<Line> {
        match serde_json::from_slice(text) {
            Ok(step) => Some(Line::Step(step)),
            Err(_) => serde_json::from_slice(text).ok().map(Line::Eval),
        }
    }
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

    /// The log at `path` as it was before step `step`, when the last evaluation was that behind `evaluated` steps: later lines, and a
    /// line that a crash cut short, are removed.
    ///
    /// # Errors
    /// [`Error::Io`], also where there is no such file; [`Error::File`] where not every step before is in it.
    pub fn resume(path: &Path, step: u64, evaluated: Option<u64>) -> Result<Self> {
        let mut next = 0;
        let file = cut_behind(path, |line| match Line::parse(line) {
            Some(Line::Step(m)) if m.step == next && next < step => {
                next += 1;
                true
            }
            Some(Line::Eval(m)) => m.after == next && Some(m.after) <= evaluated,
            _ => false,
        });
        if next < step && file.is_ok() {
            let reason = format!(
                "the line of step {next} is missing, and the state to go on from is that of before step {step}: the file was \
                 changed; put it back, or start another run in another ⟨out⟩"
            );
            return Err(Error::file(path, "lines", reason));
        }
        Ok(MetricsLog { path: path.to_path_buf(), file: file? })
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
    pub fn append(&mut self, metrics: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(metrics).map_err(|e| Error::io(&self.path)(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))
    }
}

/// The lines of the file at `path` up to the first that is torn or that `keep` refuses, open to be written on.
///
/// # Errors
/// [`Error::Io`].
pub fn cut_behind(path: &Path, mut keep: impl FnMut(&[u8]) -> bool) -> Result<OutFile> {
    let mut file = OutFile::append(path)?;
    let mut reader = BufReader::new(file.file());
    let (mut kept, mut line) = (0u64, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(Error::io(path))?;
        if !(line.ends_with(b"\n") && keep(&line)) {
            break;
        }
        kept += length as u64;
    }
    file.truncate(kept)?;
    Ok(file)
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
        drop(MetricsLog::resume(&path, 5, None).unwrap());
        assert_eq!(text(&path), whole);
        let mut log = MetricsLog::resume(&path, 2, None).unwrap();
        assert_eq!(text(&path).lines().count(), 2);
        (2..5).for_each(|step| log.append(&metrics(step)).unwrap());
        assert_eq!(text(&path), whole);
    }

    #[test]
    fn a_step_that_is_missing_is_named_and_the_file_is_cut_no_further_than_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::create(&path).unwrap();
        [0, 1, 3, 4].into_iter().for_each(|step| log.append(&metrics(step)).unwrap());
        let error = MetricsLog::resume(&path, 5, None).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: lines: the line of step 2 is missing"), "{error}");
        assert!(MetricsLog::resume(&path, 2, None).is_ok());
        assert!(MetricsLog::resume(&path, 3, None).unwrap_err().to_string().contains("step 2 is missing"));
    }

    #[test]
    fn an_evaluation_stays_with_the_steps_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let eval = |after: u64| EvalMetrics {
            after,
            phase: Phase::Train,
            eval_loss: Some(2.5),
            eval_tokens: 7,
            exact_match: None,
            answers: 0,
            best: after > 0,
        };
        let mut log = MetricsLog::create(&path).unwrap();
        log.append(&eval(0)).unwrap();
        for step in 0..4 {
            log.append(&metrics(step)).unwrap();
            if step % 2 == 1 {
                log.append(&eval(step + 1)).unwrap();
            }
        }
        let read: Vec<Line> = text(&path).lines().map(|l| Line::parse(l.as_bytes()).unwrap()).collect();
        assert!(matches!((&read[0], &read[1]), (Line::Eval(e), Line::Step(_)) if *e == eval(0)));
        let kept = |(step, evaluated): (u64, Option<u64>)| {
            let whole = text(&path);
            drop(MetricsLog::resume(&path, step, evaluated).unwrap());
            let kept = text(&path).lines().count();
            std::fs::write(&path, whole).unwrap();
            kept
        };
        let states = [
            (4, Some(4)),
            (4, Some(2)),
            (3, Some(2)),
            (2, Some(2)),
            (2, Some(0)),
            (1, Some(0)),
            (0, Some(0)),
            (0, None),
        ];
        assert_eq!(
            states.map(kept),
            [7, 6, 5, 4, 3, 2, 1, 0],
            "an evaluation that the state does not know comes again"
        );
    }

    #[test]
    fn a_missing_log_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let err = MetricsLog::resume(&dir.path().join("none.jsonl"), 1, None).unwrap_err();
        assert!(matches!(&err, Error::Io { path, .. } if path.ends_with("none.jsonl")), "{err}");
    }
}
