//! One optimiser step: micro-batches forward and backward, then the update. Nothing here waits for the device, but for the few
//! steps that collect masks.

use super::config::{LossNormalisation, TrainConfig};
use super::ranks;
use super::trainable::optimiser;
use crate::adapters::MaskCollector;
use crate::autograd::ops::{HeadLoss, head_loss};
use crate::autograd::{Dropout, Tape};
use crate::data::Batch;
use crate::device::{Device, Pending, Precision, Watch};
use crate::dist::Ranks;
use crate::error::Result;
use crate::nn::{Decoder, DeviceBatch};
use crate::optim::{AdamW, Block, Group, Rates};
use crate::tensor::Tensor;
use std::sync::Arc;

/// What all steps of a run share.
pub struct Stepper {
    pub optimiser: AdamW,
    pub normalisation: LossNormalisation,
    /// See [`Decoder::hidden`].
    pub checkpointing: usize,
    pub seed: u32,
    /// Dropout at all: then tokens carry keys.
    pub dropout: bool,
    /// Who else computes micro-batches of a step.
    ranks: Ranks,
    loss: Tensor,
    norm_sq: Tensor,
}

/// What is a step's own.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Counted over all phases.
    pub step: u64,
    pub rates: Rates,
    /// Gradients travel this many times too large.
    pub loss_scale: f32,
}

/// Where gradients of frozen weights go while masks are collected.
#[derive(Clone, Copy)]
pub struct Collect<'a> {
    pub to: &'a MaskCollector,
    /// The loss scale at which the step was done in the end, where it is run again for other modules' scores: it is then
    /// repeated down to that one, as it was before.
    pub until: Option<f32>,
}

impl<'a> From<&'a MaskCollector> for Collect<'a> {
    fn from(to: &'a MaskCollector) -> Self {
        Collect { to, until: None }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    pub loss: f64,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Loss or gradient was not finite: nothing was updated.
    pub skipped: bool,
}

/// A stretch of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// From the tokens to the loss. The head's gradient is taken in the same pass.
    Forward,
    Backward,
    /// Clipping and the optimiser.
    Update,
}

/// Numbers of a step on their way back from the device.
pub struct StepResult {
    loss: Box<dyn Pending>,
    norm_sq: Box<dyn Pending>,
    /// At which the step was done in the end: less than it began with, where it had to be repeated.
    pub loss_scale: f32,
}

impl StepResult {
    /// Waits for the step, not for what was recorded behind it.
    pub fn wait(self) -> Result<StepOutcome> {
        let [loss] = floats(self.loss)?;
        let [norm_sq, flag] = floats(self.norm_sq)?;
        let grad_norm = f64::from(norm_sq).sqrt() / f64::from(self.loss_scale);
        // as the optimiser's kernels decide
        Ok(StepOutcome { loss: loss.into(), grad_norm, skipped: flag != 0.0 || !loss.is_finite() })
    }
}

fn floats<const N: usize>(pending: Box<dyn Pending>) -> Result<[f32; N]> {
    let bytes = pending.wait()?;
    let mut values = [f32::NAN; N];
    for (value, read) in values.iter_mut().zip(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)) {
        *value = read;
    }
    Ok(values)
}

impl Stepper {
    /// As the run `config` wants it.
    pub fn of(device: &Device, config: &TrainConfig) -> Result<Stepper> {
        let (normalisation, layers) = (config.loss_normalisation, config.checkpointing.0);
        Stepper::new(device, optimiser(config), normalisation, layers, config.seed, config.dropout > 0.0)
    }

    pub fn new(
        device: &Device,
        optimiser: AdamW,
        normalisation: LossNormalisation,
        checkpointing: usize,
        seed: u64,
        dropout: bool,
    ) -> Result<Stepper> {
        let loss = Tensor::zeros(device, &[1], "statistics")?;
        let norm_sq = Tensor::zeros(device, &[2], "statistics")?;
        Ok(Stepper {
            optimiser,
            normalisation,
            checkpointing,
            seed: seed as u32,
            dropout,
            ranks: Ranks::alone(),
            loss,
            norm_sq,
        })
    }

    /// The same for one of `ranks`, which take each step together: all are given the whole window.
    pub fn among(self, ranks: Ranks) -> Stepper {
        Stepper { ranks, ..self }
    }

    /// Who takes the steps.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// What products round their operands to.
    pub fn precision(&self) -> Precision {
        self.loss.device().precision()
    }

    /// Runs the micro-batches of `window` and updates `blocks`. The gradients of frozen weights go to
    /// `collect`, where masks are collected.
    pub fn run(
        &self,
        model: &Decoder,
        window: &[Batch],
        blocks: &mut [Block],
        turn: Turn,
        collect: Option<Collect<'_>>,
    ) -> Result<StepResult> {
        self.run_in_parts(model, window, blocks, turn, collect, |_| Ok(()))
    }

