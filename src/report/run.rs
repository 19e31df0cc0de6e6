//! What a run folder holds, as far as it does.

use super::masks::{self, Mask};
use crate::data::sources::sources;
use crate::error::{Error, Result};
use crate::io::adapter;
use crate::train::folder::{self, RunState};
use crate::train::logs::SampleLine;
use crate::train::metrics::{EvalMetrics, Line, StepMetrics};
use crate::train::output::{CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, adapter_in};
use crate::train::summary::Summary;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

pub use crate::train::folder::RunState as State;

/// A run as its files tell it.
#[derive(Clone, Debug)]
pub struct RunFiles {
    pub folder: PathBuf,
    /// The name of the folder.
    pub name: String,
    /// `config.toml`, as it stands.
    pub config: toml::Table,
    pub steps: Vec<StepMetrics>,
    pub evaluations: Vec<EvalMetrics>,
    pub samples: Vec<SampleLine>,
    pub summary: Option<Summary>,
    /// By module; empty where there are none, or none yet.
    pub masks: Vec<Mask>,
    pub state: State,
    /// When its metrics were last written, in seconds since 1970.
    pub when: Option<i64>,
}

impl RunFiles {
    /// Reads the run in `folder`. What is missing beside its configuration, and what is torn, is left out.
    ///
    /// # Errors
    /// [`Error::File`] where there is no run; [`Error::Io`].
    pub fn read(folder: &Path) -> Result<RunFiles> {
        let run = RunFiles::outline(folder)?;
        Ok(RunFiles { samples: samples(&folder.join(SAMPLES_FILE)), masks: masks_of(folder), ..run })
    }

    /// The same without samples and masks.
    ///
    /// # Errors
    /// As [`RunFiles::read`].
    pub fn outline(folder: &Path) -> Result<RunFiles> {
        let path = folder.join(CONFIG_FILE);
        if !path.exists() {
            std::fs::read_dir(folder).map_err(Error::io(folder))?;
            let reason = "is missing: this is no run folder; give what ⟨out⟩ was in rugosa train";
            return Err(Error::file(folder, CONFIG_FILE, reason));
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let config: toml::Table =
            text.parse().map_err(|e: toml::de::Error| Error::file(&path, "TOML", e.message().replace('\n', "; ")))?;
        let metrics = folder.join(METRICS_FILE);
        let (steps, evaluations) = lines(&metrics);
        let changed = std::fs::metadata(&metrics).or_else(|_| std::fs::metadata(&path)).and_then(|m| m.modified());
        let when = changed.ok().and_then(|t| Some(t.duration_since(UNIX_EPOCH).ok()?.as_secs() as i64));
        let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        let name =
            whole.file_name().map_or_else(|| whole.to_string_lossy(), |name| name.to_string_lossy()).into_owned();
        let summary = Summary::read(folder).ok();
        let state = folder::state_of(folder);
        let folder = folder.to_path_buf();
        Ok(RunFiles {
            folder,
            name,
            config,
            steps,
            evaluations,
            samples: Vec::new(),
            summary,
            masks: Vec::new(),
            state,
            when,
        })
    }

    /// The text of an option; nothing where it is not given.
    pub fn option(&self, key: &str) -> Option<String> {
        self.config.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// The last part of a path in the configuration, of each where there are several.
    pub fn file_name(&self, key: &str) -> Option<String> {
        let text = self.option(key)?;
        let name =
            |path: &Path| path.file_name().map_or(path.to_string_lossy(), |name| name.to_string_lossy()).into_owned();
        match sources(Path::new(&text)).ok().filter(|all| all.len() > 1) {
            Some(all) => Some(all.iter().map(|source| name(&source.path)).collect::<Vec<_>>().join(", ")),
            None => Some(name(Path::new(&text))),
        }
    }

    /// Of the last evaluation that has one.
    pub fn last_eval_loss(&self) -> Option<f64> {
        self.evaluations.iter().rev().find_map(|e| e.eval_loss)
    }

    /// The evaluation with the lowest loss of the training phase, as the run judged it.
    pub fn best(&self) -> Option<&EvalMetrics> {
        self.evaluations.iter().rfind(|e| e.best)
    }

    /// All steps of the run, where its summary says so.
    pub fn planned_steps(&self) -> Option<u64> {
        self.summary.as_ref().map(|s| s.steps)
    }

    /// How it stands, in words.
    pub fn standing(&self) -> &'static str {
        match self.state {
            RunState::Finished if self.summary.as_ref().and_then(|s| s.ended).is_some_and(|e| e.stopped_early) => {
                "finished early"
            }
            RunState::Finished => "finished",
            RunState::Running => "running",
            RunState::Stopped => "stopped, can be resumed",
            RunState::Lost => "stopped before its first state",
        }
    }
}

fn lines(path: &Path) -> (Vec<StepMetrics>, Vec<EvalMetrics>) {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    let Ok(file) = File::open(path) else { return (steps, evaluations) };
    for line in BufReader::new(file).split(b'\n').map_while(std::io::Result::ok) {
        match Line::parse(&line) {
            Some(Line::Step(step)) => steps.push(step),
            Some(Line::Eval(evaluation)) => evaluations.push(evaluation),
            None => {}
        }
    }
    (steps, evaluations)
}

fn samples(path: &Path) -> Vec<SampleLine> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let lines = BufReader::new(file).split(b'\n').map_while(std::io::Result::ok);
    lines.filter_map(|line| serde_json::from_slice(&line).ok()).collect()
}

/// Those of the adapter, of the last state's, or of the file that a run of masks alone made.
fn masks_of(folder: &Path) -> Vec<Mask> {
    let adapter = adapter_in(folder).map(|place| place.folder.join(adapter::TENSORS_FILE));
    let alone = folder.join(crate::train::config::MASKS_FILE);
    let path = adapter.ok().filter(|path| path.exists()).unwrap_or(alone);
    masks::read(&path).unwrap_or_default()
}
