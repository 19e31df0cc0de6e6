//! A run from start to end: its steps, and what it writes behind them; `prepare` has what comes before.

use super::config::TrainConfig;
use super::evaluation::Evaluation;
use super::folder::{self, RunLock};
use super::logs::{Logs, Wanted};
use super::observer::Observer;
use super::phase::Agenda;
use super::plan::{self, MemoryPlan};
use super::prepare::{
    Decided, Rows, check_folder_of, decide, keep_platform, load_model, open_data, open_device, pinned, settled,
    shape_in,
};
use super::recover::{self, Again, Losses};
use super::state::{self, Saved, SavedTiles};
use super::step::Stepper;
use super::steps::{Ended, Fixed, Steps};
use super::summary::Summary;
use super::trainable::{Trainable, load_options, open_model};
use super::trained::Trained;
use super::{full, notes, output, ranks, resume};
use crate::adapters::module_shapes;
use crate::adapters::targets::LinearShape;
use crate::data::{Ahead, Dataset, Tokenizer, now};
use crate::device::Device;
use crate::dist::Ranks;
use crate::error::{Error, Result};
use crate::io::adapter::AdapterFolder;
use crate::nn::Decoder;
use crate::nn::loader::load_shapes;
use crate::optim::Training;
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// All that were done, over all phases.
    pub steps: u64,
    /// Evaluations did not get better any more, so that later steps were left out.
    pub stopped_early: bool,
    /// The steps before the best evaluation of the training phase and its loss, where there was one.
    pub best: Option<(u64, f64)>,
    /// Of the last step.
    pub loss: f64,
    /// Of the steps those that changed nothing, because their loss or gradient was not finite.
    pub skipped: u64,
    /// The most bytes that the run held on the device.
    pub peak_bytes: u64,
    /// What was planned, and what the device's ledger has seen.
    pub plan: MemoryPlan,
    pub seen: MemoryPlan,
    /// The masks were all that was wanted.
    pub mask_only: bool,
    /// The rows ask through the chat template.
    pub asks_in_chat: bool,
}

/// Everything that a run holds.
pub struct Session {
    config: TrainConfig,
    device: Device,
    model: Decoder,
    dataset: Dataset,
    evaluation: Option<Evaluation>,
    tokenizer: Option<Arc<Tokenizer>>,
    agenda: Agenda,
    stepper: Stepper,
    trainable: Trainable,
    init: Option<AdapterFolder>,
    /// `init` is the state of a run that has not finished: the folder of this one keeps it.
    init_passes: bool,
    /// All linears of the model.
    shapes: Vec<LinearShape>,
    plan: MemoryPlan,
    /// Digests of what the run reads.
    sources: BTreeMap<String, String>,
    /// What chat templates saw as the time, in seconds since 1970.
    clock: i64,
    saved: Option<Saved>,
    tiles: SavedTiles,
    /// Of the run folder, once it is there.
    lock: Option<RunLock>,
    /// Whether the run folder is this run's already.
    has_folder: bool,
    /// Where a rank other than the first keeps its files.
    _own_folder: Option<TempDir>,
}

impl Session {
    /// Reads everything that the configuration names and prepares the run. Nothing is written but the lock of a folder that has
    /// a run in it.
    ///
    /// # Errors
    /// Those of what is read, of the device, and of a run folder that is in use.
    pub fn prepare(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        let (config, own_folder) = ranks::own_folder(config)?;
        let lock = RunLock::take_existing(&config.out)?;
        folder::again(folder::check_free(&config)?).iter().for_each(|line| observer.note(line));
        let opened = recover::first(observer, |again, observer| Session::open(config.clone(), None, again, observer))?;
        Ok(Session { lock, _own_folder: own_folder, ..opened })
    }

    /// Prepares to go on with the run in the folder of `config` from its last state, or from the start if it stopped before the
    /// first one.
    ///
    /// # Errors
    /// As [`Session::prepare`]; [`Error::File`] if the run is finished, there is none, or its files have changed;
    /// [`Error::Invalid`] if its configuration has.
    pub fn resume(config: TrainConfig, observer: &mut dyn Observer) -> Result<Session> {
        let (config, own_folder) = ranks::own_folder(config)?;
        let lock = RunLock::take_existing(&config.out)?;
        ranks::hand_out(&config.out)?;
        let opened = recover::first(observer, |again, observer| {
            let (config, saved) = resume::find(config.clone())?;
            match &saved {
                Some(saved) => saved.damaged.iter().for_each(|line| observer.note(line)),
                None => observer.note("the run stopped before its first state was saved: it begins again"),
            }
            Session::open(config, saved, again, observer)
        })?;
        Ok(Session { lock, _own_folder: own_folder, ..opened })
    }

