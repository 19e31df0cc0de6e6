//! Which parts of a rendered conversation the assistant says.
//!
//! Every byte of the text knows which message it came from, so a turn is found where its own words are: from behind the
//! opening that inference would supply to the end of its end-of-turn token. Nothing is rendered again for a turn, and what
//! a template does to other turns makes no difference.

use super::opening::Opening;
use crate::data::jinja::text::{Mark, Part};
use std::collections::HashSet;
use std::ops::Range;

/// What of a text is learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// In order, without overlaps.
    pub ranges: Vec<Range<usize>>,
    /// A token that reaches into a range counts as inside; otherwise only one that starts there.
    pub overlapping: bool,
    /// Turns of which nothing was found, and turns without a token that ends them.
    pub missing: Vec<usize>,
    pub endless: usize,
}

/// Words of one message that no other message's words interrupt.
struct Piece {
    message: usize,
    said: Range<usize>,
}

/// The spans of the messages `learnt` by `{% generation %}`.
pub fn by_generation(marks: &[Mark], learnt: &[usize], all: bool) -> Spans {
    let mut blocks: Vec<(Range<usize>, Vec<usize>)> = Vec::new();
    for mark in marks.iter().filter(|m| m.origin.generated) {
        let message = mark.origin.message.map(|m| m as usize);
        match blocks.last_mut() {
            Some((range, messages)) if range.end == mark.range.start => {
                range.end = mark.range.end;
                messages.extend(message);
            }
            _ => blocks.push((mark.range.clone(), message.into_iter().collect())),
        }
    }
    let wanted =
        |messages: &[usize]| if messages.is_empty() { all } else { messages.iter().any(|m| learnt.contains(m)) };
    let ranges = blocks.into_iter().filter(|(_, messages)| wanted(messages)).map(|(range, _)| range).collect();
    Spans { ranges, overlapping: true, ..Spans::default() }
}

/// The spans of the messages `learnt`, in order, by their words. `ends` are the spellings of end-of-turn tokens.
pub fn by_content(text: &str, marks: &[Mark], learnt: &[usize], opening: &Opening, ends: &[String]) -> Spans {
    let pieces = pieces(marks, learnt);
    let mut spans = Spans::default();
    let mut found = vec![false; learnt.len()];
    for (i, piece) in pieces.iter().enumerate() {
        let Ok(at) = learnt.binary_search(&piece.message) else { continue };
        let before = i.checked_sub(1).map_or(0, |i| pieces[i].said.end);
        let first = !std::mem::replace(&mut found[at], true);
        let start = if first { start(text, marks, piece, before, opening) } else { piece.said.start };
        let last = !pieces[i + 1..].iter().any(|p| p.message == piece.message);
        let (end, ended) =
            if last { end(text, marks, piece, opening, ends) } else { (stop(text, &piece.said, ends), true) };
        spans.endless += usize::from(!ended);
        if start < end {
            spans.ranges.push(start..end);
        }
    }
    spans.missing = learnt.iter().zip(found).filter(|(_, found)| !found).map(|(m, _)| *m).collect();
    spans
}

/// The words of all messages in their order. A message of `wordless` that has none stands where the template wrote for it.
fn pieces(marks: &[Mark], wordless: &[usize]) -> Vec<Piece> {
    let message = |m: &Mark| m.origin.message.map(|m| m as usize);
    let said = |m: &Mark| matches!(m.origin.part, Part::Content | Part::Other);
    let has_words: HashSet<usize> = marks.iter().filter(|m| said(m)).filter_map(message).collect();
    let counts = |m: &Mark| {
        let is_wordless = |m| !has_words.contains(&m) && wordless.binary_search(&m).is_ok();
        said(m) || message(m).is_some_and(is_wordless)
    };
    // for which message the template writes in front of each mark and behind it
    let mut behind = vec![None; marks.len() + 1];
    for (i, mark) in marks.iter().enumerate().rev() {
        behind[i] = message(mark).filter(|_| !said(mark)).or(behind[i + 1]);
    }
    let mut before = None;
    let mut found: Vec<(Piece, bool)> = Vec::new();
    for (i, mark) in marks.iter().enumerate() {
        let Some(message) = message(mark) else { continue };
        if counts(mark) {
            let other = |writing: Option<usize>| writing.is_some_and(|w| w != message);
            found.push((Piece { message, said: mark.range.clone() }, other(before) && other(behind[i])));
        }
        if !said(mark) {
            before = Some(message);
        }
    }
    // words that the template only quotes while it writes another message, such as the name of a tool with its answer
    let at_home: HashSet<usize> = found.iter().filter(|(_, quoted)| !quoted).map(|(p, _)| p.message).collect();
    let mut pieces: Vec<Piece> = Vec::new();
    for (piece, _) in found.into_iter().filter(|(p, quoted)| !quoted || !at_home.contains(&p.message)) {
        match pieces.last_mut() {
            Some(last) if last.message == piece.message => last.said.end = piece.said.end,
            _ => pieces.push(piece),
        }
    }
    for piece in pieces.iter_mut().filter(|p| !has_words.contains(&p.message)) {
        // all of it is the template's: its opening and its end are found from the front
        piece.said.end = piece.said.start;
    }
    pieces
}

