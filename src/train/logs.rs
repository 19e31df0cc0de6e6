//! The files that a run adds lines to as it goes.

use super::evaluation::Sample;
use super::events::EventFile;
use super::metrics::{EvalMetrics, MetricsLog, StepMetrics, cut_behind};
use super::output::{METRICS_FILE, SAMPLES_FILE};
use crate::error::{Error, Result};
use crate::io::disk::OutFile;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// The open files.
pub struct Logs {
    metrics: MetricsLog,
    samples: Option<OutFile>,
    events: Option<EventFile>,
}

/// Which files there are beside the metrics.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub samples: bool,
    /// For TensorBoard.
    pub events: bool,
}

/// A line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleLine {
    /// Optimiser steps before it since the start of the run, over all phases.
    pub after: u64,
    #[serde(flatten)]
    pub sample: Sample,
}

impl Logs {
    /// Those of a run that begins in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, wanted: Wanted) -> Result<Logs> {
        let samples = folder.join(SAMPLES_FILE);
        Ok(Logs {
            metrics: MetricsLog::create(&folder.join(METRICS_FILE))?,
            samples: wanted.samples.then(|| OutFile::create(&samples)).transpose()?,
            events: wanted.events.then(|| EventFile::create(folder, 0)).transpose()?,
        })
    }

    /// Those of a run that goes on before step `step`, and has evaluated behind `evaluated` steps: what came later is removed.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where metrics are missing.
    pub fn resume(folder: &Path, wanted: Wanted, step: u64, evaluated: Option<u64>) -> Result<Logs> {
        let metrics = MetricsLog::resume(&folder.join(METRICS_FILE), step, evaluated)?;
        let path = folder.join(SAMPLES_FILE);
        let is_earlier = |line: &[u8]| {
            serde_json::from_slice::<SampleLine>(line).is_ok_and(|l| evaluated.is_some_and(|last| l.after <= last))
        };
        let samples = match (wanted.samples, path.exists()) {
            (false, _) => None,
            (true, true) => Some(cut_behind(&path, is_earlier)?),
            (true, false) => Some(OutFile::create(&path)?),
        };
        let events = wanted.events.then(|| EventFile::create(folder, step + 1)).transpose()?;
        Ok(Logs { metrics, samples, events })
    }

    /// A step is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.metrics.append(metrics)?;
        self.events.as_mut().map_or(Ok(()), |events| events.step(metrics))
    }

    /// An evaluation is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn evaluation(&mut self, metrics: &EvalMetrics, samples: &[Sample]) -> Result<()> {
        self.metrics.append(metrics)?;
        if let Some(file) = &mut self.samples {
            let mut text = Vec::new();
            for sample in samples {
                let line = SampleLine { after: metrics.after, sample: sample.clone() };
                text.extend(serde_json::to_vec(&line).map_err(|e| Error::io(SAMPLES_FILE)(e.into()))?);
                text.push(b'\n');
            }
            file.write_all(&text).map_err(Error::io(SAMPLES_FILE))?;
        }
        self.events.as_mut().map_or(Ok(()), |events| events.evaluation(metrics))
    }

    /// Waits until the disk has every line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        self.metrics.sync()?;
        self.samples.as_ref().map_or(Ok(()), OutFile::sync)
    }
}
