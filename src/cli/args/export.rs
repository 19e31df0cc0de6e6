//! `rugosa export`.

use crate::io::adapter::ExportFormat;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `rugosa export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The adapter: a folder that `rugosa train` wrote, or one of PEFT's
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Its model: names and shapes are checked against it. Needed for gguf, and where an adapter has no low-rank part
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    pub to: ExportTarget,
    /// The new folder, or for gguf the new file
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Read the result again and compare every number
    #[arg(long)]
    pub verify: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What an adapter is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTarget {
    /// PEFT: its LoRA, or with a sparse part its SUPERTUNING
    Peft,
    /// The format of the original RoSA code
    PeftRosa,
    /// llama.cpp's LoRA; not for adapters with a sparse part
    Gguf,
}

impl From<ExportTarget> for ExportFormat {
    fn from(target: ExportTarget) -> ExportFormat {
        match target {
            ExportTarget::Peft => ExportFormat::Peft,
            ExportTarget::PeftRosa => ExportFormat::PeftRosa,
            ExportTarget::Gguf => ExportFormat::Gguf,
        }
    }
}
