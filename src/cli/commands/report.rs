//! `rugosa report`: a run, or several, as a page.

use super::{print, tell};
use crate::cli::args::ReportArgs;
use crate::error::Result;
use crate::report;
use crate::shown;
use crate::train::output::REPORT_FILE;

pub fn run(args: ReportArgs) -> Result<()> {
    let path = args.html.unwrap_or_else(|| args.out.join(REPORT_FILE));
    let folders: Vec<_> = std::iter::once(args.out).chain(args.compare).collect();
    report::write(&folders, &path)?;
    tell("open it in a browser:");
    print(&format!("{}\n", shown::path(&path)))
}
