//! Training by several processes: the first one is the program as it always is, the others say nothing but what ends them.

use super::args::TrainArgs;
use super::{line, signal};
use crate::dist::Ranks;
use crate::error::{Error, Result};
use crate::train::metrics::StepMetrics;
use crate::train::{Observer, Session};
use std::io::Write;
use std::time::Duration;

/// How long a rank other than the first waits before it tells an error: one that all have is told once, by the first.
const AFTER_FIRST: Duration = Duration::from_secs(2);

/// Watches a run of which the first rank tells.
struct Follower;

impl Observer for Follower {
    fn note(&mut self, _: &str) {}

    fn begin(&mut self, _: u64, _: u64) {}

    fn step(&mut self, _: &StepMetrics) {}

    fn interrupted(&self) -> bool {
        signal::interrupted()
    }
}

/// Trains as a rank other than the first.
///
/// # Errors
/// Those of [`Session`].
pub fn follow(args: TrainArgs) -> Result<()> {
    let resume = args.resume;
    let config = args.resolve()?;
    let mut watch = Follower;
    let session = if resume { Session::resume(config, &mut watch) } else { Session::prepare(config, &mut watch) };
    session.and_then(|session| session.run(&mut watch)).map(drop)
}

/// Ends this rank as its training `ended`. All stop together where they are asked to; where one fails it ends the others, which
/// would wait for it, with a line that says which.
///
/// # Errors
/// `ended`, where there is one rank, or all have stopped.
pub fn end(ranks: &Ranks, ended: Result<()>) -> Result<()> {
    match ended {
        Err(error) if !ranks.is_alone() && !matches!(error, Error::Interrupted) => {
            if !ranks.is_first() {
                std::thread::sleep(AFTER_FIRST);
            }
            let text = line(&error.to_string());
            let about_ranks = ["rank ", "ranks: "].iter().any(|start| text.starts_with(start));
            let by = if about_ranks { String::new() } else { format!("rank {}: ", ranks.rank()) };
            let _ = writeln!(std::io::stderr(), "error: {by}{text}");
            ranks.abort(signal::exit_code(&error).into())
        }
        other => other,
    }
}
