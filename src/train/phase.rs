//! The phases of a run: which optimiser step trains what, collects gradients, builds masks or starts afresh.
//!
//! An [`Agenda`] is a pure function from the number of a step to its [`StepPlan`], so a run's position in it is that one
//! number. N = warm-up steps of the schedule, G = `mask_grads`, T = the run's steps:
//!
//! | schedule | masks given | steps |
//! |---|---|---|
//! | `wlN` | no | N warm-up of A and B, G collection (A and B train on), *masks*, training of all |
//! | `wlN` | yes | N warm-up of A and B, training of all |
//! | `default` = `df` = `wl0` | no | G collection (A and B train), *masks*, training of all |
//! | `default` | yes | training of all |
//! | `spa_only` | no / yes | G collection (nothing trains), *masks*, training of S / training of S |
//! | `lora_only` | | training of A and B |
//! | method `full` | | training of all weights |
//!
//! With `restart` (the paper's way) a run that collected begins again at *masks*: A, B, the optimiser's state, the
//! learning-rate schedule and the order of the data are as at the start of the run, S is 0 (or what `init_adapter` gives),
//! and T counts the training phase alone; warm-up and collection come on top and follow the schedule of a run of T steps,
//! stretched if they are longer than that. Without it everything goes on, S joins in with fresh optimiser state, and T
//! counts all steps.

use crate::error::{Error, Result};
use crate::optim::{Group, Training};
use crate::train::config::{Method, TrainConfig};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// When the halves of the adapter train: the paper's `schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// `wlN`: N steps of A and B, then the masks, then all; N = 0 is written `default`.
    WarmLora(u32),
    /// `spa_only`: A and B never train.
    SpaOnly,
    /// `lora_only`: no masks.
    LoraOnly,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::WarmLora(0) => f.write_str("default"),
            Schedule::WarmLora(n) => write!(f, "wl{n}"),
            Schedule::SpaOnly => f.write_str("spa_only"),
            Schedule::LoraOnly => f.write_str("lora_only"),
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wl = |n: &str| n.bytes().all(|b| b.is_ascii_digit()).then(|| n.parse().ok()).flatten();
        match text {
            "default" | "df" => Some(Schedule::WarmLora(0)),
            "spa_only" => Some(Schedule::SpaOnly),
            "lora_only" => Some(Schedule::LoraOnly),
            _ => text.strip_prefix("wl").and_then(wl).map(Schedule::WarmLora),
        }
        .ok_or_else(|| {
            format!("\"{text}\" is none of default, spa_only, lora_only and wlN with a number of steps N (wl64)")
        })
    }
}

