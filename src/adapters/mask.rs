//! Masks from gradients: each micro-batch's dense gradient of a frozen weight is scored as it streams by, and the
//! largest scores of each matrix become its mask. A dense gradient exists for one matrix at a time.
//!
//! A matrix takes a micro-batch's gradient whole or not at all, so that no entry weighs less than another. Where a large loss
//! scale makes some gradients overflow, the step is repeated at a smaller one, and each matrix takes what it has not yet.
//!
//! The scores of all matrices take as much memory as their weights do in f32. So [`score_groups`] divides the targets into
//! groups whose scores fit into a workspace, and the same steps are run once for each group. A matrix's score depends on
//! its own gradients alone, so masks do not depend on the groups.

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
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Scores of a group of targets while masks are collected.
pub struct MaskCollector {
    /// One for each target: of those outside of the group too.
    sinks: Vec<Arc<Sink>>,
    /// Whether gradients of targets outside of the group are looked at.
    watches: bool,
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
    /// `[rows, cols]` f32: the mean over the samples so far. None outside of the group.
    score: Option<Tensor>,
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

/// Which gradients a [`MaskCollector`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The targets that are scored, by index.
    pub scored: Range<usize>,
    /// Whether the others' gradients are made too, and looked at: a step is then repeated at a smaller loss scale until all
    /// are finite, as if all were scored.
    pub watches_others: bool,
}

impl Scope {
    /// All of `targets` are scored.
    pub fn all(targets: &[Target]) -> Scope {
        Scope { scored: 0..targets.len(), watches_others: false }
    }
}

/// Divides `targets` into groups, in order. The scores of a group and the largest dense gradient take at most `workspace`
/// bytes together; a group has at least the modules of one linear, whose gradients are one product.
pub fn score_groups(targets: &[Target], workspace: u64) -> Vec<Range<usize>> {
    let bytes = |rows: usize, cols: usize| Device::size_class(4 * rows as u64 * cols as u64);
    let gradient = |t: &Target| if t.nnz > 0 { bytes(t.module.place.rows, t.module.in_features) } else { 0 };
    let room = workspace.saturating_sub(targets.iter().map(gradient).max().unwrap_or(0));
    let mut groups: Vec<(Range<usize>, u64)> = Vec::new();
    let mut first = 0;
    for linear in targets.chunk_by(|a, b| a.module.place.linear == b.module.place.linear) {
        let scores = linear.iter().map(|t| bytes(t.module.out_features, t.module.in_features)).sum();
        let end = first + linear.len();
        match groups.last_mut().filter(|(_, held)| held + scores <= room) {
            Some((group, held)) => (group.end, *held) = (end, *held + scores),
            None => groups.push((first..end, scores)),
        }
        first = end;
    }
    groups.into_iter().map(|(group, _)| group).collect()
}