    /// `again`: its device was lost before. The lock of the folder comes from outside.
    pub(super) fn open(
        config: TrainConfig,
        saved: Option<Saved>,
        again: Option<Again>,
        observer: &mut dyn Observer,
    ) -> Result<Session> {
        check_folder_of(config.save_mask.as_deref())?;
        let config = pinned(config)?;
        observer.preparing("opening the model");
        let checkpoint = open_model(&config)?;
        checkpoint.notes.iter().for_each(|note| observer.note(note));
        let began = saved.as_ref().map(|saved| saved.header.clock).or(again.as_ref().and_then(|a| a.clock));
        let began = ranks::clock(began)?;
        let clock = began.unwrap_or_else(now);
        observer.preparing("reading the rows");
        let Rows { dataset, evaluation, tokenizer } = open_data(&config, &checkpoint, began, observer)?;
        observer.preparing("opening the device");
        let asked = config;
        let mut config = asked.clone().for_data(dataset.report().sequences)?;
        let device = open_device(&config, saved.as_ref(), again.as_ref(), observer)?;
        let options = load_options(&config, checkpoint.config.max_position_embeddings);
        let shapes = module_shapes(&load_shapes(&device.counting(), &checkpoint, options.clone())?);
        let Decided { start, sources, agenda } =
            decide(&asked, &mut config, (&dataset, evaluation.as_ref()), &shapes, saved.as_ref(), observer)?;
        ranks::check_alike(&config, &sources, &device, dataset.report().sequences)?;
        evaluation.iter().for_each(|evaluation| observer.note(&evaluation.line(&config)));
        keep_platform(&device, saved.as_ref(), again.as_ref(), observer)?;
        observer.preparing("planning the memory");
        let run = plan::Run {
            config: &config,
            checkpoint: &checkpoint,
            dataset: Some(&dataset),
            evaluation: evaluation.as_ref(),
            agenda: &agenda,
            masks: start.masks.as_ref(),
            caps: device.caps(),
            precision: device.precision(),
            tiles: device.tiles(),
        };
        let has_folder = saved.is_some() || again.as_ref().is_some_and(|a| a.under_way);
        let (config, plan) = settled(&device, run, has_folder, observer)?;
        let tiles = SavedTiles { device: device.caps().identity(), table: device.tiles().of(&plan.products) };
        let mut model = load_model(&device, &checkpoint, options, &plan.kernels, observer)?;
        observer.preparing("making the adapters");
        let masks = match &saved {
            Some(saved) => saved.masks(shape_in(&shapes))?,
            None => start.masks,
        };
        let mut trainable = Trainable::new(&device, &config, &mut model, &shapes, masks.as_ref())?;
        if let (Trainable::Adapters(set), None) = (&mut trainable, &saved) {
            set.initialise(config.seed, start.adapter.as_ref())?;
        }
        let stepper = Stepper::of(&device, &config)?.among(Ranks::current());
        let (init, init_passes, plan) = (start.adapter, start.passing, plan.memory);
        Ok(Session {
            config,
            device,
            model,
            dataset,
            evaluation,
            tokenizer,
            agenda,
            stepper,
            trainable,
            init,
            init_passes,
            shapes,
            plan,
            sources,
            clock,
            saved,
            tiles,
            lock: None,
            has_folder,
            _own_folder: None,
        })
    }