impl Serialize for Schedule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A part of a run, as it stands in `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A and B train so that the gradient of the frozen weights means something.
    Warmup,
    /// Gradients of the frozen weights are gathered for the masks.
    Collect,
    /// What the run is for.
    Train,
}

/// All phases in their order; each is its own index.
pub const PHASES: [Phase; 3] = [Phase::Warmup, Phase::Collect, Phase::Train];

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Warmup => "warmup",
            Phase::Collect => "collect",
            Phase::Train => "train",
        })
    }
}

/// What one optimiser step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlan {
    pub phase: Phase,
    /// What takes an update.
    pub trains: Training,
    /// Every micro-batch's gradient of the frozen weights is added to the score.
    pub collect: bool,
    /// 0-based step of the learning-rate schedule, and of the data: window number `schedule_step` is this step's.
    pub schedule_step: u64,
    /// Length of the learning-rate schedule.
    pub total_steps: u64,
    /// Before this step the run begins again (see the top of the module), data included.
    pub restart_before: bool,
    /// After this step's update the masks are built from what was collected. Scores are of gradients before the update.
    pub build_masks_after: bool,
}

/// The steps of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agenda {
    method: Method,
    schedule: Schedule,
    /// Steps of warm-up, collection and training.
    lengths: [u64; 3],
    restart: bool,
    /// Length of the learning-rate schedule before a restart.
    first_total: u64,
}

impl Agenda {
    /// The agenda of a run of `steps` optimiser steps (T above, as [`TrainConfig::total_steps`] gives it). `masks_given`:
    /// a mask file or the initial adapter brings masks.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is nothing to train: no steps, all of them spent before the masks exist, or only
    /// masks wanted that are there already.
    pub fn new(config: &TrainConfig, masks_given: bool, steps: u64) -> Result<Self> {
        let schedule = config.schedule_of(steps);
        let (warmup, collects) = match (config.method, schedule) {
            (Method::Full, _) | (_, Schedule::LoraOnly) => (0, false),
            (_, Schedule::WarmLora(n)) => (u64::from(n), !masks_given),
            (_, Schedule::SpaOnly) => (0, !masks_given),
        };
        let collect = if collects { u64::from(config.mask_grads_of(steps)) } else { 0 };
        let before = warmup + collect;
        if steps == 0 {
            return Err(Error::option("steps", "the run has no steps; give ⟨steps⟩, or more ⟨epochs⟩ or rows"));
        }
        if config.mask_only && !collects {
            return Err(Error::option("mask_only", "the masks are given already; drop ⟨mask_only⟩, or give none"));
        }
        let restart = config.restart && collects;
        if !restart && !config.mask_only && steps <= before {
            return Err(Error::option(
                "schedule",
                match warmup {
                    0 => format!(
                        "masks take {before} steps before the sparse values train and the run has {steps}; use more ⟨steps⟩ or \
                         ⟨epochs⟩, or leave ⟨no_restart⟩ out"
                    ),
                    _ => format!(
                        "{schedule} takes {before} steps before the sparse values train and the run has {steps}; use a shorter \
                         one (⟨schedule⟩ wl{}), or a longer run",
                        warmup.min(steps / 4)
                    ),
                },
            ));
        }
        let train = match (config.mask_only, restart) {
            (true, _) => 0,
            (false, true) => steps,
            (false, false) => steps - before,
        };
        let first_total = steps.max(before);
        Ok(Agenda { method: config.method, schedule, lengths: [warmup, collect, train], restart, first_total })
    }

    /// Optimiser steps of the whole run, all phases.
    pub fn steps(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Whether what trains before the masks is thrown away.
    pub fn restarts(&self) -> bool {
        self.restart && self.schedule != Schedule::SpaOnly && self.lengths[Phase::Train as usize] > 0
    }

    /// What comes before the training of all, and what becomes of it; nothing where there is no such thing.
    pub fn line(&self) -> Option<String> {
        let [warmup, collect, train] = self.lengths;
        let before = warmup + collect;
        if before == 0 || train == 0 {
            return None;
        }
        let steps = |n: u64| format!("{n} step{}", if n == 1 { "" } else { "s" });
        let first = match (warmup, collect) {
            (0, c) => format!("{} to choose the masks", steps(c)),
            (w, 0) => format!("{} of low-rank warm-up", steps(w)),
            (w, c) => format!("{} of low-rank warm-up and {c} to choose the masks", steps(w)),
        };
        let fate = match self.restarts() {
            true if before > train => {
                ", thrown away at the restart, which is more than is kept (⟨no_restart⟩ goes on from it, ⟨schedule⟩ wlN \
                 makes it shorter)"
            }
            true => ", thrown away at the restart (⟨no_restart⟩ goes on from it)",
            false => "",
        };
        Some(format!("schedule: {first}{fate}, then {} of training", steps(train)))
    }

    /// Optimiser steps of `phase`.
    pub fn phase_steps(&self, phase: Phase) -> u64 {
        self.lengths[phase as usize]
    }

    /// The 0-based step with which `phase` begins.
    pub fn phase_start(&self, phase: Phase) -> u64 {
        self.lengths[..phase as usize].iter().sum()
    }

    /// The windows of the data that `phase` sees.
    pub fn windows(&self, phase: Phase) -> Range<u64> {
        let first = self.plan(self.phase_start(phase)).map_or(0, |plan| plan.schedule_step);
        first..first + self.phase_steps(phase)
    }

    /// The plan of 0-based step `step`; `None` once the run is over.
    pub fn plan(&self, step: u64) -> Option<StepPlan> {
        if step >= self.steps() {
            return None;
        }
        let [warmup, collect, train] = self.lengths;
        let before = warmup + collect;
        let phase = match step {
            _ if step < warmup => Phase::Warmup,
            _ if step < before => Phase::Collect,
            _ => Phase::Train,
        };
        let afresh = self.restart && phase == Phase::Train;
        let updates = |group: &Group| match group {
            Group::Weights => self.method == Method::Full,
            _ if self.method == Method::Full => false,
            Group::LowRank => self.method != Method::Spa && self.schedule != Schedule::SpaOnly,
            Group::Sparse => phase == Phase::Train && self.schedule != Schedule::LoraOnly,
        };
        Some(StepPlan {
            phase,
            trains: Training::only(Group::ALL.into_iter().filter(updates)),
            collect: phase == Phase::Collect,
            schedule_step: if afresh { step - before } else { step },
            total_steps: if afresh { train } else { self.first_total },
            restart_before: afresh && step == before,
            build_masks_after: phase == Phase::Collect && step + 1 == before,
        })
    }
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
