//! The rows of a data file, whatever it is: JSON lines, a JSON array, objects over several lines, CSV or TSV, in UTF-8 or
//! UTF-16; Parquet. Anything else is refused with what it is and what is wanted.

mod form;
mod lines;
#[cfg(feature = "parquet")]
mod nesting;
#[cfg(feature = "parquet")]
mod parquet;
mod table;
mod values;

use crate::error::{Error, Result};
use crate::io::kind::refuse_stand_in;
use form::{Encoding, Form};
use lines::Lines;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Bytes from which a file's form is told.
const HEAD: usize = 1 << 18;
/// Bytes of a file that is read as a whole, at most.
const LONGEST_WHOLE: u64 = 1 << 30;

/// One row, as the text of a JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowText {
    /// Line of the file where it begins, from 1; of a file without lines its place.
    pub line: usize,
    /// Its place in an array, from 1.
    pub entry: Option<usize>,
    pub text: String,
}

/// The rows of a file, in its order.
pub(super) enum RowFile<'a> {
    /// Lines are streamed.
    Lines(Lines<'a>),
    /// And so is Parquet.
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::Parquet<'a>>),
    /// Other forms are read as a whole.
    Whole(std::vec::IntoIter<RowText>),
}

impl<'a> RowFile<'a> {
    /// `columns` are names of which a table without a file name that says so must have one whole set.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be opened or read; [`Error::File`] or [`Error::Row`] where it holds no rows.
    pub fn open(path: &'a Path, columns: &[Vec<&str>]) -> Result<RowFile<'a>> {
        let not_rows = |reason: String| Error::file(path, "rows", reason);
        if path.is_dir() {
            return Err(not_rows("is a folder; give the one file in it that holds the rows".into()));
        }
        let mut reader = BufReader::with_capacity(HEAD, File::open(path).map_err(Error::io(path))?);
        let head = reader.fill_buf().map_err(Error::io(path))?;
        refuse_stand_in(path, head)?;
        #[cfg(feature = "parquet")]
        if head.starts_with(&parquet::MAGIC) {
            return Ok(RowFile::Parquet(Box::new(parquet::Parquet::open(path, reader.into_inner())?)));
        }
        if let Some(reason) = form::other(head) {
            return Err(not_rows(reason));
        }
        let encoding = Encoding::of(head);
        if encoding == Encoding::Utf8 {
            // an incomplete last character, or one that is no UTF-8, is left to whoever reads it
            let head = String::from_utf8_lossy(head);
            if form::of(path, &head, columns)? == Form::Lines {
                return Ok(RowFile::Lines(Lines::new(path, reader)));
            }
        }
        let mut bytes = Vec::new();
        reader.take(LONGEST_WHOLE + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        if bytes.len() as u64 > LONGEST_WHOLE {
            let reason = format!(
                "is over {LONGEST_WHOLE} bytes, which only files with one JSON object a line may be; write it so, or split it"
            );
            return Err(not_rows(reason));
        }
        let text = encoding.decode(path, bytes)?;
        let rows = match form::of(path, &text, columns)? {
            Form::Lines => lines::split(&text),
            Form::Values => values::split(&text).map_err(|(line, reason)| Error::row(path, line, reason))?,
            Form::Table(delimiter) => table::split(path, &text, delimiter)?,
        };
        Ok(RowFile::Whole(rows.into_iter()))
    }

    /// At least one row unless the file is at its end; more until `bytes` are reached.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Row`] for a line that is not UTF-8; for Parquet those of its pages.
    pub fn take(&mut self, bytes: usize) -> Result<Vec<RowText>> {
        let (mut taken, mut size) = (Vec::new(), 0);
        while size < bytes {
            let next = match self {
                RowFile::Lines(lines) => lines.next_row()?,
                #[cfg(feature = "parquet")]
                RowFile::Parquet(rows) => rows.next_row()?,
                RowFile::Whole(rows) => rows.next(),
            };
            let Some(row) = next else { break };
            size += row.text.len();
            taken.push(row);
        }
        Ok(taken)
    }
}

/// Why bytes are refused as text.
fn not_utf8(path: &Path, line: usize, error: std::str::Utf8Error) -> Error {
    let reason = format!("is not UTF-8: {error}; save the file as UTF-8 (it may be Latin-1 or Windows-1252)");
    Error::row(path, line, reason)
}
