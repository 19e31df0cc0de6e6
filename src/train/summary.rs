//! `summary.json` in a run folder: what a reader of the run should know beside its configuration and its steps. It is written when the
//! run begins or goes on, and again when it ends.

use super::evaluator::Best;
use super::output::SUMMARY_FILE;
use super::phase::{Agenda, PHASES, Phase};
use super::plan::MemoryPlan;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a run is, and once it has ended what it came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Of the program.
    pub version: String,
    pub device: String,
    pub api: String,
    /// Method, model and data are in `config.toml`. The steps of the whole run, and of each phase that it has.
    pub steps: u64,
    pub phases: Vec<PhaseSteps>,
    /// Whether what trains before the masks is thrown away.
    pub restarts: bool,
    pub planned: Memory,
    /// What the device's ledger has seen of it, from where the run last began to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Memory>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ending>,
}

/// A phase and its first step, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSteps {
    pub phase: Phase,
    pub first: u64,
    pub steps: u64,
}

/// Bytes on the device when they are the most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// By purpose, the largest first.
    pub purposes: Vec<(String, u64)>,
    pub total: u64,
    /// With what is kept for reuse.
    pub reserved: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub steps: u64,
    pub stopped_early: bool,
    pub best: Option<Best>,
}

impl From<&MemoryPlan> for Memory {
    fn from(plan: &MemoryPlan) -> Memory {
        let purposes = plan.rows.iter().map(|(what, bytes)| ((*what).to_owned(), *bytes)).collect();
        Memory { purposes, total: plan.total, reserved: plan.reserved }
    }
}

impl Summary {
    /// Of a run that begins or goes on.
    pub fn of(device: &Device, agenda: &Agenda, planned: &MemoryPlan) -> Summary {
        let phase = |phase| PhaseSteps { phase, first: agenda.phase_start(phase), steps: agenda.phase_steps(phase) };
        Summary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: device.caps().name.clone(),
            api: device.caps().api.to_string(),
            steps: agenda.steps(),
            phases: PHASES.into_iter().map(phase).filter(|phase| phase.steps > 0).collect(),
            restarts: agenda.restarts(),
            planned: planned.into(),
            seen: None,
            ended: None,
        }
    }

    /// The same run, which has ended.
    pub fn ended(&self, seen: &MemoryPlan, steps: u64, stopped_early: bool, best: Option<Best>) -> Summary {
        Summary { seen: Some(seen.into()), ended: Some(Ending { steps, stopped_early, best }), ..self.clone() }
    }

    /// Writes it into a run folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(SUMMARY_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&path, "JSON", e.to_string()))?;
        write_atomic(&path, |w| w.write_all(text.as_bytes()))
    }

    /// That of a run folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where it is none.
    pub fn read(folder: &Path) -> Result<Summary> {
        let path = folder.join(SUMMARY_FILE);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, "JSON", e.to_string()))
    }
}
