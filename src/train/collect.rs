//! The masks of a run, from the steps of its collecting phase.
//!
//! Scores lie in a workspace of fixed size. Where those of all modules do not fit, the phase is run once for each group of
//! modules whose scores do: first as the agenda has it, with the scores of the first group, then again from the state that was
//! saved at its start for each other one. The steps are the same every time, so the masks are those of a run with room
//! for all scores, bit for bit. While such a phase is under way no other state is saved: a run that ends in it begins it again.

use super::config::{MaskMode, TrainConfig};
use super::observer::Observer;
use super::phase::{Agenda, Phase, StepPlan};
use super::step::{Collect, Stepper, Turn};
use super::trainable::{Trainable, rates};
use super::{ranks, state};
use crate::adapters::{AdapterSet, MaskCollector, Scope, score_groups};
use crate::csr::CsrPattern;
use crate::data::Ahead;
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::io::mask::write_masks;
use crate::nn::Decoder;
use crate::optim::Group;
use std::ops::Range;

/// What of a run stays as it is while masks are collected.
pub struct Rig<'a> {
    pub config: &'a TrainConfig,
    pub device: &'a Device,
    pub model: &'a Decoder,
    pub agenda: &'a Agenda,
    pub stepper: &'a Stepper,
}

/// A collecting phase that is under way.
pub struct Collecting {
    /// Targets by index; the first group's turn comes with the agenda's own steps.
    groups: Vec<Range<usize>>,
    pub collector: MaskCollector,
    /// The phase's steps so far, each with the loss scale at which it was done in the end.
    turns: Vec<(Turn, f32)>,
    /// There is one rank, which has all scores.
    is_alone: bool,
}

impl Collecting {
    /// At the start of the phase.
    ///
    /// # Errors
    /// Those of the device.
    pub fn begin(config: &TrainConfig, stepper: &Stepper, device: &Device, set: &AdapterSet) -> Result<Collecting> {
        let groups = groups(config, set);
        let collector = collector(config, device, set, &groups, 0)?;
        Ok(Collecting { groups, collector, turns: Vec::new(), is_alone: stepper.ranks().is_alone() })
    }

    /// Whether the phase is run more than once.
    pub fn is_repeated(&self) -> bool {
        self.groups.len() > 1
    }

    /// Whether the run goes on from the start of the phase where it ends within: the phase is repeated, or each rank has a part of
    /// the scores.
    pub fn needs_start(&self) -> bool {
        self.is_repeated() || !self.is_alone
    }

    /// Whether a state that is saved now could not be gone on from: that at the start of the phase can.
    pub fn is_amid_repeats(&self) -> bool {
        self.needs_start() && !self.turns.is_empty()
    }

    /// A line about phases that are run more than once.
    pub fn line(&self, config: &TrainConfig) -> Option<String> {
        self.is_repeated().then(|| {
            format!(
                "masks: the collecting steps are run {} times, for as many groups of modules whose scores fit into {}",
                self.groups.len(),
                config.mask_workspace
            )
        })
    }

    /// Notes a step, done at `loss_scale` in the end.
    pub fn note(&mut self, turn: Turn, loss_scale: f32) {
        self.turns.push((turn, loss_scale));
    }
}

/// The groups of modules that are scored one after the other.
pub fn groups(config: &TrainConfig, set: &AdapterSet) -> Vec<Range<usize>> {
    score_groups(set.targets(), config.mask_workspace.0)
}

/// The collector of group `index`.
///
/// # Errors
/// Those of the device.
pub fn collector(
    config: &TrainConfig,
    device: &Device,
    set: &AdapterSet,
    groups: &[Range<usize>],
    index: usize,
) -> Result<MaskCollector> {
    let scored = groups.get(index).cloned().unwrap_or_default();
    // the loss scale at which a step is done depends on all gradients, whoever's scores are made
    let watches_others = index == 0 && groups.len() > 1 && device.precision() == Precision::F16;
    let squared = config.mask_mode == MaskMode::MeanSquared;
    MaskCollector::new(device, set.targets(), squared, &Scope { scored, watches_others })
}

