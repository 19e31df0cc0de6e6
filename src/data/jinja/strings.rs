//! Python's methods on strings.

use super::call::Arguments;
use super::format::is_printable;
use super::lexer::is_space;
use super::limits::{self, LONGEST_LIST};
use super::percent;
use super::text::Text;
use super::value::{Outcome, Value, problem};
use std::collections::BTreeSet;

/// Every method that Python's strings have, so that a template which asks finds it; a few can't be called here.
pub const METHODS: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Places of a text that is padded, at most.
const WIDEST: i128 = 1 << 20;

pub fn method(text: &Text, name: &str, args: Arguments) -> Outcome<Value> {
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let chars = match args.take(name, ["chars"])? {
                [None | Some(Value::None)] => None,
                [Some(chars)] => Some(chars),
            };
            strip(text, name, chars.as_ref())
        }
        "split" | "rsplit" => split(text, name, args),
        "removeprefix" | "removesuffix" | "partition" | "rpartition" => {
            let [part] = args.take(name, ["sep"])?;
            let part = string(name, part)?;
            cut(text, name, &part)
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, args),
        "replace" => {
            let [old, new, count] = args.take(name, ["old", "new", "count"])?;
            let (Some(Value::Str(old)), Some(Value::Str(new))) = (old, new) else {
                return problem("replace takes two strings");
            };
            Ok(Value::text(replace(text, old.as_str(), &new, count.and_then(|c| c.as_int()).unwrap_or(-1))))
        }
        "join" => {
            let [items] = args.take(name, ["iterable"])?;
            let mut out = Text::default();
            out.safe = text.safe;
            for (i, item) in items.unwrap_or(Value::None).items()?.iter().enumerate() {
                let Value::Str(item) = item else {
                    return problem(format!("sequence item {i}: expected str instance, {} found", item.type_name()));
                };
                if i > 0 {
                    out.push(text);
                }
                out.push(item);
            }
            Ok(Value::text(out))
        }
        "splitlines" => {
            let [keep] = args.take(name, ["keepends"])?;
            Ok(Value::list(lines(text, keep.is_some_and(|k| k.truth()))))
        }
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => pad(text, name, args),
        "format" => Ok(Value::text(percent::braces(text, &args, text.origin())?)),
        "encode" | "format_map" | "maketrans" | "translate" => problem(format!("str.{name} is not supported")),
        _ => {
            let [] = args.take(name, [])?;
            if name.starts_with("is") { Ok(Value::Bool(is(text.as_str(), name))) } else { Ok(cased(text, name)) }
        }
    }
}

fn string(what: &str, value: Option<Value>) -> Outcome<String> {
    match value {
        Some(Value::Str(text)) => Ok(text.as_str().to_owned()),
        Some(other) => {
            other.must_be_defined()?;
            problem(format!("{what} takes a string, not {}", other.type_name()))
        }
        None => problem(format!("{what} takes a string")),
    }
}

/// Without the characters `chars` (or blanks) at both ends or one.
pub fn strip(text: &Text, name: &str, chars: Option<&Value>) -> Outcome<Value> {
    let chars = chars.map(|c| string(name, Some(c.clone()))).transpose()?;
    let chars: Option<BTreeSet<char>> = chars.map(|chars| chars.chars().collect());
    let gone = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c));
    let mut part = text.as_str();
    if name != "rstrip" {
        part = part.trim_start_matches(gone);
    }
    if name != "lstrip" {
        part = part.trim_end_matches(gone);
    }
    Ok(Value::text(text.part(part)))
}

