//! An example as the model sees it, for a terminal.

use super::dataset::ExampleRef;
use super::rows::IGNORED;
use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::shown;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;

const LEARNT: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))).bold();
const OTHER: Style = Style::new().dimmed();

/// The text of an example with what is learnt in green, or between ‹ and › without `colour`, and a line that counts its
/// tokens. Without a tokenizer the ids stand for the text. Control characters are spelled out, but for line breaks and
/// tabs: data must not drive the terminal.
///
/// # Errors
/// Those of [`Tokenizer::decode`].
pub fn render(tokenizer: Option<&Tokenizer>, example: ExampleRef<'_>, colour: bool) -> Result<String> {
    let mut pieces: Vec<(bool, String)> = Vec::new();
    let mut add = |learnt: bool, text: String| match pieces.last_mut() {
        Some((same, before)) if *same == learnt => before.push_str(&text),
        _ => pieces.push((learnt, text)),
    };
    let mut stream = tokenizer.map(|t| t.stream(false));
    for (i, (&id, &label)) in example.ids.iter().zip(example.labels).enumerate() {
        let text = match &mut stream {
            Some(stream) => stream.push(id)?,
            None if i == 0 => id.to_string(),
            None => format!(" {id}"),
        };
        add(label != IGNORED, text);
    }
    if let Some(mut stream) = stream {
        let learnt = example.labels.last().is_some_and(|&l| l != IGNORED);
        add(learnt, stream.finish()?);
    }

    let mut out = String::new();
    for (learnt, text) in pieces {
        let text = shown::lines(&text);
        // writing to a string can't fail
        let _ = match (learnt, colour) {
            (true, true) => write!(out, "{LEARNT}{text}{LEARNT:#}"),
            (false, true) => write!(out, "{OTHER}{text}{OTHER:#}"),
            (true, false) => write!(out, "‹{text}›"),
            (false, false) => write!(out, "{text}"),
        };
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    let _ = writeln!(out, "line {}: {} tokens, {} learnt", example.line, example.ids.len(), example.supervised());
    Ok(out)
}
