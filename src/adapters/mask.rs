//! Masks from gradients: each micro-batch's dense gradient of a frozen weight is scored as it streams by, and the
//! largest scores of each matrix become its mask. A dense gradient exists for one matrix at a time.
//!
//! A matrix takes a micro-batch's gradient whole or not at all, so that no entry weighs less than another. Where a large loss
//! scale makes some gradients overflow, the step is repeated at a smaller one, and each matrix takes what it has not yet.

use super::targets::Target;
use crate::autograd::ops::GradientSink;
use crate::csr::CsrPattern;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::reduce::sum_and_flag;
use crate::kernels::topk::{bitmask_to_flat, score_accumulate, topk_mask};
use crate::tensor::Tensor;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Scores of all targets while masks are collected.
pub struct MaskCollector {
    sinks: Vec<Arc<Sink>>,
    /// [`SLOT`] elements a target: sum and flag of the last gradient.
    sums: Tensor,
}

/// Elements between the sums of two targets: bindings start at multiples of 256 bytes.
const SLOT: usize = 64;

struct Sink {
    module: String,
    rows: usize,
    cols: usize,
    nnz: usize,
    squared: bool,
    /// `[rows, cols]` f32: the mean over the samples so far.
    score: Tensor,
    /// `[2]`: the sum of the last gradient, and 1 if it was not finite.
    sum: Tensor,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Gradients in the score.
    taken: u32,
    /// Gradients that were not finite at any scale.
    lost: u32,
    /// The factor of the gradient that is on its way.
    scale: f32,
    /// For each micro-batch of the step: whether its gradient is still wanted.
    wanted: Vec<bool>,
    /// The micro-batch that is on its way.
    batch: usize,
    /// It has arrived; whether it was finite, the device knows.
    arrived: bool,
}

/// Gradients that no scale made finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub matrices: usize,
    /// Of the matrix with the most.
    pub samples: u32,
}

impl MaskCollector {
    /// Room for the scores of `targets`, 4 bytes an entry. `squared`: the mean of squares, not of gradients.
    pub fn new(device: &Device, targets: &[Target], squared: bool) -> Result<MaskCollector> {
        let sums = Tensor::zeros(device, &[SLOT * targets.len().max(1)], "mask scores")?;
        let sink = |(i, t): (usize, &Target)| {
            let (rows, cols) = (t.module.out_features, t.module.in_features);
            Ok(Arc::new(Sink {
                module: t.module.name.clone(),
                rows,
                cols,
                nnz: t.nnz,
                squared,
                score: Tensor::zeros(device, &[rows, cols], "mask scores")?,
                sum: sums.view(SLOT * i, &[2])?,
                progress: Mutex::default(),
            }))
        };
        let sinks = targets.iter().enumerate().map(sink).collect::<Result<_>>()?;
        Ok(MaskCollector { sinks, sums })
    }

    /// Where target `index` sends its gradient.
    pub fn sink(&self, index: usize) -> Arc<dyn GradientSink> {
        self.sinks[index].clone()
    }

    /// A step of so many micro-batches begins: all of their gradients are wanted.
    pub fn begin_step(&self, micro_batches: usize) {
        // no gradient comes where no entry is to be chosen
        self.sinks.iter().for_each(|s| s.progress().wanted = vec![s.nnz > 0; micro_batches]);
    }

    /// Micro-batch `batch` of the step is next. `scale` turns its gradients into those of its mean loss: a sample of the
    /// paper is a micro-batch's mean, however the step is normalised.
    pub fn begin(&self, batch: usize, scale: f32) {
        for s in &self.sinks {
            let mut now = s.progress();
            (now.batch, now.scale, now.arrived) = (batch, scale, false);
        }
    }

    /// The micro-batch has passed: each matrix has taken its gradient, if that was finite. Waits for the device.
    ///
    /// # Errors
    /// Those of a read-back.
    pub fn end(&self) -> Result<()> {
        let sums: Vec<f32> = self.sums.read()?;
        for (s, sum) in self.sinks.iter().zip(sums.chunks_exact(SLOT)) {
            let mut now = s.progress();
            if std::mem::take(&mut now.arrived) && sum[1] == 0.0 {
                let batch = now.batch;
                now.wanted[batch] = false;
                now.taken += 1;
            }
        }
        Ok(())
    }

    /// Whether a gradient of the step is still wanted.
    pub fn is_short(&self) -> bool {
        self.sinks.iter().any(|s| s.progress().wanted.contains(&true))
    }

    /// The step is over; what was not taken is lost.
    pub fn end_step(&self) {
        for s in &self.sinks {
            let mut now = s.progress();
            now.lost += now.wanted.iter().map(|w| u32::from(*w)).sum::<u32>();
            now.wanted.clear();
        }
    }

    /// What was lost so far; none if every gradient was taken.
    pub fn lost(&self) -> Option<Lost> {
        let lost: Vec<u32> = self.sinks.iter().map(|s| s.progress().lost).filter(|lost| *lost > 0).collect();
        let samples = lost.iter().copied().max()?;
        Some(Lost { matrices: lost.len(), samples })
    }

    /// What has been gathered, by target: module, score `[rows, cols]`, gradients in it, gradients lost.
    pub fn scores(&self) -> impl Iterator<Item = (&str, &Tensor, [u32; 2])> {
        self.sinks.iter().map(|s| {
            let now = s.progress();
            (s.module.as_str(), &s.score, [now.taken, now.lost])
        })
    }

    /// Says how many gradients the score of target `index` holds and how many were lost, once it was written from outside.
    pub fn set_counts(&self, index: usize, [taken, lost]: [u32; 2]) {
        let mut now = self.sinks[index].progress();
        (now.taken, now.lost) = (taken, lost);
    }

    /// The masks: for each target its `nnz` largest scores, the lower index first where scores are equal. Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::NonFinite`] that names the module, if it took no gradient or a score is not a number.
    pub fn masks(&self) -> Result<BTreeMap<String, CsrPattern>> {
        self.sinks.iter().map(|s| Ok((s.module.clone(), s.mask()?))).collect()
    }
}

impl Sink {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // plain numbers: a panic elsewhere leaves them as they are
        self.progress.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn mask(&self) -> Result<CsrPattern> {
        if self.nnz > 0 && self.progress().taken == 0 {
            let reason = "its mask's scores are not finite: no micro-batch gave it a finite gradient";
            return Err(Error::NonFinite { what: self.module.clone(), reason: reason.into() });
        }
        let bits = topk_mask(&self.score, self.nnz, To::New("mask scores"))?.read(&self.module)?;
        CsrPattern::from_flat(self.rows, self.cols, &bitmask_to_flat(&bits))
    }
}

impl GradientSink for Sink {
    fn collect(&self, gradient: &Tensor) -> Result<()> {
        let mut now = self.progress();
        if !now.wanted.get(now.batch).is_some_and(|w| *w) {
            return Ok(());
        }
        now.arrived = true;
        sum_and_flag(gradient, &self.sum)?;
        score_accumulate(&self.score, gradient, &self.sum, now.taken, self.squared, now.scale)
    }
}
