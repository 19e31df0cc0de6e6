//! The steps of a run: what happens in each, and the states between them.

use super::collect::{Collecting, Rig, build_masks, line_amid_repeats};
use super::config::{Keep, TrainConfig};
use super::evaluation::Evaluation;
use super::evaluator::{Best, Evaluator, Standing};
use super::logs::Logs;
use super::metrics::StepMetrics;
use super::observer::Observer;
use super::phase::{Agenda, StepPlan};
use super::report::{Recorded, Reports, Skipped};
use super::state::{self, Header, Parts, Platform, Saved, SavedTiles};
use super::step::{Stepper, Turn};
use super::trainable::{Trainable, rates};
use super::{diagnose, output, ranks};
use crate::adapters::targets::LinearShape;
use crate::data::{Ahead, Position};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::io::adapter::AdapterFolder;
use crate::nn::Decoder;
use crate::optim::{Group, LossScale, Training};
use std::collections::BTreeMap;

/// What does not change from step to step.
pub struct Fixed<'a> {
    pub config: &'a TrainConfig,
    pub device: &'a Device,
    pub model: &'a Decoder,
    pub agenda: &'a Agenda,
    pub stepper: &'a Stepper,
    /// Where the adapters start.
    pub init: Option<&'a AdapterFolder>,
    /// All linears of the model.
    pub shapes: &'a [LinearShape],
    /// Digests of what the run reads.
    pub sources: &'a BTreeMap<String, String>,
    /// What chat templates saw as the time.
    pub clock: i64,
    pub tiles: &'a SavedTiles,
    /// The state that the run goes on from.
    pub saved: Option<&'a Saved>,
    pub evaluation: Option<&'a Evaluation>,
}

/// What moves on with the steps.
pub struct Steps<'a> {
    run: Fixed<'a>,
    /// Steps that are done, over all phases: the number of the next one, from 0.
    done: u64,
    trainable: &'a mut Trainable,
    batches: Ahead,
    collecting: Option<Collecting>,
    /// What of what is attached to the model trains, and whether gradients are collected.
    attached: Option<(Training, bool)>,
    reports: Reports<'a>,
    evaluator: Option<Evaluator<'a>>,
}

/// How the steps ended.
pub struct Ended {
    /// Steps that were done, over all phases.
    pub steps: u64,
    /// Of the last step.
    pub loss: f64,
    pub skipped: u64,
    /// Of the evaluations.
    pub best: Option<Best>,
    pub stopped_early: bool,
}

impl<'a> Steps<'a> {
    /// Where the run starts, or where its state left it.
    ///
    /// # Errors
    /// Those of [`Saved::restore`].
    pub fn new(run: Fixed<'a>, trainable: &'a mut Trainable, batches: Ahead, logs: &'a mut Logs) -> Result<Self> {
        let header = run.saved.map(|saved| &saved.header);
        let scale = match (header, run.device.precision()) {
            (Some(header), _) => header.loss_scale,
            (None, Precision::F32) => LossScale::off(),
            (None, Precision::F16) => LossScale::dynamic(),
        };
        let loss = header.and_then(|h| h.loss).unwrap_or(f64::NAN);
        let skipped = header.map_or(Skipped::default(), |h| h.skipped);
        let reports = Reports::new(logs, loss, skipped, scale);
        let standing = header.map_or(Standing::default(), |h| h.standing.clone());
        let best = run.saved.map_or(Ok(Vec::new()), Saved::best_values)?;
        let evaluator = run.evaluation.map(|what| Evaluator::new(what, standing, best));
        let done = header.map_or(0, |h| h.step);
        let mut steps = Steps { run, done, trainable, batches, collecting: None, attached: None, reports, evaluator };
        if let Some(saved) = steps.run.saved {
            steps.restore(saved)?;
        }
        Ok(steps)
    }

