//! Strings that know which message of the conversation each of their bytes came from.
//!
//! A template cuts, trims, joins and quotes what it is given. Every string therefore carries [`Mark`]s through all of
//! that, and the rendered text says by itself where the words of each turn stand in it.

use super::limits::{self, LONGEST_TEXT, MOST_MARKS};
use std::ops::Range;

/// Which part of a message a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Written by the template while it went over the message.
    Template,
    Role,
    Content,
    /// Any other string of the message: a thought, a tool call's name or arguments.
    Other,
}

/// Where a piece of text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index of the message, if it came from one.
    pub message: Option<u32>,
    pub part: Part,
    /// Inside of `{% generation %}`.
    pub generated: bool,
}

impl Origin {
    pub fn of(message: u32, part: Part) -> Origin {
        Origin { message: Some(message), part, generated: false }
    }
}

/// Bytes `range` of a text and where they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub range: Range<usize>,
    pub origin: Origin,
}

/// A string with marks: sorted, without overlaps, none empty. Bytes without a mark came from no message.
#[derive(Clone, Debug, Default)]
pub struct Text {
    text: String,
    marks: Vec<Mark>,
    /// Python's `Markup`: what is added to it is escaped.
    pub safe: bool,
}

impl Text {
    pub fn new(text: impl Into<String>, origin: Option<Origin>) -> Text {
        let text = text.into();
        let marks = match origin {
            Some(origin) if !text.is_empty() => vec![Mark { range: 0..text.len(), origin }],
            _ => Vec::new(),
        };
        Text { text, marks, safe: false }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn into_parts(self) -> (String, Vec<Mark>) {
        (self.text, self.marks)
    }

    /// The first mark's origin, for what is made of the whole text at once.
    pub fn origin(&self) -> Option<Origin> {
        self.marks.first().map(|m| m.origin)
    }

    pub fn push(&mut self, other: &Text) {
        let at = self.text.len();
        if self.grow(&other.text) {
            for mark in &other.marks {
                self.mark(mark.range.start + at..mark.range.end + at, mark.origin);
            }
        }
    }

    pub fn push_str(&mut self, text: &str, origin: Option<Origin>) {
        let at = self.text.len();
        if self.grow(text)
            && let Some(origin) = origin
        {
            self.mark(at..self.text.len(), origin);
        }
    }

    /// False where the text would become too long; the rendering then ends at its next step.
    fn grow(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= LONGEST_TEXT;
        if fits {
            self.text.push_str(text);
        } else {
            limits::overflow();
        }
        fits
    }

    fn mark(&mut self, range: Range<usize>, origin: Origin) {
        let full = self.marks.len() == MOST_MARKS;
        match self.marks.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.origin == origin && last.range.end == range.start => last.range.end = range.end,
            _ if full => limits::overflow(),
            _ => self.marks.push(Mark { range, origin }),
        }
    }

    /// Bytes `range`, which must lie on characters' borders.
    pub fn slice(&self, range: Range<usize>) -> Text {
        let mut out = Text { text: self.text[range.clone()].to_owned(), marks: Vec::new(), safe: self.safe };
        let first = self.marks.partition_point(|m| m.range.end <= range.start);
        for mark in self.marks[first..].iter().take_while(|m| m.range.start < range.end) {
            let (start, end) = (mark.range.start.max(range.start), mark.range.end.min(range.end));
            out.mark(start - range.start..end - range.start, mark.origin);
        }
        out
    }

    /// `part`, a slice of this text's own string, with its marks.
    pub fn part(&self, part: &str) -> Text {
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        self.slice(start..start + part.len())
    }

    /// So many times in a row; what would be too long ends the rendering at its next step.
    pub fn repeated(&self, times: usize) -> Text {
        let mut out = Text { safe: self.safe, ..Text::default() };
        if self.text.len().saturating_mul(times) > LONGEST_TEXT {
            limits::overflow();
        } else if self.marks.len() <= 1 {
            // one mark over all of it, or none
            let whole = self.marks.first().is_none_or(|m| m.range == (0..self.text.len()));
            out.push_str(&self.text.repeat(times), if whole { self.origin() } else { None });
        } else {
            (0..times).take_while(|_| !limits::exhausted()).for_each(|_| out.push(self));
        }
        out
    }

    /// Another spelling of this text, such as its upper case: marks go along where every character keeps its length.
    pub fn respelled(&self, text: String) -> Text {
        let same = text.len() == self.text.len();
        let mut out =
            if same { Text { text, marks: self.marks.clone(), safe: false } } else { Text::new(text, self.origin()) };
        out.safe = self.safe;
        out
    }

    /// Sets everything inside of `{% generation %}`.
    pub fn generated(self) -> Text {
        let nobody = Origin { message: None, part: Part::Template, generated: true };
        let mut out = Text { text: self.text, marks: Vec::new(), safe: self.safe };
        let mut at = 0;
        for Mark { range, origin } in self.marks {
            out.mark(at..range.start, nobody);
            at = range.end;
            out.mark(range, Origin { generated: true, ..origin });
        }
        let end = out.text.len();
        out.mark(at..end, nobody);
        out
    }
}

/// A text whose bytes are counted for as long as it is alive.
pub struct Counted(Text, usize);

impl Counted {
    pub fn new(text: Text) -> Counted {
        // a short one takes more for itself than for its bytes
        let bytes = size_of::<Counted>() + text.text.len() + text.marks.len() * size_of::<Mark>();
        limits::hold(bytes);
        Counted(text, bytes)
    }
}

impl std::ops::Deref for Counted {
    type Target = Text;

    fn deref(&self) -> &Text {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        limits::release(self.1);
    }
}
