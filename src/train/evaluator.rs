//! The evaluations between the steps of a run: when one is due, which was the best, and when the run need not go on.

use super::config::{Keep, TrainConfig};
use super::evaluation::{Evaluated, Evaluation};
use super::metrics::EvalMetrics;
use super::observer::Observer;
use super::phase::{Agenda, Phase};
use super::ranks;
use crate::device::Device;
use crate::dist::Ranks;
use crate::error::Result;
use crate::nn::Decoder;
use crate::optim::Block;
use serde::{Deserialize, Serialize};

/// Where the evaluations of a run stand: with it the state of a run goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Steps of the run before the last evaluation.
    pub after: Option<u64>,
    /// Of the evaluations of the training phase the one with the lowest loss.
    pub best: Option<Best>,
    /// Evaluations of that phase since.
    pub since_best: u64,
}

/// An evaluation with the lowest loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps before it.
    pub after: u64,
    pub loss: f64,
}

impl Standing {
    /// Notes an evaluation behind `after` steps; whether it is the best so far. `counts`: what it judges will be kept.
    fn note(&mut self, after: u64, loss: Option<f64>, counts: bool) -> bool {
        self.after = Some(after);
        let Some(loss) = loss.filter(|_| counts) else { return false };
        // NaN is below nothing
        let is_best = if let Some(best) = self.best { loss < best.loss } else { loss.is_finite() };
        if is_best {
            (self.best, self.since_best) = (Some(Best { after, loss }), 0);
        } else {
            self.since_best += 1;
        }
        is_best
    }
}

/// The evaluations of a run.
pub struct Evaluator<'a> {
    what: &'a Evaluation,
    pub standing: Standing,
    /// The values of all blocks behind the best one, where they are to be kept.
    pub best_values: Vec<Vec<u8>>,
}

impl<'a> Evaluator<'a> {
    /// Those of a run that stands where `standing` says.
    pub fn new(what: &'a Evaluation, standing: Standing, best_values: Vec<Vec<u8>>) -> Self {
        Evaluator { what, standing, best_values }
    }

    /// Whether to evaluate behind `after` steps.
    pub fn is_due(&self, config: &TrainConfig, agenda: &Agenda, after: u64) -> bool {
        let is_its_turn = after.is_multiple_of(config.eval_steps.unwrap_or(1)) || after == agenda.steps();
        is_its_turn && self.standing.after != Some(after)
    }

    /// Whether the run need not go on.
    pub fn is_exhausted(&self, config: &TrainConfig) -> bool {
        config.early_stopping.is_some_and(|patience| self.standing.since_best >= patience)
    }

    /// Evaluates `model` behind `after` steps, with what those trained attached. `blocks` are what trains, on each of `ranks`.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::error::Error::Interrupted), and then nothing is noted; those of the device.
    pub fn run(
        &mut self,
        (config, agenda): (&TrainConfig, &Agenda),
        (device, model): (&Device, &Decoder),
        after: u64,
        (blocks, ranks): (&[Block], &Ranks),
        observer: &mut dyn Observer,
    ) -> Result<(EvalMetrics, Evaluated)> {
        let mut progress = |done: usize, of: usize| {
            observer.evaluating(done, of);
            !observer.interrupted()
        };
        let found = ranks::evaluated(ranks, || self.what.run(config, device, model, &mut progress))?;
        let phase = agenda.plan(after.saturating_sub(1)).map_or(Phase::Train, |plan| plan.phase);
        let counts = phase == Phase::Train && after > agenda.phase_start(Phase::Train);
        let is_best = self.standing.note(after, found.loss, counts);
        if is_best && config.keep == Keep::Best {
            self.best_values = blocks.iter().map(|block| block.value.read::<u8>()).collect::<Result<_>>()?;
        }
        let metrics = EvalMetrics {
            after,
            phase,
            eval_loss: found.loss,
            eval_tokens: found.supervised_tokens,
            exact_match: found.exact_match,
            answers: found.answers,
            best: is_best,
        };
        Ok((metrics, found))
    }

    /// Puts the best values back into `blocks`, where they are to be kept and there are some.
    ///
    /// # Errors
    /// Those of the device.
    pub fn restore_best(&self, config: &TrainConfig, blocks: &[Block]) -> Result<Option<Best>> {
        if config.keep != Keep::Best {
            return Ok(None);
        }
        let best = self.standing.best.filter(|_| self.best_values.len() == blocks.len());
        if best.is_some() {
            blocks.iter().zip(&self.best_values).try_for_each(|(block, value)| block.value.write(value))?;
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_what_does_not_get_better_in_the_training_phase_alone() {
        let mut standing = Standing::default();
        let seen = [
            (0, 9.0, false),
            (5, 1.0, false), // of a warm-up that is thrown away
            (10, 4.0, true),
            (15, 3.0, true),
            (20, 3.0, true),
            (25, f64::NAN, true),
        ]
        .map(|(after, loss, counts)| standing.note(after, Some(loss), counts));
        assert_eq!(seen, [false, false, true, true, false, false]);
        assert_eq!(standing, Standing { after: Some(25), best: Some(Best { after: 15, loss: 3.0 }), since_best: 2 });
        let mut broken = Standing::default();
        assert!(!broken.note(1, Some(f64::NAN), true) && broken.best.is_none() && broken.since_best == 1);
        assert!(!broken.note(2, None, true) && broken.since_best == 1, "prompts alone");
    }
}
