//! CSV and TSV: a line of names, then one row a record.

use super::RowText;
use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Columns whose cells are JSON.
const NESTED: &[&str] =
    &["messages", "conversations", "tools", "input_ids", "labels", "attention_mask", "chat_template_kwargs"];

/// Each record as the object that its names and cells make. Cells are strings; an empty one is an empty string.
///
/// # Errors
/// [`Error::Row`] for a record with more or fewer cells than names, a quote that nothing closes, and a cell that should be
/// JSON and is not; [`Error::File`] for names that stand twice.
pub(super) fn split(path: &Path, text: &str, delimiter: u8) -> Result<Vec<RowText>> {
    let wrong = |(line, reason)| Error::row(path, line, reason);
    let mut records = Records { rest: text, line: 1, delimiter: char::from(delimiter) };
    let names = records.next_record().map_err(wrong)?.map(|(_, names)| names).unwrap_or_default();
    let names: Vec<String> = names.iter().map(|n| n.trim().to_owned()).collect();
    if let Some(twice) = names.iter().enumerate().find_map(|(i, n)| names[..i].contains(n).then_some(n)) {
        return Err(Error::file(path, "names of columns", format!("\"{twice}\" stands twice; rename or remove one")));
    }
    let mut rows = Vec::new();
    while let Some((line, cells)) = records.next_record().map_err(wrong)? {
        if cells.len() != names.len() {
            let (is, has) = (cells.len(), names.len());
            let between = if delimiter == b'\t' { "tabs".to_owned() } else { format!("{:?}", char::from(delimiter)) };
            let way_out = format!("put double quotes around cells that hold {between} or line breaks");
            return Err(Error::row(path, line, format!("has {is} cells, the first line has {has} names; {way_out}")));
        }
        let mut row = Map::new();
        for (name, cell) in names.iter().zip(cells) {
            row.insert(name.clone(), value(name, cell).map_err(|reason| Error::row(path, line, reason))?);
        }
        rows.push(RowText { line, entry: None, text: Json::Object(row).to_string() });
    }
    Ok(rows)
}

fn value(name: &str, cell: String) -> Result<Json, String> {
    if !NESTED.contains(&name) {
        return Ok(Json::String(cell));
    }
    if cell.trim().is_empty() {
        return Ok(Json::Null);
    }
    serde_json::from_str(&cell).map_err(|_| {
        format!("the cell of column {name} is no JSON (a list as Python prints it?); write the rows as JSON lines")
    })
}

/// Records as RFC 4180 has them: a cell in double quotes may hold anything, a quote in it stands twice.
///
/// By hand, since the crate `csv` reads a quote that nothing closes as a cell that goes on to the end of the file, so that all
/// rows behind it are one answer without a word; to find that out beforehand takes the same steps as to read it.
struct Records<'a> {
    rest: &'a str,
    /// Of what comes next.
    line: usize,
    delimiter: char,
}

/// A line, and what is wrong from there on.
type Fault = (usize, String);

impl Records<'_> {
    /// The next record that is not blank, and the line where it begins.
    fn next_record(&mut self) -> Result<Option<(usize, Vec<String>)>, Fault> {
        while !self.rest.is_empty() {
            let line = self.line;
            let mut cells = Vec::new();
            loop {
                let (cell, last) = self.cell()?;
                cells.push(cell);
                if last {
                    break;
                }
            }
            if cells.iter().any(|c| !c.trim().is_empty()) {
                return Ok(Some((line, cells)));
            }
        }
        Ok(None)
    }

    /// The next cell, and whether it ends its record.
    fn cell(&mut self) -> Result<(String, bool), Fault> {
        let mut cell = String::new();
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let opened = self.line;
            let mut rest = quoted;
            loop {
                let Some(quote) = rest.find('"') else {
                    return Err((opened, "a quote opens a cell in this row and nothing closes it".into()));
                };
                cell.push_str(&rest[..quote]);
                rest = &rest[quote + 1..];
                match rest.strip_prefix('"') {
                    Some(more) => {
                        cell.push('"');
                        rest = more;
                    }
                    None => break,
                }
            }
            self.line += cell.matches('\n').count();
            self.rest = rest;
        }
        // what follows a closing quote belongs to the cell, as spreadsheets read it
        let end = self.rest.find([self.delimiter, '\n']).unwrap_or(self.rest.len());
        let last = !self.rest[end..].starts_with(self.delimiter);
        cell.push_str(if last { self.rest[..end].trim_end_matches('\r') } else { &self.rest[..end] });
        self.line += usize::from(self.rest[end..].starts_with('\n'));
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        Ok((cell, last))
    }
}
