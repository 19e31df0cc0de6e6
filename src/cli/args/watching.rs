//! The arguments of the commands that show runs.

use clap::Args;
use std::path::PathBuf;

/// `rugosa report`.
#[derive(Debug, Args)]
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
pub struct RunsArgs {
    /// The folder that the runs' folders are in
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}