    /// Puts everything where the state left it.
    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.batches.seek(saved.header.position)?;
        if let (Trainable::Adapters(set), true) = (&*self.trainable, saved.header.scores.is_some()) {
            if !self.run.stepper.ranks().is_alone() {
                let reason =
                    "the run was stopped while one rank collected the masks; go on with one until they are there";
                return Err(Error::invalid("ranks", reason));
            }
            self.collecting = Some(Collecting::begin(self.run.config, self.run.stepper, self.run.device, set)?);
        }
        saved.restore(self.trainable.blocks(), self.collecting.as_ref().map(|c| &c.collector))
    }

    /// Takes all steps that are left. Where the observer interrupts, the state is saved first.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; those of the device and of files.
    pub fn take_all(mut self, observer: &mut dyn Observer) -> Result<Ended> {
        self.evaluate(observer)?;
        while let Some(plan) = self.next() {
            self.stop_if_asked(observer)?;
            self.make_ready(&plan, observer)?;
            self.take(plan, observer)?;
            self.compare_ranks()?;
            self.evaluate(observer)?;
            self.save_if_due(observer)?;
        }
        self.settle(observer)?;
        self.tell_of_early_end(observer);
        self.keep_best(observer)?;
        Ok(self.ended())
    }

    /// What the next step does; none where all are done, or evaluations say that the run need not go on.
    fn next(&self) -> Option<StepPlan> {
        let is_exhausted = self.evaluator.as_ref().is_some_and(|e| e.is_exhausted(self.run.config));
        self.run.agenda.plan(self.done).filter(|_| !is_exhausted)
    }

    fn stop_if_asked(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let [is_interrupted] = self.run.stepper.ranks().any([observer.interrupted()])?;
        if is_interrupted { Err(self.stop(observer)?) } else { Ok(()) }
    }

    /// Puts everything where a step that follows `plan` expects it.
    fn make_ready(&mut self, plan: &StepPlan, observer: &mut dyn Observer) -> Result<()> {
        if plan.restart_before {
            self.start_afresh()?;
        }
        if plan.collect {
            self.begin_collecting(observer)?;
        }
        self.attach(plan)
    }

    fn save_if_due(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let every = self.run.config.save_steps;
        let is_due = every > 0 && self.done.is_multiple_of(every) && !self.is_amid_repeats();
        if is_due { self.save(observer) } else { Ok(()) }
    }

    /// Holds what the ranks train against each other from time to time, and at the end.
    fn compare_ranks(&mut self) -> Result<()> {
        let is_due = ranks::is_compared(self.done) || self.done == self.run.agenda.steps();
        if is_due { self.keep_together() } else { Ok(()) }
    }

    fn tell_of_early_end(&self, observer: &mut dyn Observer) {
        let (done, steps) = (self.done, self.run.agenda.steps());
        if done < steps {
            observer.note(&format!("stopped early, after step {done} of {steps}: ⟨early_stopping⟩"));
        }
    }

    fn ended(&self) -> Ended {
        Ended {
            steps: self.done,
            loss: self.reports.last_loss,
            skipped: self.reports.skipped.in_all,
            best: self.evaluator.as_ref().and_then(|e| e.standing.best),
            stopped_early: self.done < self.run.agenda.steps(),
        }
    }

    /// Evaluates the model as it stands, if that is due. Where the observer interrupts, the state is saved without it.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let after = self.done;
        let Fixed { config, device, model, agenda, stepper, .. } = self.run;
        if !self.evaluator.as_ref().is_some_and(|e| e.is_due(config, agenda, after)) {
            return Ok(());
        }
        self.settle(observer)?;
        // what the step before had, but for scores that are not collected yet or no more
        if let Some(plan) = agenda.plan(after.saturating_sub(1)) {
            self.attach(&StepPlan { collect: plan.collect && self.collecting.is_some(), ..plan })?;
        }
        let Some(evaluator) = &mut self.evaluator else { return Ok(()) };
        let blocks = self.trainable.blocks();
        match evaluator.run((config, agenda), (device, model), after, (blocks, stepper.ranks()), observer) {
            Ok((metrics, found)) => self.reports.evaluated(&metrics, &found.samples, observer),
            Err(Error::Interrupted) => Err(self.stop(observer)?),
            Err(other) => Err(other),
        }
    }

    /// Puts the best values in the place of the last, where they are to be kept.
    fn keep_best(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(evaluator) = self.evaluator.as_ref().filter(|_| self.run.config.keep == Keep::Best) else {
            return Ok(());
        };
        observer.note(&match evaluator.restore_best(self.run.config, self.trainable.blocks())? {
            Some(Best { after, loss }) => {
                format!("kept: the values after step {after}, whose evaluation loss {loss:.4} is the lowest")
            }
            None => "kept: the last values, since no evaluation of the training phase had a finite loss".to_owned(),
        });
        Ok(())
    }

    /// Takes a step. Its numbers are reported while the next one runs.
    fn take(&mut self, plan: StepPlan, observer: &mut dyn Observer) -> Result<()> {
        let step = self.done;
        let Fixed { config, model, stepper, .. } = self.run;
        let epoch = self.batches.position().epoch;
        let window = self.batches.next_window()?;
        let rates = rates(config, &plan);
        let turn = Turn { step, rates, loss_scale: self.reports.scale.factor(step) };
        let collect = self.collecting.as_ref().filter(|_| plan.collect).map(|c| (&c.collector).into());
        let result = stepper.run(model, &window, self.trainable.blocks(), turn, collect)?;
        if let Some(collecting) = &mut self.collecting {
            collecting.note(turn, result.loss_scale);
        }
        let metrics = StepMetrics {
            step,
            phase: plan.phase,
            schedule_step: plan.schedule_step,
            loss: f64::NAN,
            lr: [Group::Weights, Group::Sparse, Group::LowRank].into_iter().find_map(|g| rates.get(g)).unwrap_or(0.0),
            lora_lr: rates.get(Group::LowRank),
            grad_norm: f64::NAN,
            supervised_tokens: window.iter().map(|b| b.supervised() as u64).sum(),
            tokens: window.iter().map(|b| b.len() as u64).sum(),
            tokens_per_second: 0.0,
            epoch: epoch as f64,
            skipped: false,
        };
        let recorded = Recorded { window, turn, plan };
        if let Some(collecting) = self.collecting.take_if(|_| plan.build_masks_after) {
            self.attached = None;
            let rig = self.rig();
            build_masks(collecting, &mut self.batches, &rig, &plan, self.trainable, observer)
                .map_err(|e| diagnose::explained(e, &recorded, stepper, model, self.trainable))?;
        }
        self.done += 1;
        self.reports.push(result, metrics, recorded, observer)?;
        self.examine(observer)
    }

    /// Begins again, as the paper does once the masks are there.
    fn start_afresh(&mut self) -> Result<()> {
        self.batches.seek(Position::default())?;
        if let Trainable::Adapters(set) = &mut *self.trainable {
            set.initialise(self.run.config.seed, self.run.init)?;
            self.attached = None; // weights hold the values of before
        }
        Ok(())
    }

    /// Puts onto the model what this step needs, if that is not there already.
    fn attach(&mut self, plan: &StepPlan) -> Result<()> {
        let wanted = (plan.trains, plan.collect);
        if self.attached != Some(wanted) {
            self.trainable.attach(self.run.model, plan, self.collecting.as_ref().map(|c| &c.collector))?;
            self.attached = Some(wanted);
        }
        Ok(())
    }

    /// What collecting reads of the run.
    fn rig(&self) -> Rig<'a> {
        let Fixed { config, device, model, agenda, stepper, .. } = self.run;
        Rig { config, device, model, agenda, stepper }
    }

    /// Begins to collect, if that is not under way. A phase that will be repeated needs the state before it.
    fn begin_collecting(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let (None, Trainable::Adapters(set)) = (&self.collecting, &*self.trainable) else { return Ok(()) };
        let collecting = Collecting::begin(self.run.config, self.run.stepper, self.run.device, set)?;
        if let Some(line) = collecting.line(self.run.config) {
            observer.note(&line);
        }
        if collecting.needs_start() {
            self.write_state(observer)?;
        }
        self.collecting = Some(collecting);
        Ok(())
    }

    /// See [`Collecting::is_amid_repeats`].
    fn is_amid_repeats(&self) -> bool {
        self.collecting.as_ref().is_some_and(Collecting::is_amid_repeats)
    }

    /// Waits until every step up to here is reported and on the disk.
    fn settle(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.reports.flush(observer)?;
        self.examine(observer)
    }

    /// Looks for the cause where the reports hold a step that wants it.
    fn examine(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(broken) = self.reports.take_broken() else { return Ok(()) };
        self.attached = None; // the step that is repeated puts its own on
        observer.note(&diagnose::diagnose(&broken, self.run.stepper, self.run.model, self.trainable)?);
        Ok(())
    }

    /// Saves the state, if it can be gone on from, and says how to.
    fn stop(&mut self, observer: &mut dyn Observer) -> Result<Error> {
        if self.is_amid_repeats() {
            self.settle(observer)?;
            observer.note(&line_amid_repeats(&self.rig()));
            return Ok(Error::Interrupted);
        }
        self.save(observer)?;
        observer.note(&format!(
            "state saved before step {}; go on with: rugosa train ⟨resume⟩ ⟨out⟩ {}",
            self.done + 1,
            self.run.config.out.display()
        ));
        Ok(Error::Interrupted)
    }

    /// See [`ranks::keep_together`].
    fn keep_together(&mut self) -> Result<()> {
        let Fixed { device, model, stepper, .. } = self.run;
        ranks::keep_together(stepper.ranks(), device, model, self.trainable)
    }

    /// Saves the state behind the steps that are done, of which all ranks but the first know as much without.
    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.keep_together()?;
        match self.run.stepper.ranks().is_first() {
            true => self.write_state(observer),
            false => self.settle(observer),
        }
    }

    fn write_state(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.settle(observer)?;
        let Fixed { config, device, shapes, sources, clock, tiles, .. } = self.run;
        let header = Header {
            version: 0,
            step: self.done,
            position: self.batches.position(),
            skipped: self.reports.skipped,
            loss: Some(self.reports.last_loss).filter(|l| l.is_finite()),
            loss_scale: self.reports.scale,
            config: config.located()?.to_toml()?,
            sources: sources.clone(),
            clock,
            blocks: Vec::new(),
            scores: None,
            has_masks: false,
            standing: self.evaluator.as_ref().map_or(Standing::default(), |e| e.standing.clone()),
            has_best: false,
            tiles: tiles.clone(),
            platform: Platform::of(device),
        };
        let adapter = match &*self.trainable {
            Trainable::Adapters(set) if !config.mask_only => Some(output::adapter_of(config, set, shapes)?),
            _ => None,
        };
        let masks = self.trainable.masks();
        let collector = self.collecting.as_ref().filter(|c| !c.is_repeated()).map(|c| &c.collector);
        let best = self.evaluator.as_ref().map_or(&[][..], |e| &e.best_values);
        let parts = Parts { blocks: self.trainable.blocks(), collector, masks, adapter, best };
        state::save(&config.out, header, &parts, config.keep_states)
    }
}
