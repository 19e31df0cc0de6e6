//! JSON that is not one object a line: an array of objects, or objects that go over several lines.

use super::RowText;

/// The entries of an array, or values that follow each other, each with the line where it begins. Values are cut apart by
/// their brackets alone; whoever parses them finds what is wrong inside.
///
/// # Errors
/// Line and reason, where brackets or commas are missing.
pub(super) fn split(text: &str) -> Result<Vec<RowText>, (usize, String)> {
    let mut cursor = Cursor { text, at: 0, line: 1 };
    let mut rows = Vec::new();
    cursor.blanks();
    if cursor.peek() != Some(b'[') {
        while cursor.peek().is_some() {
            rows.push(cursor.value(None)?);
            cursor.blanks();
        }
        return Ok(rows);
    }
    cursor.at += 1;
    cursor.blanks();
    while cursor.peek() != Some(b']') {
        let cut_off = |n: usize| format!("the array ends without a ] behind its entry {n}: the file is cut off");
        if cursor.peek().is_none() {
            return Err((cursor.line, cut_off(rows.len())));
        }
        rows.push(cursor.value(Some(rows.len() + 1))?);
        cursor.blanks();
        match cursor.peek() {
            Some(b',') => cursor.at += 1,
            Some(b']') => break,
            None => return Err((cursor.line, cut_off(rows.len()))),
            Some(_) => {
                return Err((cursor.line, format!("a comma is missing behind entry {} of the array", rows.len())));
            }
        }
        cursor.blanks();
        if cursor.peek() == Some(b']') {
            return Err((cursor.line, "a comma stands before the ] of the array; remove it".into()));
        }
    }
    cursor.at += 1;
    cursor.blanks();
    match cursor.peek() {
        None => Ok(rows),
        Some(_) => Err((cursor.line, "something follows the ] of the array; one array, or one object a line".into())),
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.line += usize::from(self.peek() == Some(b'\n'));
            self.at += 1;
        }
    }

    /// The value that begins here. One without brackets goes on to the next comma, bracket or line break.
    fn value(&mut self, entry: Option<usize>) -> Result<RowText, (usize, String)> {
        let (start, line) = (self.at, self.line);
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        let bracketed = matches!(self.peek(), Some(b'{' | b'['));
        while let Some(byte) = self.peek() {
            if !bracketed && !quoted && matches!(byte, b',' | b']' | b'}' | b'\n') && self.at > start {
                break;
            }
            self.at += 1;
            self.line += usize::from(byte == b'\n');
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if bracketed && depth == 0 && !quoted {
                break;
            }
        }
        if depth > 0 || quoted {
            let what = entry.map_or_else(|| "the object".to_owned(), |n| format!("entry {n} of the array,"));
            return Err((
                line,
                format!("{what} that begins here never ends: a bracket or a quote is missing, or the file is cut off"),
            ));
        }
        Ok(RowText { line, entry, text: self.text[start..self.at].to_owned() })
    }
}
