//! The command line: arguments, commands, progress and how the process ends.
pub mod args;
pub mod commands;
pub mod counting;
pub mod demo;
pub mod downloads;
mod plot;
pub mod progress;
mod ranks;
#[cfg(test)]
mod shared;
pub mod signal;
pub mod waiting;

use crate::error::Result;
use crate::shown;
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

/// A line for the terminal: what may come out of a file is made safe, and options are named by their flags.
pub fn line(text: &str) -> String {
    with_flags(&shown::one_line(text))
}

/// `text` with the flag of each option that it names.
fn with_flags(text: &str) -> String {
    shown::options(text, |key| format!("--{}", key.replace('_', "-"))).into_owned()
}
