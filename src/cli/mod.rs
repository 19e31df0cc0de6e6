//! The command line: arguments, commands, progress and how the process ends.
pub mod args;
pub mod commands;
pub mod demo;
pub mod downloads;
mod plot;
pub mod progress;
pub mod signal;
pub mod waiting;

use crate::error::Result;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether the user wants nothing on standard error but errors.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Where progress and notes go: standard error, or nowhere.
pub fn chatter() -> Box<dyn Write + Send> {
    if is_quiet() { Box::new(std::io::sink()) } else { Box::new(std::io::stderr()) }
}

/// Does what the arguments say. Results go to standard output, everything else to standard error.
///
/// # Errors
/// Those of the command; [`signal::exit_code`] turns them into the process's.
pub fn run(cli: args::Cli) -> Result<()> {
    QUIET.store(cli.quiet, Ordering::Relaxed);
    downloads::show();
    commands::run(cli.command)
}
