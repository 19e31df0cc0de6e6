//! Parquet: the columns of a file as one JSON object a row, read row group by row group.

use super::RowText;
use super::lines::LONGEST_LINE;
use super::nesting;
use crate::data::guard::caught;
use crate::data::strftime;
use crate::error::{Error, Result};
use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value as Json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How the file begins, and ends.
pub(super) const MAGIC: [u8; 4] = *b"PAR1";

/// Bytes of the description at a file's end, at most.
const LONGEST_FOOTER: u64 = 64 << 20;
/// Columns in columns, at most; the crate that reads them goes into each by a call of its own.
const DEEPEST: usize = 64;

/// The rows of a Parquet file, whose number is their line.
pub(in crate::data) struct Parquet<'a> {
    path: &'a Path,
    rows: RowIter<'static>,
    row: usize,
}

impl<'a> Parquet<'a> {
    /// # Errors
    /// [`Error::File`] where the file's own description is damaged.
    pub fn open(path: &'a Path, mut file: File) -> Result<Parquet<'a>> {
        let footer = footer(&mut file).map_err(Error::io(path))?;
        let depth = footer.as_deref().and_then(nesting::deepest);
        match depth {
            Some(depth) if depth <= DEEPEST => {}
            Some(depth) => return Err(damaged(path, &format!("its columns are nested {depth} deep"))),
            None => return Err(damaged(path, "its description at the end is cut off or too long")),
        }
        let open = || SerializedFileReader::new(file).map(|reader| reader.into_iter());
        let rows = caught(open).map_err(|said| damaged(path, &said))?.map_err(|e| unread(path, &e))?;
        Ok(Parquet { path, rows, row: 0 })
    }

    /// The next row.
    ///
    /// # Errors
    /// [`Error::File`] for pages that are damaged or compressed in a way that is not read; [`Error::Row`] for a value that is no
    /// text, number, list or structure of these.
    pub fn next_row(&mut self) -> Result<Option<RowText>> {
        let path = self.path;
        let next = caught(|| self.rows.next()).map_err(|said| damaged(path, &said))?;
        let Some(row) = next.transpose().map_err(|e| unread(path, &e))? else { return Ok(None) };
        self.row += 1;
        let text = object(row).map_err(|reason| Error::row(path, self.row, reason))?.to_string();
        if text.len() as u64 > LONGEST_LINE {
            return Err(Error::row(path, self.row, format!("has over {LONGEST_LINE} bytes, which no row needs")));
        }
        Ok(Some(RowText { line: self.row, entry: None, text }))
    }
}

/// The description at the end of a file, where it is whole: before the last eight bytes, which are its length and [`MAGIC`].
fn footer(file: &mut File) -> std::io::Result<Option<Vec<u8>>> {
    let size = file.seek(SeekFrom::End(0))?;
    let Some(end) = size.checked_sub(8) else { return Ok(None) };
    let mut tail = [0; 8];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if magic != MAGIC || length > LONGEST_FOOTER.min(end) {
        return Ok(None);
    }
    let mut footer = vec![0; length as usize];
    file.seek(SeekFrom::Start(end - length))?;
    file.read_exact(&mut footer)?;
    Ok(Some(footer))
}

fn damaged(path: &Path, said: &str) -> Error {
    Error::file(path, "rows", format!("this Parquet file is damaged ({said}); download or write it again"))
}

fn unread(path: &Path, error: &ParquetError) -> Error {
    match error.to_string() {
        text if text.contains("Disabled feature") => {
            let reason =
                format!("the compression of this Parquet file is not read ({text}); write it with snappy or zstd");
            Error::file(path, "rows", reason)
        }
        text => damaged(path, &text),
    }
}

fn object(row: Row) -> Result<Json, String> {
    let column = |(name, field): (String, Field)| match value(field) {
        Ok(value) => Ok((name, value)),
        Err(reason) => Err(format!("column {name}: {reason}")),
    };
    row.into_columns().into_iter().map(column).collect::<Result<Map<_, _>, _>>().map(Json::Object)
}

/// As Arrow's rows are in JSON: times as ISO 8601, NaN as null.
fn value(field: Field) -> Result<Json, String> {
    let seconds = |seconds: i64, form: &str| Json::String(strftime(seconds, form));
    Ok(match field {
        Field::Null => Json::Null,
        Field::Bool(v) => v.into(),
        Field::Byte(v) => v.into(),
        Field::Short(v) => v.into(),
        Field::Int(v) => v.into(),
        Field::Long(v) => v.into(),
        Field::UByte(v) => v.into(),
        Field::UShort(v) => v.into(),
        Field::UInt(v) => v.into(),
        Field::ULong(v) => v.into(),
        Field::Float16(v) => v.to_f64().into(),
        Field::Float(v) => v.into(),
        Field::Double(v) => v.into(),
        Field::Str(v) => Json::String(v),
        Field::Bytes(v) => match String::from_utf8(v.data().to_vec()) {
            Ok(text) => Json::String(text),
            Err(_) => {
                return Err(
                    "holds bytes that are no text (pictures, sound?); write the file without this column".into()
                );
            }
        },
        Field::Date(days) => seconds(i64::from(days) * 86_400, "%Y-%m-%d"),
        Field::TimestampMillis(v) => seconds(v.div_euclid(1000), "%Y-%m-%dT%H:%M:%S"),
        Field::TimestampMicros(v) => seconds(v.div_euclid(1_000_000), "%Y-%m-%dT%H:%M:%S"),
        Field::TimeMillis(v) => seconds(i64::from(v) / 1000, "%H:%M:%S"),
        Field::TimeMicros(v) => seconds(v / 1_000_000, "%H:%M:%S"),
        // its text is exact; a number might not be
        decimal @ Field::Decimal(_) => Json::String(decimal.to_string()),
        Field::Group(row) => object(row)?,
        Field::ListInternal(list) => Json::Array(list.elements().iter().cloned().map(value).collect::<Result<_, _>>()?),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match key {
                Field::Str(key) => Ok((key.clone(), value(field.clone())?)),
                other => Err(format!("has the key {other}, which is no text; write it as a list")),
            };
            Json::Object(map.entries().iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}
