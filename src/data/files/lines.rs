//! Lines of a file, streamed.

use super::{RowText, not_utf8};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Bytes of one line at most.
pub(super) const LONGEST_LINE: u64 = 64 << 20;

/// The lines of a file that are not blank, with their numbers from 1. A byte order mark at the start and carriage
/// returns at the ends are left out.
pub(in crate::data) struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    line: usize,
}

impl<'a> Lines<'a> {
    pub fn new(path: &'a Path, reader: BufReader<File>) -> Lines<'a> {
        Lines { path, reader, line: 0 }
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Row`] for a line that is not UTF-8.
    pub fn next_row(&mut self) -> Result<Option<RowText>> {
        loop {
            let mut raw = Vec::new();
            let mut line = self.reader.by_ref().take(LONGEST_LINE + 1);
            if line.read_until(b'\n', &mut raw).map_err(Error::io(self.path))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if raw.len() as u64 > LONGEST_LINE {
                let reason = format!("has over {LONGEST_LINE} bytes without a line break; one row a line is wanted");
                return Err(Error::row(self.path, self.line, reason));
            }
            let text = String::from_utf8(raw).map_err(|e| not_utf8(self.path, self.line, e.utf8_error()))?;
            let row =
                row(self.line, if self.line == 1 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text });
            if row.is_some() {
                return Ok(row);
            }
        }
    }
}

/// The rows of a text that is in memory already.
pub(super) fn split(text: &str) -> Vec<RowText> {
    text.split('\n').enumerate().filter_map(|(i, text)| row(i + 1, text)).collect()
}

fn row(line: usize, text: &str) -> Option<RowText> {
    let text = text.trim_end_matches(['\n', '\r']);
    (!text.trim().is_empty()).then(|| RowText { line, entry: None, text: text.to_owned() })
}
