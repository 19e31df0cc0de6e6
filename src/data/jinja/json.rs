//! `tojson`: Python's `json.dumps` with all that `transformers` lets a template say.

use super::call::Arguments;
use super::format::float;
use super::limits;
use super::run::Run;
use super::text::{Origin, Text};
use super::value::{Kind, Outcome, Value, problem};
use std::fmt::Write;

/// Values in each other, at most.
const DEEPEST: usize = 100;

struct Writer {
    out: Text,
    /// Of what the template writes: brackets, commas.
    origin: Option<Origin>,
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

impl Run {
    pub fn tojson(&mut self, value: &Value, args: Arguments) -> Outcome<Value> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ascii, indent, separators, sort] = args.take("tojson", names)?;
        let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Str(text)) => Some(text.as_str().to_owned()),
            Some(n) => match n.as_int() {
                // more than a screen's width is a mistake, not a layout
                Some(n) => Some(" ".repeat(n.clamp(0, 80) as usize)),
                None => return problem("tojson: indent is a number or a string"),
            },
        };
        let (item, key) = match separators {
            None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            Some(pair) => match &pair.items()?[..] {
                [Value::Str(item), Value::Str(key)] => (item.as_str().to_owned(), key.as_str().to_owned()),
                _ => return problem("tojson: separators are two strings"),
            },
        };
        self.quoted_arguments |= is_quoted_object(value);
        let out = Text::default();
        let origin = self.origin();
        let mut writer = Writer { out, origin, ascii: truth(ascii), indent, item, key, sort: truth(sort) };
        writer.value(value, 0)?;
        self.pay(Value::text(writer.out))
    }
}

/// A message's string that is a JSON object itself: the arguments of a call, which will be quoted.
fn is_quoted_object(value: &Value) -> bool {
    match value {
        _ if !limits::spend(1 + value.weight()) => false,
        Value::Str(text) => {
            let json = text.as_str().trim();
            text.origin().is_some_and(|o| o.part == super::text::Part::Other)
                && json.starts_with('{')
                && serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok()
        }
        Value::Dict(dict) => {
            dict.get("arguments").is_some_and(is_quoted_object) || dict.get("function").is_some_and(is_quoted_object)
        }
        Value::Seq(Kind::List, items) => items.iter().any(is_quoted_object),
        _ => false,
    }
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text, self.origin);
    }

    fn value(&mut self, value: &Value, depth: usize) -> Outcome<()> {
        if depth > DEEPEST {
            return problem(format!("tojson: a value is nested more than {DEEPEST} deep"));
        }
        limits::spend(1);
        limits::check()?;
        match value {
            Value::Seq(Kind::List | Kind::Tuple, items) => {
                let write = |writer: &mut Writer, i: usize| writer.value(&items[i], depth + 1);
                self.nested(["[", "]"], items.len(), depth, write)
            }
            Value::Dict(dict) => {
                let mut entries: Vec<(Text, &Value)> = Vec::with_capacity(dict.entries.len());
                for (key, value) in &dict.entries {
                    entries.push((key_text(key)?, value));
                }
                if self.sort {
                    entries.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
                }
                self.nested(["{", "}"], entries.len(), depth, |writer, i| {
                    writer.string(&entries[i].0);
                    let key = writer.key.clone();
                    writer.push(&key);
                    writer.value(entries[i].1, depth + 1)
                })
            }
            Value::Str(text) => {
                self.string(text);
                Ok(())
            }
            scalar => {
                let text = scalar_text(scalar)?;
                self.push(&text);
                Ok(())
            }
        }
    }

    fn nested(
        &mut self,
        brackets: [&str; 2],
        length: usize,
        depth: usize,
        mut write: impl FnMut(&mut Writer, usize) -> Outcome<()>,
    ) -> Outcome<()> {
        self.push(brackets[0]);
        let line = |indent: &Option<String>, depth: usize| indent.as_ref().map(|i| format!("\n{}", i.repeat(depth)));
        for i in 0..length {
            if i > 0 {
                let item = self.item.clone();
                self.push(&item);
            }
            if let Some(line) = line(&self.indent, depth + 1) {
                self.push(&line);
            }
            write(self, i)?;
        }
        if length > 0
            && let Some(line) = line(&self.indent, depth)
        {
            self.push(&line);
        }
        self.push(brackets[1]);
        Ok(())
    }

    fn string(&mut self, text: &Text) {
        let mut out = String::with_capacity(text.as_str().len() + 2);
        out.push('"');
        for c in text.as_str().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || self.ascii && !('\x20'..='\x7e').contains(&c) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        // writing to a string can't fail
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        self.out.push_str(&out, text.origin().or(self.origin));
    }
}

fn key_text(key: &Value) -> Outcome<Text> {
    match key {
        Value::Str(text) => Ok(text.slice(0..text.as_str().len())),
        scalar => Ok(Text::new(scalar_text(scalar)?, None)),
    }
}

fn scalar_text(value: &Value) -> Outcome<String> {
    Ok(match value {
        Value::None => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) if f.is_nan() => "NaN".into(),
        Value::Float(f) if f.is_infinite() => if *f > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Value::Float(f) => float(*f),
        Value::Undefined(reason) => return problem(format!("tojson of an undefined value: {reason}")),
        other => return problem(format!("object of type {} is not JSON serializable", other.type_name())),
    })
}