impl MaskCollector {
    /// Room for the scores of the targets in `scope`, 4 bytes an entry. `squared`: the mean of squares, not of gradients.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: &Device, targets: &[Target], squared: bool, scope: &Scope) -> Result<MaskCollector> {
        let sums = Tensor::zeros(device, &[SLOT * targets.len().max(1)], "mask scores")?;
        let sink = |(i, t): (usize, &Target)| {
            let (rows, cols) = (t.module.out_features, t.module.in_features);
            Ok(Arc::new(Sink {
                module: t.module.name.clone(),
                rows,
                cols,
                nnz: t.nnz,
                squared,
                score: match scope.scored.contains(&i) {
                    true => Some(Tensor::zeros(device, &[rows, cols], "mask scores")?),
                    false => None,
                },
                sum: sums.view(SLOT * i, &[2])?,
                progress: Mutex::default(),
            }))
        };
        let sinks = targets.iter().enumerate().map(sink).collect::<Result<_>>()?;
        Ok(MaskCollector { sinks, watches: scope.watches_others, sums })
    }

    /// Where target `index` sends its gradient; none if nobody wants it.
    pub fn sink(&self, index: usize) -> Option<Arc<dyn GradientSink>> {
        let sink = &self.sinks[index];
        self.takes(sink).then(|| sink.clone() as Arc<dyn GradientSink>)
    }

    /// Whether gradients come to `sink`: none where no entry is to be chosen.
    fn takes(&self, sink: &Sink) -> bool {
        sink.nnz > 0 && (self.watches || sink.score.is_some())
    }

    fn scored(&self) -> impl Iterator<Item = (&Sink, &Tensor)> {
        self.sinks.iter().filter_map(|s| Some((&**s, s.score.as_ref()?)))
    }

    /// A step begins: the gradients of the micro-batches that `share` marks are wanted.
    pub fn begin_step(&self, share: &[bool]) {
        let wanted = |s: &Sink| share.iter().map(|is_ours| *is_ours && self.takes(s)).collect();
        self.sinks.iter().for_each(|s| s.progress().wanted = wanted(s));
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
        let lost: Vec<u32> = self.scored().map(|(s, _)| s.progress().lost).filter(|lost| *lost > 0).collect();
        let samples = lost.iter().copied().max()?;
        Some(Lost { matrices: lost.len(), samples })
    }

    /// What has been gathered, by scored target: module, score `[rows, cols]`, gradients in it, gradients lost.
    pub fn scores(&self) -> impl Iterator<Item = (&str, &Tensor, [u32; 2])> {
        self.scored().map(|(s, score)| {
            let now = s.progress();
            (s.module.as_str(), score, [now.taken, now.lost])
        })
    }

    /// Says how many gradients score number `index` holds and how many were lost, once it was written from outside.
    pub fn set_counts(&self, index: usize, [taken, lost]: [u32; 2]) {
        let Some((sink, _)) = self.scored().nth(index) else { return };
        let mut now = sink.progress();
        (now.taken, now.lost) = (taken, lost);
    }

    /// The masks: for each scored target its `nnz` largest scores, the lower index first where scores are equal. Waits for
    /// the device.
    ///
    /// # Errors
    /// [`Error::NonFinite`] that names the module, if it took no gradient or a score is not a number.
    pub fn masks(&self) -> Result<BTreeMap<String, CsrPattern>> {
        self.scored().map(|(s, score)| Ok((s.module.clone(), s.mask(score)?))).collect()
    }
}

impl Sink {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // plain numbers: a panic elsewhere leaves them as they are
        self.progress.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn mask(&self, score: &Tensor) -> Result<CsrPattern> {
        if self.nnz > 0 && self.progress().taken == 0 {
            let reason = "its mask's scores are not finite: no micro-batch gave it a finite gradient";
            return Err(Error::NonFinite { what: self.module.clone(), reason: reason.into() });
        }
        let bits = topk_mask(score, self.nnz, To::New("mask scores"))?.read(&self.module)?;
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
        match &self.score {
            Some(score) => score_accumulate(score, gradient, &self.sum, now.taken, self.squared, now.scale),
            None => Ok(()),
        }
    }
}

impl Lost {
    /// Of two groups together.
    pub fn and(self, other: Lost) -> Lost {
        Lost { matrices: self.matrices + other.matrices, samples: self.samples.max(other.samples) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::targets::{LinearShape, Place};

    /// Targets `[rows, 64]` with an entry each, of linears with these modules' rows.
    fn targets(linears: &[&[usize]]) -> Vec<Target> {
        let of = |(linear, modules): (usize, &&[usize])| {
            let rows = modules.iter().sum();
            let module = move |(i, &out_features): (usize, &usize)| LinearShape {
                name: format!("{linear}.{i}"),
                out_features,
                in_features: 64,
                place: Place { linear, first_row: 0, rows },
            };
            modules.iter().enumerate().map(module).collect::<Vec<_>>()
        };
        let modules = linears.iter().enumerate().flat_map(of).enumerate();
        modules.map(|(index, module)| Target { index, module, rank: 0, alpha: 1.0, scale: 1.0, nnz: 1 }).collect()
    }

    #[test]
    fn groups_hold_whole_linears_that_fit_beside_the_largest_gradient() {
        // 256 bytes a row: the largest gradient takes 4 KiB
        let targets = targets(&[&[4, 2, 2], &[16], &[8], &[8], &[1, 1]]);
        let groups = |kib: u64| score_groups(&targets, kib << 10);
        assert_eq!(groups(1 << 20), vec![0..8]);
        assert_eq!(groups(14), [0..6, 6..8]);
        assert_eq!(groups(10), [0..4, 4..8]);
        // no room: one linear each
        assert_eq!(groups(0), [0..3, 3..4, 4..5, 5..6, 6..8]);
        assert!(score_groups(&[], 1 << 30).is_empty());
    }
}
