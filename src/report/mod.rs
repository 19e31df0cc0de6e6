//! A run, or several, as one page of HTML that needs nothing else: what a run folder holds, drawn.
//!
//! Nothing here touches a device or a model: a page is made of the files that `train` has written, whole or not, so it can be made
//! while the run goes on and on another machine. All that files say is escaped, and the page forbids scripts and foreign
//! resources to whoever shows it.

mod chart;
mod command;
mod curves;
mod html;
mod listing;
mod masks;
mod page;
mod run;
mod sections;
mod tables;

pub use command::command;
pub use html::escape;
pub use listing::{Listed, list, table};
pub use page::page;
pub use run::{RunFiles, State};

use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use std::path::{Path, PathBuf};

/// Writes the page of the run in the first of `folders`, compared with those in the others, to `path`.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where a folder holds no run.
pub fn write(folders: &[PathBuf], path: &Path) -> Result<()> {
    let runs: Vec<RunFiles> = folders.iter().map(|folder| RunFiles::read(folder)).collect::<Result<_>>()?;
    if runs.is_empty() {
        return Err(Error::invalid("report", "there is no run to show"));
    }
    let text = page(&runs);
    write_atomic(path, |w| w.write_all(text.as_bytes()))
}
