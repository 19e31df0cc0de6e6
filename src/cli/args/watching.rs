//! The arguments of the commands that show runs.

use clap::Args;
use std::path::PathBuf;

const REPORT_EXAMPLE: &str =
    "Examples:\n  rugosa report --out run\n  rugosa report --out run --compare other third --html compared.html";
const RUNS_EXAMPLE: &str = "Examples:\n  rugosa runs .\n  rugosa runs runs --json";

/// `rugosa report`.
#[derive(Debug, Args)]
#[command(after_help = REPORT_EXAMPLE)]
pub struct ReportArgs {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Folders of runs to show beside it, on the same page
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub compare: Vec<PathBuf>,
    /// Where to write the page [default: report.html in --out]
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
}

/// `rugosa runs`.
#[derive(Debug, Args)]
#[command(after_help = RUNS_EXAMPLE)]
pub struct RunsArgs {
    /// The folder that the runs' folders are in
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}
