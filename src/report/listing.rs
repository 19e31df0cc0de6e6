//! The runs in a folder, one a line.

use super::curves::last_loss;
use super::run::RunFiles;
use super::tables::date;
use crate::error::{Error, Result};
use crate::shown;
use crate::train::output::CONFIG_FILE;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A run in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    pub name: String,
    pub folder: PathBuf,
    pub method: Option<String>,
    pub model: Option<String>,
    /// That of the last step.
    pub phase: Option<String>,
    pub steps: u64,
    /// All of the run, where it says so.
    pub of: Option<u64>,
    /// The mean of the last steps'.
    pub loss: Option<f64>,
    pub eval_loss: Option<f64>,
    pub best_eval_loss: Option<f64>,
    pub exact_match: Option<f64>,
    /// When its metrics were last written, in seconds since 1970.
    pub when: Option<i64>,
    pub state: String,
}

/// The runs in the folders below `folder`, and in itself, those that were last written first. One that cannot be read is left out,
/// and named in a line.
///
/// # Errors
/// [`Error::Io`] where there is no such folder.
pub fn list(folder: &Path) -> Result<(Vec<Listed>, Vec<String>)> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let folders = std::iter::once(folder.to_path_buf()).chain(below).filter(|path| path.join(CONFIG_FILE).is_file());
    let (mut runs, mut notes) = (Vec::new(), Vec::new());
    for folder in folders {
        match RunFiles::outline(&folder) {
            Ok(run) => runs.push(listed(&run)),
            Err(e) => notes.push(e.to_string()),
        }
    }
    runs.sort_by(|a, b| b.when.cmp(&a.when).then_with(|| a.name.cmp(&b.name)));
    Ok((runs, notes))
}

fn listed(run: &RunFiles) -> Listed {
    Listed {
        name: run.name.clone(),
        folder: run.folder.clone(),
        method: run.option("method"),
        model: run.file_name("model"),
        phase: run.steps.last().map(|m| m.phase.to_string()),
        steps: run.steps.len() as u64,
        of: run.planned_steps(),
        loss: last_loss(run),
        eval_loss: run.last_eval_loss(),
        best_eval_loss: run.best().and_then(|e| e.eval_loss),
        exact_match: run.evaluations.iter().rev().find_map(|e| e.exact_match),
        when: run.when,
        state: run.standing().to_owned(),
    }
}

/// The table of `runs`, for a terminal.
pub fn table(runs: &[Listed]) -> String {
    let head = ["name", "method", "model", "phase", "steps", "loss", "eval", "best", "match", "when", "state"];
    let number = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), |x| format!("{x:.4}"));
    let text = |x: &Option<String>| x.as_deref().map_or_else(|| "–".to_owned(), |x| shown::one_line(x).into_owned());
    let mut rows = vec![head.map(str::to_owned)];
    for run in runs {
        let of = run.of.map_or(String::new(), |of| format!("/{of}"));
        rows.push([
            shown::one_line(&run.name).into_owned(),
            text(&run.method),
            text(&run.model),
            text(&run.phase),
            format!("{}{of}", run.steps),
            number(run.loss),
            number(run.eval_loss),
            number(run.best_eval_loss),
            run.exact_match.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
            run.when.map_or_else(|| "–".to_owned(), date),
            run.state.clone(),
        ]);
    }
    // a column that no run has is left out
    let is_used = |i: usize| i == 0 || rows[1..].iter().any(|row| row[i] != "–");
    let columns: Vec<usize> = (0..head.len()).filter(|i| is_used(*i)).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 11]| {
        let cell = |i: &usize| format!("{:<width$}", row[*i], width = width(*i));
        columns.iter().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