    /// What the run computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs all steps that are left and writes the run folder. Where the observer interrupts, the state is saved first. A
    /// device that is lost is opened again, and the run goes on from its last state.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::DeviceLost`] where the device is lost again and again; those of the device and of
    /// files.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Trained> {
        let mut losses = Losses::default();
        loop {
            match self.run_once(observer) {
                Ok(outcome) => return Ok(self.into_trained(outcome)),
                // among ranks what the others computed is lost with it
                Err(Error::DeviceLost { reason, .. }) if self.stepper.ranks().is_alone() => {
                    let (config, caps) = (self.config.clone(), self.device.caps().clone());
                    let again = Again {
                        under_way: true,
                        identity: Some(caps.identity()),
                        tiles: Some(self.tiles.clone()),
                        clock: Some(self.clock),
                        quarterings: 0,
                    };
                    let lock = self.lock.take();
                    drop(self); // with all that lay on the device
                    self = recover::reopen(&config, again, &caps.name, reason, &mut losses, observer)?;
                    self.lock = lock;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn run_once(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let folder = self.config.out.clone();
        let mut logs = self.open_logs()?;
        let summary = Summary::of(&self.device, &self.agenda, &self.plan);
        summary.write(&folder)?;
        observer.begin(self.agenda.steps(), self.done());
        let ended = self.steps(&mut logs, observer)?;
        let seen = MemoryPlan::of(&self.device.ledger());
        summary.ended(&seen, ended.steps, ended.stopped_early, ended.best).write(&folder)?;
        self.write_result()?;
        state::remove_all(&folder)?;
        self.tell(&ended, &seen, observer)?;
        Ok(Outcome {
            steps: ended.steps,
            stopped_early: ended.stopped_early,
            best: ended.best.map(|best| (best.after, best.loss)),
            loss: ended.loss,
            skipped: ended.skipped,
            peak_bytes: seen.total,
            plan: self.plan.clone(),
            seen,
            mask_only: self.config.mask_only,
            asks_in_chat: self.dataset.report().asks_in_chat(),
        })
    }

    /// Steps that lie behind the run already.
    fn done(&self) -> u64 {
        self.saved.as_ref().map_or(0, |s| s.header.step)
    }

    /// The files that grow with the steps, cut to where the run goes on; the folder is made if it is not there.
    fn open_logs(&mut self) -> Result<Logs> {
        let wanted = Wanted { samples: self.config.sample_prompts.is_some(), events: self.config.tensorboard };
        if let Some(saved) = &self.saved {
            folder::sweep(&self.config.out)?;
            return Logs::resume(&self.config.out, wanted, saved.header.step, saved.header.standing.after);
        }
        if !self.has_folder {
            self.create_folder()?;
        }
        Logs::create(&self.config.out, wanted)
    }

    /// Writes what the run was for, and leaves the model as its adapters make it, without gradients.
    fn write_result(&self) -> Result<()> {
        let folder = &self.config.out;
        let is_first = self.stepper.ranks().is_first();
        match &self.trainable {
            Trainable::Adapters(set) => {
                set.attach(&self.model, Training::default(), None)?;
                if self.config.mask_only || !is_first {
                    return Ok(()); // the masks were written when they were made
                }
                output::adapter_of(&self.config, set, &self.shapes)?.write(folder)
            }
            Trainable::Weights(_) if !is_first => Ok(()),
            Trainable::Weights(_) => full::write_model(folder, &self.config.model, &self.model),
        }
    }

    /// Says what is worth knowing of a run that has ended.
    fn tell(&self, ended: &Ended, seen: &MemoryPlan, observer: &mut dyn Observer) -> Result<()> {
        let metrics = self.config.out.join(output::METRICS_FILE);
        if self.agenda.restarts() {
            notes::after(&metrics)?.iter().for_each(|line| observer.note(line));
        }
        observer.note(&format!(
            "memory on the device: at most {} at once, {} were planned; {} taken with what is kept for reuse",
            plan::size(seen.total),
            plan::size(self.plan.total),
            plan::size(seen.reserved)
        ));
        if ended.skipped > 0 {
            observer.note(&format!(
                "{} of {} steps were skipped, since their loss or gradient was not finite: they changed nothing, and the \
                 next rows came next; see \"skipped\" in {}",
                ended.skipped,
                ended.steps,
                metrics.display()
            ));
        }
        Ok(())
    }

    fn into_trained(self, outcome: Outcome) -> Trained {
        let adapters = match self.trainable {
            Trainable::Adapters(set) => Some(*set),
            Trainable::Weights(_) => None,
        };
        let Session { config, device, model, tokenizer, shapes, .. } = self;
        Trained { outcome, device, model, adapters, tokenizer, config, shapes }
    }

    fn create_folder(&mut self) -> Result<()> {
        let kept = self.config.out.join(output::INIT_ADAPTER);
        let init = self.init.as_ref().filter(|_| self.init_passes);
        if init.is_some() {
            self.config.init_adapter = Some(kept.clone());
        }
        self.lock = Some(folder::create(&self.config, init, self.lock.take())?);
        if init.is_some() {
            self.sources.insert(resume::ADAPTER_KEY.into(), resume::digest_of_adapter(&kept)?);
        }
        self.has_folder = true;
        Ok(())
    }

    fn steps(&mut self, logs: &mut Logs, observer: &mut dyn Observer) -> Result<Ended> {
        let batches = self.dataset.batches(&self.config.batch_options())?;
        let run = Fixed {
            config: &self.config,
            device: &self.device,
            model: &self.model,
            agenda: &self.agenda,
            stepper: &self.stepper,
            init: self.init.as_ref(),
            shapes: &self.shapes,
            sources: &self.sources,
            clock: self.clock,
            tiles: &self.tiles,
            saved: self.saved.as_ref(),
            evaluation: self.evaluation.as_ref(),
        };
        let trainable = &mut self.trainable;
        std::thread::scope(|scope| Steps::new(run, trainable, Ahead::start(scope, batches)?, logs)?.take_all(observer))
    }
}