/// Behind the opening of the turn, whose words begin at `piece` and before which the last words end at `before`.
fn start(text: &str, marks: &[Mark], piece: &Piece, before: usize, opening: &Opening) -> usize {
    let words = piece.said.start;
    let own = |m: &&Mark| m.origin.message == Some(piece.message as u32) && m.range.end > before;
    let own_start = marks.iter().find(own).map_or(words, |m| m.range.start.clamp(before, words.max(before)));
    // a turn without words has its opening behind where it starts
    let until = if piece.said.is_empty() { own_end(marks, piece, text.len()) } else { words };
    for prefix in &opening.prefixes {
        if let Some(at) = text[own_start..until].find(prefix.as_str()) {
            return own_start + at + prefix.len();
        }
        if let Some(at) = text[before..until].rfind(prefix.as_str()) {
            return before + at + prefix.len();
        }
    }
    let blank = text[own_start..words].trim().is_empty();
    if opening.prefixes.is_empty() || blank { own_start } else { words }
}

/// Where what the template wrote for this message ends, at `limit` at most.
fn own_end(marks: &[Mark], piece: &Piece, limit: usize) -> usize {
    let behind = &marks[marks.partition_point(|m| m.range.end <= piece.said.end)..];
    let own = |m: &&Mark| m.origin.message.is_none_or(|m| m == piece.message as u32);
    let last = behind.iter().take_while(own).filter(|m| m.origin.message.is_some()).last();
    last.map_or(piece.said.end, |m| m.range.end).min(limit)
}

/// Where a piece ends that is not the turn's last: at an end-of-turn token in it, behind which others' words follow.
fn stop(text: &str, said: &Range<usize>, ends: &[String]) -> usize {
    let inner = &text[said.clone()];
    let first = ends.iter().filter_map(|end| inner.find(end.as_str()).map(|at| at + end.len())).min();
    first.map_or(said.end, |end| said.start + end)
}

/// Behind the end-of-turn token, and whether there is one.
fn end(text: &str, marks: &[Mark], piece: &Piece, opening: &Opening, ends: &[String]) -> (usize, bool) {
    let words = piece.said.end;
    let behind = &marks[marks.partition_point(|m| m.range.end <= words)..];
    let other = |m: &&Mark| m.origin.message.is_some_and(|m| m != piece.message as u32);
    let next = behind.iter().find(other).map_or(text.len(), |m| m.range.start.max(words));
    let tail = &text[words..next];
    let first =
        ends.iter().filter_map(|end| tail.find(end.as_str()).map(|at| (at, at + end.len()))).min_by_key(|f| f.0);
    if let Some((_, end)) = first {
        return (words + end, true);
    }
    let own = own_end(marks, piece, next);
    // some families end a turn with the token that opens the next one, or write its end where they open that
    let after = text[own..].trim_start();
    if let Some(end) = ends.iter().chain(&opening.closing).find(|end| after.starts_with(end.as_str())) {
        return (text.len() - after.len() + end.len(), true);
    }
    let said = text[words..own].trim_end();
    // a line break behind the words is what ends them where nothing else does
    if said.is_empty() {
        (own, false)
    } else {
        (words + said.len(), opening.closing.as_ref().is_some_and(|c| said.ends_with(&**c)))
    }
}
