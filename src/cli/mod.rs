//! The command line: arguments, commands, progress and how the process ends.
pub mod args;
pub mod commands;
pub mod demo;
mod plot;
pub mod progress;
pub mod signal;

use crate::error::Result;
use crate::shown;

/// Does what the arguments say. Results go to standard output, everything else to standard error.
///
/// # Errors
/// Those of the command; [`signal::exit_code`] turns them into the process's.
pub fn run(cli: args::Cli) -> Result<()> {
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