fn split(text: &Text, name: &str, args: Arguments) -> Outcome<Value> {
    let [separator, most] = args.take(name, ["sep", "maxsplit"])?;
    let most = most.and_then(|m| m.as_int()).and_then(|m| usize::try_from(m).ok()).unwrap_or(usize::MAX);
    let all = text.as_str();
    let mut parts: Vec<&str> = Vec::new();
    match separator {
        None | Some(Value::None) if name == "split" => {
            let mut rest = all.trim_start_matches(is_space);
            while !rest.is_empty() && parts.len() <= LONGEST_LIST {
                let end = if parts.len() == most { None } else { rest.find(is_space) };
                parts.push(end.map_or(rest, |end| &rest[..end]));
                rest = end.map_or("", |end| rest[end..].trim_start_matches(is_space));
            }
        }
        None | Some(Value::None) => {
            let mut rest = all.trim_end_matches(is_space);
            while !rest.is_empty() && parts.len() <= LONGEST_LIST {
                let space = if parts.len() == most { None } else { rest.char_indices().rfind(|(_, c)| is_space(*c)) };
                parts.push(space.map_or(rest, |(at, c)| &rest[at + c.len_utf8()..]));
                rest = space.map_or("", |(at, _)| rest[..at].trim_end_matches(is_space));
            }
            parts.reverse();
        }
        separator => {
            let separator = string(name, separator)?;
            if separator.is_empty() {
                return problem("empty separator");
            }
            if name == "split" {
                parts = all.splitn(most.saturating_add(1), &*separator).take(LONGEST_LIST + 1).collect();
            } else {
                parts = all.rsplitn(most.saturating_add(1), &*separator).take(LONGEST_LIST + 1).collect();
                parts.reverse();
            }
        }
    }
    if parts.len() > LONGEST_LIST {
        return problem(format!("{name} makes over {LONGEST_LIST} parts"));
    }
    Ok(Value::list(parts.into_iter().map(|part| Value::text(text.part(part))).collect()))
}

fn cut(text: &Text, name: &str, part: &str) -> Outcome<Value> {
    let all = text.as_str();
    Ok(match name {
        "removeprefix" => Value::text(text.part(all.strip_prefix(part).unwrap_or(all))),
        "removesuffix" => Value::text(text.part(all.strip_suffix(part).unwrap_or(all))),
        _ if part.is_empty() => return problem("empty separator"),
        _ => {
            let at = if name == "partition" { all.find(part) } else { all.rfind(part) };
            let (from, to) = match (at, name) {
                (Some(at), _) => (at, at + part.len()),
                (None, "partition") => (all.len(), all.len()),
                (None, _) => (0, 0),
            };
            let slice = |a: usize, b: usize| Value::text(text.slice(a..b));
            Value::tuple(vec![slice(0, from), slice(from, to), slice(to, all.len())])
        }
    })
}

