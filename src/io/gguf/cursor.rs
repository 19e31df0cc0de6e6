//! Reads the header of a GGUF file, never past its end.

use super::types::value_type as vt;
use super::value::Value;

/// Arrays may hold arrays, this deep.
const MAX_DEPTH: usize = 4;
/// Array elements in a whole file; the largest tokenizers have below two million.
const MAX_ELEMENTS: usize = 1 << 23;
/// Bytes of all names and texts of a header, at most; the largest vocabularies have below ten million.
const MAX_TEXT: usize = 1 << 28;

/// A position in a file's bytes. Errors are the reason alone: the caller knows the field.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    elements_left: usize,
    text_left: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0, elements_left: MAX_ELEMENTS, text_left: MAX_TEXT }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let Some(chunk) = self.bytes[self.at..].first_chunk::<N>() else {
            return Err(self.ends(N as u64));
        };
        self.at += N;
        Ok(*chunk)
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` bytes each.
    pub fn count(&mut self, what: &str, min_bytes: u64) -> Result<usize, String> {
        let n = self.u64()?;
        if n.checked_mul(min_bytes).is_none_or(|bytes| bytes > self.remaining() as u64) {
            return Err(format!("says {n} {what}, more than the {} bytes left in the file can hold", self.remaining()));
        }
        Ok(n as usize)
    }

    pub fn string(&mut self) -> Result<&'a str, String> {
        let n = self.count("bytes of text", 1)?;
        // a file may be a hole of any size
        self.text_left = self
            .text_left
            .checked_sub(n)
            .ok_or_else(|| format!("brings the header above {MAX_TEXT} bytes of text, more than any model's"))?;
        let text = &self.bytes[self.at..self.at + n];
        self.at += n;
        std::str::from_utf8(text).map_err(|_| "is not valid UTF-8".to_string())
    }

    /// A value of the type that comes before it.
    pub fn value(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        self.value_of(kind, 0)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            vt::U8 => Value::U8(self.array::<1>()?[0]),
            vt::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            vt::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            vt::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            vt::U32 => Value::U32(self.u32()?),
            vt::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            vt::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            vt::BOOL => Value::Bool(self.array::<1>()?[0] != 0),
            vt::STRING => Value::String(self.string()?.to_string()),
            vt::ARRAY => Value::Array(self.elements(depth + 1)?),
            vt::U64 => Value::U64(self.u64()?),
            vt::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            vt::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            _ => {
                return Err(format!(
                    "has the unknown value type {kind}; the file is damaged or newer than this reader"
                ));
            }
        })
    }

    fn elements(&mut self, depth: usize) -> Result<Vec<Value>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nests arrays more than {MAX_DEPTH} deep"));
        }
        let kind = self.u32()?;
        let min_bytes = match kind {
            vt::U8 | vt::I8 | vt::BOOL => 1,
            vt::U16 | vt::I16 => 2,
            vt::U32 | vt::I32 | vt::F32 => 4,
            vt::ARRAY => 12,
            _ => 8,
        };
        let n = self.count("array elements", min_bytes)?;
        // a value takes up to 24 times its bytes in the file, so the size of the file alone bounds too little
        self.elements_left = self
            .elements_left
            .checked_sub(n)
            .ok_or_else(|| format!("brings the file above {MAX_ELEMENTS} array elements, more than any tokenizer"))?;
        (0..n).map(|_| self.value_of(kind, depth)).collect()
    }

    fn ends(&self, wanted: u64) -> String {
        format!(
            "the file ends here ({} bytes left, {wanted} wanted); it is truncated, download it again",
            self.remaining()
        )
    }
}