/// Makes the masks of what was collected and gives them to the adapters, once the scores are gone. Behind the phase's last
/// step, and before its numbers are reported.
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::NonFinite`] for a module without a finite gradient; those of the device and of files.
pub fn build_masks(
    collecting: Collecting,
    batches: &mut Ahead,
    rig: &Rig<'_>,
    plan: &StepPlan,
    trainable: &mut Trainable,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Collecting { groups, collector: first, turns, .. } = collecting;
    ranks::merge_scores(rig.stepper.ranks(), &first)?;
    let (mut masks, mut lost) = (first.masks()?, first.lost());
    drop(first);
    let mut repeats = Repeats { turns: &turns, batches, start: None, is_at_start: false };
    for index in 1..groups.len() {
        let Trainable::Adapters(set) = &*trainable else { break };
        let collector = collector(rig.config, rig.device, set, &groups, index)?;
        repeats.run(rig, trainable, &collector, observer)?;
        ranks::merge_scores(rig.stepper.ranks(), &collector)?;
        masks.append(&mut collector.masks()?);
        lost = match (lost, collector.lost()) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
    }
    if let Some(lost) = lost {
        observer.note(&format!(
            "masks: up to {} micro-batches had no finite gradient for {} of {} matrices, whose masks are those of the others",
            lost.samples,
            lost.matrices,
            masks.len()
        ));
    }
    trainable.attach(rig.model, plan, None)?;
    ranks::check_masks(rig.stepper.ranks(), &masks)?;
    if let Some(path) = rig.config.mask_file().filter(|_| rig.stepper.ranks().is_first()) {
        write_masks(&path, &masks)?;
        observer.note(&format!("masks saved to {}", path.display()));
    }
    let entries: usize = masks.values().map(CsrPattern::nnz).sum();
    observer.note(&format!("masks: {entries} entries in {} matrices", masks.len()));
    match trainable {
        Trainable::Adapters(set) => set.set_masks(&masks),
        Trainable::Weights(_) => Ok(()),
    }
}

/// The steps of a phase, to be run again.
struct Repeats<'a> {
    turns: &'a [(Turn, f32)],
    batches: &'a mut Ahead,
    /// The state at the start of the phase.
    start: Option<state::Saved>,
    /// Whether the parameters are as they were there.
    is_at_start: bool,
}

impl Repeats<'_> {
    fn run(
        &mut self,
        rig: &Rig<'_>,
        trainable: &mut Trainable,
        collector: &MaskCollector,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let out = &rig.config.out;
        let start = match self.start.take() {
            Some(start) => start,
            None => state::find(out)?.ok_or_else(|| {
                Error::file(out, "state", "the state at the start of the collecting steps is gone; start another run")
            })?,
        };
        if !self.is_at_start {
            start.restore(trainable.blocks(), None)?;
            self.is_at_start = true;
        }
        self.batches.seek(start.header.position)?;
        self.start = Some(start);
        let first = rig.agenda.phase_start(Phase::Collect);
        for (step, (i, &(turn, until))) in (first..).zip(self.turns.iter().enumerate()) {
            let [is_interrupted] = rig.stepper.ranks().any([observer.interrupted()])?;
            if is_interrupted {
                observer.note(&line_amid_repeats(rig));
                return Err(Error::Interrupted);
            }
            let Some(plan) = rig.agenda.plan(step) else { break };
            // nobody needs what the last update would make where it is thrown away
            let is_last = i + 1 == self.turns.len();
            let is_thrown_away = is_last && rig.agenda.restarts();
            let trains = if is_thrown_away { plan.trains.without(Group::LowRank) } else { plan.trains };
            let plan = StepPlan { trains, ..plan };
            let turn = Turn { rates: rates(rig.config, &plan), ..turn };
            trainable.attach(rig.model, &plan, Some(collector))?;
            let window = self.batches.next_window()?;
            let collect = Collect { to: collector, until: Some(until) };
            rig.stepper.run(rig.model, &window, trainable.blocks(), turn, Some(collect))?;
            self.is_at_start &= !turn.rates.has(Group::LowRank);
        }
        Ok(())
    }
}

/// What to say where a run is interrupted while its collecting steps are repeated.
pub fn line_amid_repeats(rig: &Rig<'_>) -> String {
    format!(
        "the state is that of before step {}, since the collecting steps are run for one group of modules after the other; go \
         on with: rugosa train ⟨resume⟩ ⟨out⟩ {}",
        rig.agenda.phase_start(Phase::Collect) + 1,
        rig.config.out.display()
    )
}