    /// As [`Stepper::run`]; `recorded` is called behind each part of each micro-batch and behind the update, so that parts can
    /// be timed.
    pub fn run_in_parts(
        &self,
        model: &Decoder,
        window: &[Batch],
        blocks: &mut [Block],
        turn: Turn,
        collect: Option<Collect<'_>>,
        mut recorded: impl FnMut(Part) -> Result<()>,
    ) -> Result<StepResult> {
        let device = self.loss.device();
        let loss_scale = match collect {
            None => {
                self.gradients(model, window, turn, &ranks::share(&self.ranks, window), None, &mut recorded)?;
                turn.loss_scale
            }
            Some(collect) => self.collect(model, window, blocks, turn, collect)?,
        };
        ranks::sum_gradients(&self.ranks, blocks, turn.rates, &self.loss)?;
        self.optimiser.step(blocks, turn.rates, loss_scale, &self.loss, &self.norm_sq)?;
        if turn.rates.has(Group::Sparse) {
            model.write_sparse()?;
        }
        recorded(Part::Update)?;
        Ok(StepResult {
            loss: device.download_later(&self.loss.slice())?,
            norm_sq: device.download_later(&self.norm_sq.slice())?,
            loss_scale,
        })
    }

    /// Forward and backward over `window` with the gradients of frozen weights going to `collect`: where some overflow, again
    /// at half the loss scale, until every matrix has every gradient and those that train are finite too. So masks know the
    /// largest gradients as well as all others. Returns the loss scale of the gradients that lie in `blocks` then; they are
    /// not finite where lowering it did not help. Waits for the device.
    fn collect(
        &self,
        model: &Decoder,
        window: &[Batch],
        blocks: &[Block],
        turn: Turn,
        Collect { to: collector, until }: Collect<'_>,
    ) -> Result<f32> {
        let mut loss_scale = turn.loss_scale;
        let share = ranks::share(&self.ranks, window);
        collector.begin_step(&share);
        loop {
            self.gradients(model, window, Turn { loss_scale, ..turn }, &share, Some(collector), &mut |_| Ok(()))?;
            let is_done = match until {
                Some(last) => loss_scale <= last,
                None => {
                    // the loss itself does not depend on the scale
                    let may_help = loss_scale > 1.0 && self.loss.read::<f32>()?.iter().all(|loss| loss.is_finite());
                    let fits = !may_help || !collector.is_short() && self.is_finite(blocks, turn.rates)?;
                    // all ranks repeat a step, or none does
                    let [is_hopeless, is_short] = self.ranks.any([!may_help, !fits])?;
                    is_hopeless || !is_short
                }
            };
            if is_done {
                break;
            }
            loss_scale = (loss_scale / 2.0).max(1.0);
            blocks.iter().try_for_each(|b| b.grad.clear())?;
        }
        collector.end_step();
        Ok(loss_scale)
    }

    /// Whether the gradients in `blocks` are. Waits for the device.
    fn is_finite(&self, blocks: &[Block], rates: Rates) -> Result<bool> {
        self.optimiser.norm(blocks, rates, &self.norm_sq)?;
        Ok(self.norm_sq.read::<f32>()?[1] == 0.0)
    }

    /// Adds the gradients of `window` to those of `blocks` once more, with a look at what each kernel writes; then clears
    /// them. Nothing is updated. Waits for each kernel.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::error::Error::NonFinite), which names module and kernel, at the first number that is
    /// not finite.
    pub fn look(&self, model: &Decoder, window: &[Batch], blocks: &mut [Block], turn: Turn) -> Result<()> {
        let device = self.loss.device();
        let watch = Arc::new(Watch::default());
        device.watch(Some(watch.clone()));
        let looked =
            self.gradients(model, window, turn, &vec![true; window.len()], None, &mut |_| Ok(())).and_then(|()| {
                watch.enter("the gradient's norm".into(), true);
                self.optimiser.norm(blocks, turn.rates, &self.norm_sq)
            });
        device.watch(None);
        blocks.iter().try_for_each(|b| b.grad.clear())?;
        looked
    }

    /// Forward and backward over the micro-batches of `window` that `share` marks; the others only count where the loss is
    /// divided.
    fn gradients(
        &self,
        model: &Decoder,
        window: &[Batch],
        turn: Turn,
        share: &[bool],
        collector: Option<&MaskCollector>,
        recorded: &mut impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        let Turn { step, loss_scale, .. } = turn;
        let device = self.loss.device();
        self.loss.clear()?;
        let supervised: usize = window.iter().map(Batch::supervised).sum();
        for (i, batch) in window.iter().enumerate().filter(|(i, _)| share[*i]) {
            let of_batch = batch.supervised().max(1) as f64;
            let scale = match self.normalisation {
                LossNormalisation::Tokens => 1.0 / supervised.max(1) as f64,
                LossNormalisation::MicroBatch => 1.0 / (of_batch * window.len() as f64),
            };
            if let Some(c) = collector {
                // gradients of the micro-batch's mean loss, whatever the step's normalisation is
                c.begin(i, (1.0 / (scale * of_batch * f64::from(loss_scale))) as f32);
            }
            let on_device = DeviceBatch::upload(device, batch, model.config.sliding_window)?;
            let dropout =
                self.dropout.then(|| Dropout { seed: self.seed, step: step as u32, keys: on_device.keys.clone() });
            let watch = device.watched();
            if let Some(watch) = &watch {
                watch.set_tokens(batch.len());
            }
            let mut tape = Tape::new(dropout).watched(watch);
            let hidden = model.hidden(&mut tape, &on_device.input, self.checkpointing)?;
            let loss = HeadLoss { scale: scale as f32, gradient: loss_scale, sum: &self.loss };
            tape.enter(|| "lm_head");
            head_loss(&mut tape, &hidden, &model.head, &on_device.targets, loss)?;
            drop(hidden);
            recorded(Part::Forward)?;
            tape.backward()?;
            collector.map_or(Ok(()), MaskCollector::end)?;
            recorded(Part::Backward)?;
        }
        Ok(())
    }
}
