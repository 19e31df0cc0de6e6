//! Masks from gradients: each micro-batch's dense gradient of a frozen weight is scored as it streams by, and the
//! largest scores of each matrix become its mask. A dense gradient exists for one matrix at a time.

use super::targets::Target;
use crate::autograd::ops::GradientSink;
use crate::csr::CsrPattern;
use crate::device::Device;
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::topk::{bitmask_to_flat, score_accumulate, topk_mask};
use crate::tensor::Tensor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Scores of all targets while masks are collected.
pub struct MaskCollector {
    sinks: Vec<Arc<Sink>>,
    scale: Arc<AtomicU32>,
}

struct Sink {
    module: String,
    rows: usize,
    cols: usize,
    nnz: usize,
    squared: bool,
    /// `[rows, cols]` f32: the mean over the samples so far.
    score: Tensor,
    samples: AtomicU32,
    /// Bits of the f32 factor of the gradients that are on their way.
    scale: Arc<AtomicU32>,
}

impl MaskCollector {
    /// Room for the scores of `targets`, 4 bytes an entry. `squared`: the mean of squares, not of gradients.
    pub fn new(device: &Device, targets: &[Target], squared: bool) -> Result<MaskCollector> {
        let scale = Arc::new(AtomicU32::new(1f32.to_bits()));
        let sinks = targets
            .iter()
            .map(|t| {
                let (rows, cols) = (t.module.out_features, t.module.in_features);
                Ok(Arc::new(Sink {
                    module: t.module.name.clone(),
                    rows,
                    cols,
                    nnz: t.nnz,
                    squared,
                    score: Tensor::zeros(device, &[rows, cols], "mask scores")?,
                    samples: AtomicU32::new(0),
                    scale: scale.clone(),
                }))
            })
            .collect::<Result<_>>()?;
        Ok(MaskCollector { sinks, scale })
    }

    /// Where target `index` sends its gradient.
    pub fn sink(&self, index: usize) -> Arc<dyn GradientSink> {
        self.sinks[index].clone()
    }

    /// The factor that turns the gradients of the micro-batch on its way into those of its mean loss: a sample of the
    /// paper is a micro-batch's mean, however the step is normalised.
    pub fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }

    /// What has been gathered, by target: module, score `[rows, cols]`, samples in it.
    pub fn scores(&self) -> impl Iterator<Item = (&str, &Tensor, u32)> {
        self.sinks.iter().map(|s| (s.module.as_str(), &s.score, s.samples.load(Ordering::Relaxed)))
    }

    /// Says how many samples the scores of target `index` hold, once they were written from outside.
    pub fn set_samples(&self, index: usize, samples: u32) {
        self.sinks[index].samples.store(samples, Ordering::Relaxed);
    }

    /// The masks: for each target its `nnz` largest scores, the lower index first where scores are equal. Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::NonFinite`] that names the module, if a score is not a number.
    pub fn masks(&self) -> Result<BTreeMap<String, CsrPattern>> {
        self.sinks.iter().map(|s| Ok((s.module.clone(), s.mask()?))).collect()
    }
}

impl Sink {
    fn mask(&self) -> Result<CsrPattern> {
        let bits = topk_mask(&self.score, self.nnz, To::New("mask scores"))?.read(&self.module)?;
        CsrPattern::from_flat(self.rows, self.cols, &bitmask_to_flat(&bits))
    }
}

impl GradientSink for Sink {
    fn collect(&self, gradient: &Tensor) -> Result<()> {
        let seen = self.samples.fetch_add(1, Ordering::Relaxed);
        let scale = f32::from_bits(self.scale.load(Ordering::Relaxed));
        score_accumulate(&self.score, gradient, seen, self.squared, scale)
    }
}
