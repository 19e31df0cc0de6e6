//! What a data file is, by its first bytes and its name.

use super::not_utf8;
use crate::error::{Error, Result};
use serde_json::error::Category;
use std::path::Path;

/// How the rows stand in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON object a line.
    Lines,
    /// A JSON array of objects, or objects that go over several lines.
    Values,
    /// A line of names, then a line of cells for each row; the character between cells.
    Table(u8),
}

const WANTED: &str = "one JSON object a line is wanted, a JSON array of objects, CSV or Parquet";

/// Kinds of files that hold no rows as text: their first bytes, what they are and what to do.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it first: zstd -d FILE"),
    (b"BZh", "is compressed with bzip2", "unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "is compressed with xz", "unpack it first: unxz FILE"),
    (b"7z\xbc\xaf", "is a 7-Zip archive", "unpack it first"),
    (b"PK\x03\x04", "is a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (
        b"PAR1",
        "is a Parquet file, which this rugosa was built without",
        "build it with the feature parquet, or write the rows as JSON lines, with pandas: to_json(FILE, orient=\"records\", lines=True)",
    ),
    (b"ARROW1", "is an Arrow file", "write its rows as JSON lines, with datasets: to_json(FILE)"),
    (b"\xff\xff\xff\xff", "is an Arrow stream", "write its rows as JSON lines, with datasets: to_json(FILE)"),
    (b"Obj\x01", "is an Avro file", "write its rows as JSON lines"),
    (b"SQLite format 3\0", "is an SQLite database", "write its rows as JSON lines or CSV"),
    (b"\x93NUMPY", "is a NumPy array", "write its rows as JSON lines with input_ids"),
    (b"\x80\x02", "is a Python pickle", "write its rows as JSON lines"),
    (b"\x80\x03", "is a Python pickle", "write its rows as JSON lines"),
    (b"\x80\x04", "is a Python pickle", "write its rows as JSON lines"),
    (b"\x80\x05", "is a Python pickle", "write its rows as JSON lines"),
    (b"\x89HDF", "is an HDF5 file", "write its rows as JSON lines"),
    (b"%PDF", "is a PDF document", WANTED),
    (b"GGUF", "is a model in GGUF, not rows", "give it with ⟨model⟩"),
    (b"<", "is HTML or XML, perhaps the page of a failed download", WANTED),
];

/// Why a file that begins with `head` holds no rows.
pub(super) fn other(head: &[u8]) -> Option<String> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let blanks = head.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let known = OTHERS
        .iter()
        .find(|(magic, ..)| head.starts_with(magic) || (*magic == b"<" && head[blanks..].starts_with(magic)));
    if let Some((_, what, way_out)) = known {
        return Some(format!("{what}; {way_out}"));
    }
    let tar = head.len() > 262 && &head[257..262] == b"ustar";
    tar.then(|| "is a tar archive; unpack it first: tar -xf FILE".to_owned())
}

/// How characters are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16 { big_endian: bool },
    Utf32,
}

impl Encoding {
    /// By the byte order mark, or by the zero in the first character where there is no mark.
    pub fn of(head: &[u8]) -> Encoding {
        match head {
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Encoding::Utf32,
            [0xff, 0xfe, ..] | [1..=0x7f, 0, ..] => Encoding::Utf16 { big_endian: false },
            [0xfe, 0xff, ..] | [0, 1..=0x7f, ..] => Encoding::Utf16 { big_endian: true },
            _ => Encoding::Utf8,
        }
    }

    /// The text of a whole file, without a byte order mark.
    pub fn decode(self, path: &Path, bytes: Vec<u8>) -> Result<String> {
        let text = match self {
            Encoding::Utf8 => String::from_utf8(bytes).map_err(|e| {
                let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
                not_utf8(path, valid.iter().filter(|b| **b == b'\n').count() + 1, e.utf8_error())
            })?,
            Encoding::Utf16 { big_endian } => {
                let unit = |pair: &[u8]| {
                    let pair = [pair[0], pair.get(1).copied().unwrap_or_default()];
                    if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
                };
                let units: Vec<u16> = bytes.chunks(2).map(unit).collect();
                let reason = "is UTF-16 with a character that is cut in half; save the file as UTF-8";
                String::from_utf16(&units).map_err(|_| Error::file(path, "rows", reason))?
            }
            Encoding::Utf32 => return Err(Error::file(path, "rows", "is UTF-32; save the file as UTF-8")),
        };
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }
}

/// The form of a file that begins with `head`, all of it or as much as fits a buffer.
pub(super) fn of(path: &Path, head: &str, columns: &[Vec<&str>]) -> Result<Form> {
    let head = head.strip_prefix('\u{feff}').unwrap_or(head);
    let body = head.trim_start();
    let line = head[..head.len() - body.len()].matches('\n').count() + 1;
    let named = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match body.chars().next() {
        None => Ok(Form::Lines),
        Some('[') => Ok(Form::Values),
        Some('{') => {
            let (first, more) = body.split_once('\n').unwrap_or((body, ""));
            // a first line that is longer than a buffer is a line
            let unfinished = |e: serde_json::Error| e.classify() == Category::Eof;
            let open = serde_json::from_str::<serde::de::IgnoredAny>(first).is_err_and(unfinished);
            Ok(if open && !more.trim().is_empty() { Form::Values } else { Form::Lines })
        }
        Some(first) => {
            let header = body.lines().next().unwrap_or_default();
            let delimiter = delimiter(header, &named);
            let names: Vec<&str> = header.split(char::from(delimiter)).map(|n| n.trim().trim_matches('"')).collect();
            let known = columns.iter().any(|set| set.iter().all(|c| names.contains(c)));
            if ["csv", "tsv", "tab"].contains(&named.as_str()) || (known && names.len() > 1) {
                return Ok(Form::Table(delimiter));
            }
            let reason = match first {
                '"' | '\'' => "begins with a string, not with an object",
                c if c.is_control() || c == '\u{fffd}' => "is no text",
                _ => "begins with plain text",
            };
            Err(Error::row(path, line, format!("{reason}; {WANTED}")))
        }
    }
}

/// What stands between the names in the first line of a table.
fn delimiter(header: &str, named: &str) -> u8 {
    let has = |c: char| header.contains(c);
    match named {
        "tsv" | "tab" => b'\t',
        _ if has('\t') && !has(',') => b'\t',
        // spreadsheets where the comma is in numbers
        _ if has(';') && !has(',') => b';',
        _ => b',',
    }
}
