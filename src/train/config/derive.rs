//! Defaults that follow from other options or from the data. `config.toml` has what came out.

use super::{Method, PartialConfig, TrainConfig, paper, validate};
use crate::error::Result;
use crate::train::phase::Schedule;
use crate::train::start;

/// What comes before the masks, the low-rank warm-up and the steps that choose them, is one of so many parts of the run. The
/// warm-up is the paper's at most.
const BEFORE_MASKS_PART: u64 = 4;
/// The rates rise over one of so many parts of the run, and over the paper's steps at most.
const RATES_RISE_PART: u64 = 10;
/// A run is evaluated so many times, about, where nothing else is asked for.
const EVALUATIONS: u64 = 10;
/// Micro-batches in a step, and in the steps that choose the masks: eight packed sequences of 512 tokens are about the
/// paper's 32 short rows.
const MICRO_BATCHES: usize = 8;
/// A run whose length is not given takes so many steps where it can: first with fewer micro-batches in each, then with up to
/// [`MOST_EPOCHS`] passes over the data. What few steps of many rows lose is in docs/notes/defaults.md.
const FEWEST_STEPS: usize = 100;
const MOST_EPOCHS: usize = 10;

/// All options that are given, and those that follow from them without the data.
///
/// # Errors
/// Those of [`start::options`].
pub(super) fn lay_over(mut file: PartialConfig, mut flags: PartialConfig) -> Result<PartialConfig> {
    let adapter = adapter_options(&flags.clone().or(file.clone()))?;
    let method = flags.method.or(file.method).or(adapter.method).unwrap_or(Method::Rosa);
    if flags.steps.is_some() {
        file.epochs = None;
    }
    if flags.epochs.is_some() {
        file.steps = None;
    }
    if flags.method.is_some_and(|m| m != file.method.unwrap_or(Method::Rosa)) {
        file.schedule = None;
    }
    if method == Method::Lora {
        // each source by itself: a file of a run has both rates, and a flag's one rate wins over them
        for source in [&mut flags, &mut file] {
            source.lora_lr = source.lora_lr.or(source.lr);
        }
    }
    // an adapter that is there has its sizes, whatever the paper's were
    let mut given = if flags.like_paper == Some(true) {
        (file.schedule, file.epochs, file.steps) = (None, None, None);
        flags.or(adapter).or(paper::options(method)).or(file)
    } else {
        let given = flags.or(file).or(adapter);
        if given.like_paper == Some(true) { given.or(paper::options(method)) } else { given }
    };
    if given.schedule.is_some() {
        given.mask_grads = given.mask_grads.or(Some(paper::MASK_GRADS));
    } else {
        given.schedule = match method {
            Method::Lora => Some(Schedule::LoraOnly),
            Method::Spa => Some(Schedule::SpaOnly),
            Method::Full => Some(Schedule::WarmLora(0)),
            // masks need no warm-up if they are given, and A and B of an adapter are warm already
            Method::Rosa if given.mask.is_some() || given.init_adapter.is_some() => Some(Schedule::WarmLora(0)),
            Method::Rosa => given.like_paper.unwrap_or(false).then_some(paper::SCHEDULE),
        };
    }
    Ok(given)
}

/// What the adapter that `given` starts from stands for; with `--method full`, which refuses one, nothing.
fn adapter_options(given: &PartialConfig) -> Result<PartialConfig> {
    match &given.init_adapter {
        Some(folder) if given.method != Some(Method::Full) => start::options(folder, given),
        _ => Ok(PartialConfig::default()),
    }
}

impl TrainConfig {
    /// The configuration of a run over `sequences` of an epoch: with everything that follows from the length of the run. It
    /// is what `config.toml` holds, and a run with it is the same run.
    ///
    /// # Errors
    /// [`crate::error::Error::Invalid`] where an option does not go with that length.
    pub fn for_data(mut self, sequences: usize) -> Result<TrainConfig> {
        if self.gradient_accumulation_steps.is_none() && self.steps.is_none() {
            let passes = sequences.div_ceil(self.batch_size) as f64 * self.epochs.unwrap_or(1.0);
            self.gradient_accumulation_steps = Some((passes as usize / FEWEST_STEPS).clamp(1, MICRO_BATCHES));
        }
        self.gradient_accumulation_steps = Some(self.micro_batches());
        let an_epoch = sequences.div_ceil(self.batch_size.saturating_mul(self.micro_batches())).max(1);
        if self.steps.is_none() && self.epochs.is_none() {
            let epochs = if self.like_paper { 1 } else { FEWEST_STEPS.div_ceil(an_epoch).min(MOST_EPOCHS) };
            self.epochs = Some(epochs as f64);
        }
        let steps = self.total_steps(an_epoch as u64);
        self.mask_grads = Some(self.mask_grads_of(steps));
        self.schedule = Some(self.schedule_of(steps));
        self.warmup_steps = Some(self.warmup(steps));
        if self.evaluates() {
            self.eval_steps = self.eval_steps.or(Some(steps.div_ceil(EVALUATIONS)));
        }
        validate::length(&self, steps)?;
        Ok(self)
    }

    /// Micro-batches of a step.
    pub fn micro_batches(&self) -> usize {
        self.gradient_accumulation_steps.unwrap_or(MICRO_BATCHES)
    }

    /// T of [`crate::train::phase`], given the optimiser steps of one pass over the data: `steps`, or `epochs` passes
    /// rounded up. At most 2⁶³ - 1, so that the steps of the other phases can be added.
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        let passes = self.epochs.unwrap_or(1.0) * steps_per_epoch as f64;
        self.steps.unwrap_or(passes.ceil() as u64).min(validate::MAX_INTEGER)
    }

    /// The schedule of a run of `steps` steps.
    pub fn schedule_of(&self, steps: u64) -> Schedule {
        let warmup = (steps / BEFORE_MASKS_PART).saturating_sub(self.mask_grads_of(steps).into());
        self.schedule.unwrap_or(Schedule::WarmLora(warmup.min(paper::WARMUP.into()) as u32))
    }

    /// The steps of a run of `steps` steps whose gradients choose the masks.
    pub fn mask_grads_of(&self, steps: u64) -> u32 {
        let enough = MICRO_BATCHES.div_ceil(self.micro_batches()) as u64;
        self.mask_grads.unwrap_or(enough.min(steps / BEFORE_MASKS_PART).max(1) as u32)
    }

    /// Warm-up steps of a learning-rate schedule of `total` steps.
    pub fn warmup(&self, total: u64) -> u64 {
        self.warmup_steps.unwrap_or((total / RATES_RISE_PART).min(paper::RATES_RISE))
    }
}