fn search(text: &Text, name: &str, args: Arguments) -> Outcome<Value> {
    let [part, start, end] = args.take(name, ["sub", "start", "end"])?;
    let bound = |v: Option<Value>| v.and_then(|v| v.as_int());
    let slice = super::attributes::slice(
        &Value::text(text.slice(0..text.as_str().len())),
        [bound(start.clone()), bound(end), None],
    )?;
    let all = slice.as_text().map_or("", Text::as_str);
    let length = text.as_str().chars().count() as i128;
    let offset = bound(start).map_or(0, |s| (if s < 0 { s + length } else { s }).clamp(0, length));
    if let (Some(Value::Seq(_, parts)), "startswith" | "endswith") = (&part, name) {
        let mut any = false;
        for part in parts.iter() {
            limits::spend(part.weight());
            limits::check()?;
            let part = string(name, Some(part.clone()))?;
            any |= if name == "startswith" { all.starts_with(&part) } else { all.ends_with(&part) };
        }
        return Ok(Value::Bool(any));
    }
    let part = string(name, part)?;
    let found = match name {
        "startswith" => return Ok(Value::Bool(all.starts_with(&part))),
        "endswith" => return Ok(Value::Bool(all.ends_with(&part))),
        "count" if part.is_empty() => return Ok(Value::Int(all.chars().count() as i128 + 1)),
        "count" => return Ok(Value::Int(all.matches(&part).count() as i128)),
        "find" | "index" => all.find(&part),
        _ => all.rfind(&part),
    };
    match found {
        Some(at) => Ok(Value::Int(all[..at].chars().count() as i128 + offset)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => problem("substring not found"),
    }
}

/// At most `count` times, or always if that is negative.
pub fn replace(text: &Text, old: &str, new: &Text, count: i128) -> Text {
    let all = text.as_str();
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = Text::default();
    out.safe = text.safe;
    let mut from = 0;
    for (at, found) in all.match_indices(old).take(most) {
        if limits::exhausted() {
            break;
        }
        out.push(&text.slice(from..at));
        out.push(new);
        from = at + found.len();
    }
    out.push(&text.slice(from..all.len()));
    out
}

/// Python's line breaks.
pub fn lines(text: &Text, keep_ends: bool) -> Vec<Value> {
    let is_break =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() && !limits::exhausted() {
        let end = rest.find(is_break).unwrap_or(rest.len());
        let broken = match rest[end..].chars().next() {
            Some('\r') if rest[end + 1..].starts_with('\n') => 2,
            other => other.map_or(0, char::len_utf8),
        };
        found.push(Value::text(text.part(&rest[..end + if keep_ends { broken } else { 0 }])));
        rest = &rest[end + broken..];
    }
    found
}

fn pad(text: &Text, name: &str, args: Arguments) -> Outcome<Value> {
    let [width, fill] = args.take(name, ["width", "fillchar"])?;
    let width = match width.as_ref().map(Value::as_int) {
        Some(Some(width)) if width <= WIDEST => width.max(0) as usize,
        Some(Some(_)) => return problem(format!("{name}: a width of over {WIDEST} is too large")),
        None if name == "expandtabs" => 8,
        _ => return problem(format!("{name} takes a number")),
    };
    let fill = fill.map_or_else(|| Ok(" ".to_owned()), |f| string(name, Some(f)))?;
    if fill.chars().count() != 1 {
        return problem("the fill character must be exactly one character long");
    }
    let missing = width.saturating_sub(text.as_str().chars().count());
    let mut out = Text::default();
    out.safe = text.safe;
    let (before, after) = match name {
        "ljust" => (0, missing),
        "rjust" => (missing, 0),
        "center" => (missing / 2 + (missing & width & 1), missing - missing / 2 - (missing & width & 1)),
        "expandtabs" => return Ok(Value::text(tabs(text, width))),
        // zfill
        _ => {
            let sign = if text.as_str().starts_with(['+', '-']) { 1 } else { 0 };
            out.push(&text.slice(0..sign));
            out.push_str(&"0".repeat(missing), text.origin());
            out.push(&text.slice(sign..text.as_str().len()));
            return Ok(Value::text(out));
        }
    };
    out.push_str(&fill.repeat(before), text.origin());
    out.push(text);
    out.push_str(&fill.repeat(after), text.origin());
    Ok(Value::text(out))
}

fn tabs(text: &Text, width: usize) -> Text {
    let mut out = Text::default();
    let mut column = 0;
    for (at, c) in text.as_str().char_indices() {
        if limits::exhausted() {
            break;
        }
        if c == '\t' {
            let blanks = if width == 0 { 0 } else { width - column % width };
            out.push_str(&" ".repeat(blanks), text.origin());
            column += blanks;
        } else {
            out.push(&text.slice(at..at + c.len_utf8()));
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
        }
    }
    out
}

fn is(text: &str, name: &str) -> bool {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let cased = |test: fn(&char) -> bool, other: fn(&char) -> bool| {
        text.chars().any(|c| test(&c)) && !text.chars().any(|c| other(&c))
    };
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" | "isdigit" => {
            all(|c| c.is_numeric() && (c.is_ascii_digit() || !c.is_ascii() && c.to_digit(10).is_none()))
        }
        "isnumeric" => all(char::is_numeric),
        "isidentifier" => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
                && chars.all(|c| c == '_' || c.is_alphanumeric())
        }
        "islower" => cased(|c| c.is_lowercase(), |c| c.is_uppercase()),
        "isupper" => cased(|c| c.is_uppercase(), |c| c.is_lowercase()),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        // istitle
        _ => text == titled(text) && text.chars().any(char::is_alphabetic),
    }
}

fn titled(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    out
}

/// The first character large, the others small.
pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
}

fn cased(text: &Text, name: &str) -> Value {
    let all = text.as_str();
    Value::text(
        text.respelled(match name {
            "upper" => all.to_uppercase(),
            "lower" => all.to_lowercase(),
            "casefold" => all.to_lowercase().replace('ß', "ss"),
            "title" => titled(all),
            "swapcase" => all
                .chars()
                .flat_map(|c| -> Vec<char> {
                    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
                })
                .collect(),
            // capitalize
            _ => capitalized(all),
        }),
    )
}
