//! The arguments of commands about the program and the machine that it runs on.

use super::DeviceArgs;
use clap::{Args, ValueEnum};

/// `rugosa doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Leave the check of the kernels out
    #[arg(long)]
    pub no_selftest: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `rugosa completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Shells that completions are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}
