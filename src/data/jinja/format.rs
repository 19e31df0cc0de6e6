//! Python's `str` and `repr`.

use super::limits;
use super::text::{Origin, Text};
use super::value::{Kind, Outcome, Value, problem};
use std::fmt::Write;

/// Values in each other that are printed, at most.
const DEEPEST: usize = 100;

/// Python's `str`; `origin` is that of what is no text already.
pub fn str(value: &Value, origin: Option<Origin>) -> Outcome<Text> {
    match value {
        Value::Str(text) => Ok(text.slice(0..text.as_str().len())),
        Value::Undefined(_) => Ok(Text::default()),
        other => repr(other, origin),
    }
}

/// Python's `repr`.
pub fn repr(value: &Value, origin: Option<Origin>) -> Outcome<Text> {
    let mut out = Text::default();
    write_repr(value, origin, &mut out, 0)?;
    Ok(out)
}

fn write_repr(value: &Value, origin: Option<Origin>, out: &mut Text, depth: usize) -> Outcome<()> {
    if depth > DEEPEST {
        return problem(format!("a value is nested more than {DEEPEST} deep"));
    }
    limits::spend(1);
    limits::check()?;
    let list = |out: &mut Text, open: &str, items: &[Value], close: &str| {
        out.push_str(open, origin);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(", ", origin);
            }
            write_repr(item, origin, out, depth + 1)?;
        }
        out.push_str(close, origin);
        Ok(())
    };
    match value {
        Value::Undefined(_) => out.push_str("Undefined", origin),
        Value::None => out.push_str("None", origin),
        Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }, origin),
        Value::Int(i) => out.push_str(&i.to_string(), origin),
        Value::Float(f) => out.push_str(&float(*f), origin),
        Value::Str(text) => out.push_str(&quoted(text.as_str()), text.origin().or(origin)),
        Value::Seq(Kind::List, items) => list(out, "[", items, "]")?,
        Value::Seq(Kind::Tuple, items) => list(out, "(", items, if items.len() == 1 { ",)" } else { ")" })?,
        Value::Seq(Kind::Range, items) => {
            let first = items.first().and_then(Value::as_int).unwrap_or(0);
            let step = items.get(1).and_then(Value::as_int).map_or(1, |second| second - first);
            if step != 1 {
                return problem("prints a range with a step, which is not supported");
            }
            out.push_str(&format!("range({first}, {})", first + items.len() as i128), origin);
        }
        Value::Seq(kind, items) => {
            let name = value.type_name();
            debug_assert!(matches!(kind, Kind::Keys | Kind::Values | Kind::Items));
            list(out, &format!("{name}(["), items, "])")?;
        }
        Value::Dict(dict) => {
            out.push_str("{", origin);
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ", origin);
                }
                write_repr(key, origin, out, depth + 1)?;
                out.push_str(": ", origin);
                write_repr(value, origin, out, depth + 1)?;
            }
            out.push_str("}", origin);
        }
        Value::Iter(_) | Value::Namespace(_) | Value::Loop(_) | Value::Call(_) => {
            // Python would write an address in memory
            return problem(format!("prints a '{}', which is no text", value.type_name()));
        }
    }
    Ok(())
}

/// The shortest digits that read back as the same number, as Python writes them.
pub fn float(f: f64) -> String {
    if !f.is_finite() {
        return if f.is_nan() { "nan".into() } else { if f > 0.0 { "inf" } else { "-inf" }.into() };
    }
    let scientific = format!("{f:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// A string in Python's quotes.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                // writing to a string can't fail
                let _ = match c as u32 {
                    n if n < 0x100 => write!(out, "\\x{n:02x}"),
                    n if n < 0x1_0000 => write!(out, "\\u{n:04x}"),
                    n => write!(out, "\\U{n:08x}"),
                };
            }
        }
    }
    out.push(quote);
    out
}

/// Python's `isprintable` for one character: no separators but the blank, no control and format characters, none that are
/// unassigned or private.
pub fn is_printable(c: char) -> bool {
    !(c.is_control()
        || c != ' ' && c.is_whitespace()
        || matches!(c as u32, 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e
            | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xfffe..=0xffff | 0xe0000..))
}

/// With `&`, `<`, `>` and quotes spelled for HTML.
pub fn escaped(text: &Text) -> Text {
    let mut out = Text::default();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['&', '<', '>', '\'', '"']) {
        out.push(&text.part(&rest[..at]));
        let code = match rest.as_bytes()[at] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'\'' => "&#39;",
            _ => "&#34;",
        };
        out.push_str(code, text.part(&rest[at..=at]).origin());
        rest = &rest[at + 1..];
    }
    out.push(&text.part(rest));
    out.safe = true;
    out
}
