//! Text of somebody else's that reaches a terminal or a message: what a file, its name or a model says cannot move the cursor,
//! set a title, hide a line or turn the order of letters around.

use std::borrow::Cow;
use std::path::Path;

/// Characters of one message, at most: a file may quote itself at any length.
const LONGEST: usize = 4_000;

/// Whether a terminal may obey this character instead of showing it: control characters (ESC, CR, BEL and those from 0x80 to
/// 0x9F among them), the two line separators of Unicode, and what embeds or overrides the direction of text.
pub fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` as one line: unsafe characters are spelled out, line breaks among them, and what is over a few thousand characters
/// is cut.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let cut = text.char_indices().nth(LONGEST).map(|(at, _)| at);
    let short = spelled(&text[..cut.unwrap_or(text.len())], |_| false);
    match cut {
        None => short,
        Some(at) => Cow::Owned(format!("{short}… ({} more bytes)", text.len() - at)),
    }
}

/// `text` with its line breaks and tabs, and every other unsafe character spelled out.
pub fn lines(text: &str) -> Cow<'_, str> {
    spelled(text, |c| matches!(c, '\n' | '\t'))
}

/// `text` with each option that it names, ⟨seq_len⟩, as `how` has it: the library does not know how a program's users set one.
pub fn options(text: &str, how: impl Fn(&str) -> String) -> Cow<'_, str> {
    let mut rest = text;
    let mut out = String::new();
    while let Some((before, name, after)) = next_option(rest) {
        out += before;
        out += &how(name);
        rest = after;
    }
    if out.is_empty() && rest.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(out + rest) }
}

/// What stands before the first option, its name, and what stands behind it.
fn next_option(text: &str) -> Option<(&str, &str, &str)> {
    for (at, open) in text.match_indices('⟨') {
        let inside = &text[at + open.len()..];
        let end = inside.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))?;
        if let (true, Some(after)) = (end > 0, inside[end..].strip_prefix('⟩')) {
            return Some((&text[..at], &inside[..end], after));
        }
    }
    None
}

/// A path as one line.
pub fn path(path: &Path) -> String {
    one_line(&path.to_string_lossy()).into_owned()
}

/// JSON with unsafe characters as escapes, so that it is the same JSON: inside of strings it leaves some of them as they are.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // none of these is above U+FFFF; below U+0020 only the line break behind the value is left
        if is_unsafe(c) && c != '\n' { out += &format!("\\u{:04x}", c as u32) } else { out.push(c) }
    }
    out
}

fn spelled(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let escaped = |c: char| is_unsafe(c) && !kept(c);
    if !text.contains(escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if escaped(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A title, a cleared screen, a line that overwrites itself, C1's CSI, a bell, a reversed extension.
    const HOSTILE: &str = "a\x1b]0;t\x07\x1b[2Jb\rc\u{9b}31m\u{202e}fdp\u{2066}\u{2028}\x7f";

    #[test]
    fn options_are_told_as_the_program_has_them() {
        let told = |text| options(text, |name| format!("[{name}]")).into_owned();
        assert_eq!(told("lower ⟨seq_len⟩, or ⟨steps⟩ 3"), "lower [seq_len], or [steps] 3");
        assert_eq!(told("⟨⟩ ⟨A⟩ ⟨a b⟩ ⟨rank⟩⟨"), "⟨⟩ ⟨A⟩ ⟨a b⟩ [rank]⟨");
        assert!(matches!(options("nothing ⟨here", |_| String::new()), Cow::Borrowed("nothing ⟨here")));
    }

    #[test]
    fn a_terminal_obeys_none_of_it() {
        assert_eq!(
            one_line(HOSTILE),
            "a\\u{1b}]0;t\\u{7}\\u{1b}[2Jb\\rc\\u{9b}31m\\u{202e}fdp\\u{2066}\\u{2028}\\u{7f}"
        );
        assert_eq!(one_line("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(lines("a\nb\tc\r\n"), "a\nb\tc\\r\n");
        assert!(!lines(HOSTILE).contains(is_unsafe));
        // what people write stays: letters of any direction, joined emoji
        for plain in ["héllo", "שלום \u{200f}", "👩\u{200d}🔬"] {
            assert_eq!((one_line(plain), lines(plain)), (plain.into(), plain.into()));
        }
        assert_eq!(path(Path::new("a\x1b[2J.gguf")), "a\\u{1b}[2J.gguf");
        let long = "é".repeat(5_000);
        let shown = one_line(&long);
        assert!(shown.starts_with(&long[..8_000]) && shown.ends_with("é… (2000 more bytes)"), "{}", shown.len());
    }

    #[test]
    fn json_is_the_same_value() {
        let text = serde_json::json!({ "text": HOSTILE }).to_string();
        let safe = json(&text);
        assert!(!safe.contains(is_unsafe), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["text"], HOSTILE);
        assert_eq!(json("{}\n"), "{}\n");
    }
}
