//! `rugosa train`.

use super::tell;
use crate::cli::args::TrainArgs;
use crate::cli::progress::{Compiling, Progress};
use crate::cli::ranks;
use crate::cli::signal;
use crate::cli::waiting::Waiting;
use crate::dist;
use crate::error::{Error, Result};
use crate::report;
use crate::train::config::Method;
use crate::train::metrics::{EvalMetrics, StepMetrics};
use crate::train::output::{CONFIG_FILE, REPORT_FILE};
use crate::train::warm::Compiled;
use crate::train::{Observer, Session};
use std::path::Path;

/// Shows a run on standard error.
pub struct Watch {
    progress: Option<Progress>,
    compiling: Compiling,
    waiting: Waiting,
    log_steps: u64,
}

impl Watch {
    pub fn new(log_steps: u64) -> Self {
        Watch { progress: None, compiling: Compiling::default(), waiting: Waiting::default(), log_steps }
    }

    pub fn finish(&mut self) {
        self.waiting.end();
        if let Some(p) = &mut self.progress {
            p.finish();
        }
    }
}

impl Observer for Watch {
    fn preparing(&mut self, phase: &str) {
        self.waiting.begin(phase);
    }

    fn note(&mut self, line: &str) {
        self.waiting.pause();
        match &mut self.progress {
            Some(p) => p.note(line),
            None => tell(line),
        }
    }

    fn begin(&mut self, steps: u64, done: u64) {
        self.waiting.end();
        self.finish(); // a run whose device was lost begins again
        self.progress = Some(Progress::new(steps, done, self.log_steps));
    }

    fn compiled(&mut self, at: Compiled) {
        self.waiting.end();
        self.compiling.show(at);
    }

    fn step(&mut self, metrics: &StepMetrics) {
        if let Some(p) = &mut self.progress {
            p.step(metrics);
        }
    }

    fn evaluating(&mut self, done: usize, of: usize) {
        if let Some(p) = &mut self.progress {
            p.evaluating(done, of);
        }
    }

    fn evaluated(&mut self, metrics: &EvalMetrics) {
        if let Some(p) = &mut self.progress {
            p.evaluated(metrics);
        }
    }

    fn interrupted(&self) -> bool {
        signal::interrupted()
    }
}

/// What Ctrl-C is answered with, at once: a step may take minutes on a software renderer.
const STOPPING: &str = "stopping: the state will be saved once the step at hand is done; Ctrl-C again ends the run at once, without saving";

/// Makes the page of the run in `out`, if there is one, also where it has not come to its end. A page that cannot be written is
/// no reason to call a run failed.
fn show(out: &Path) -> Option<String> {
    let path = out.join(REPORT_FILE);
    let written = out.join(CONFIG_FILE).exists().then(|| report::write(&[out.to_path_buf()], &path))?;
    Some(match written {
        Ok(()) => format!("its curves, memory and masks: {}", path.display()),
        Err(e) => format!("there is no page of the run: {e}"),
    })
}

pub fn run(args: TrainArgs) -> Result<()> {
    signal::install(Some(STOPPING))?;
    let ranks = dist::start()?;
    let ended = dist::within(&ranks, || match ranks.is_first() {
        true => train(args),
        false => ranks::follow(args),
    });
    ranks::end(&ranks, ended)
}

fn train(args: TrainArgs) -> Result<()> {
    let resume = args.resume;
    let config = args.resolve()?;
    let (out, model, method) = (config.out.clone(), config.model.clone(), config.method);
    let masks = config.mask_file();
    let mut watch = Watch::new(config.log_steps);
    let session = if resume { Session::resume(config, &mut watch) } else { Session::prepare(config, &mut watch) };
    let outcome = session.and_then(|s| s.run(&mut watch)).map(|trained| trained.outcome);
    watch.finish();
    // of a run that is another's, or that did not begin, there is nothing to show
    let page = if matches!(outcome, Ok(_) | Err(Error::Interrupted)) { show(&out) } else { None };
    let outcome = outcome?;
    tell(&format!("done: {} steps, last loss {:.4}", outcome.steps, outcome.loss));
    page.iter().for_each(|line| tell(line));
    let (out, model) = (out.display(), model.display());
    let ask = if outcome.asks_in_chat { "--chat" } else { "--prompt" };
    tell(&match (outcome.mask_only, method) {
        (true, _) => {
            format!("use them: rugosa train --model {model} --mask {} …", masks.unwrap_or_default().display())
        }
        (false, Method::Full) => format!("use it: rugosa generate --model {out} {ask} …"),
        (false, _) => format!("use it: rugosa generate --model {model} --adapter {out} {ask} …"),
    });
    Ok(())
}
