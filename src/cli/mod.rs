//! The command line: arguments, commands, progress and how the process ends.
pub mod args;
pub mod commands;
pub mod counting;
pub mod demo;
mod plot;
pub mod progress;
pub mod signal;

use crate::error::Result;

/// Does what the arguments say. Results go to standard output, everything else to standard error.
///
/// # Errors
/// Those of the command; [`signal::exit_code`] turns them into the process's.
pub fn run(cli: args::Cli) -> Result<()> {
    commands::run(cli.command)
}
