//! `rugosa runs`: the runs in a folder.

use super::{complain, print, tell};
use crate::cli::args::RunsArgs;
use crate::error::{Error, Result};
use crate::report::{list, table};
use crate::shown;

pub fn run(args: &RunsArgs) -> Result<()> {
    let (runs, notes) = list(&args.folder)?;
    // of what cannot be read, whoever wants quiet must know too
    notes.iter().for_each(|note| complain(note));
    if args.json {
        let text = serde_json::to_string(&runs).map_err(|e| Error::invalid("--json", e.to_string()))?;
        return print(&(shown::json(&text) + "\n"));
    }
    if runs.is_empty() {
        tell(&format!("no run in {}, nor in a folder directly below it", args.folder.display()));
        return Ok(());
    }
    print(&table(&runs))
}
