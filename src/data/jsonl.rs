//! Lines of a file, streamed.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The lines of a file that are not blank, with their numbers from 1. A byte order mark at the start and carriage
/// returns at the ends are left out.
pub(super) struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    line: usize,
}

impl<'a> Lines<'a> {
    /// # Errors
    /// [`Error::Io`] if the file can't be opened.
    pub fn open(path: &'a Path) -> Result<Lines<'a>> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Lines { path, reader: BufReader::with_capacity(1 << 18, file), line: 0 })
    }

    /// At least one line unless the file is at its end; more until `bytes` are reached.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Row`] for a line that is not UTF-8.
    pub fn take(&mut self, bytes: usize) -> Result<Vec<(usize, String)>> {
        let (mut taken, mut size) = (Vec::new(), 0);
        while size < bytes {
            let mut raw = Vec::new();
            if self.reader.read_until(b'\n', &mut raw).map_err(Error::io(self.path))? == 0 {
                break;
            }
            self.line += 1;
            let text = String::from_utf8(raw)
                .map_err(|e| Error::row(self.path, self.line, format!("is not UTF-8: {}", e.utf8_error())))?;
            let text = if self.line == 1 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                size += text.len();
                taken.push((self.line, text.to_owned()));
            }
        }
        Ok(taken)
    }
}
