//! Jinja's filters on one value.

use super::ast::Operator;
use super::call::Arguments;
use super::format;
use super::limits;
use super::run::Run;
use super::text::Text;
use super::value::{Dict, Outcome, Value, problem};
use super::{attributes, operators, percent, strings};

/// What `is filter` knows.
pub const FILTERS: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

impl Run {
    pub fn filter(&mut self, name: &str, value: Value, args: Arguments) -> Outcome<Value> {
        self.step(value.weight())?;
        let made = match name {
            "default" | "d" => default(value, args)?,
            "tojson" => self.tojson(&value, args)?,
            "length" | "count" => Value::Int(value.length()? as i128),
            "string" => Value::text(format::str(&value, self.origin())?),
            "safe" => {
                let mut text = format::str(&value, self.origin())?;
                text.safe = true;
                Value::text(text)
            }
            "escape" | "e" | "forceescape" => {
                let text = format::str(&value, self.origin())?;
                Value::text(if text.safe && name != "forceescape" { text } else { format::escaped(&text) })
            }
            "int" => int(&value, args)?,
            "float" => {
                let [default] = args.take(name, ["default"])?;
                number(&value)?.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float)
            }
            "abs" => match (value.as_int(), value.as_float()) {
                (Some(i), _) => Value::Int(i.saturating_abs()),
                (_, Some(f)) => Value::Float(f.abs()),
                _ => return problem(format!("bad operand type for abs(): '{}'", value.type_name())),
            },
            "round" => round(&value, args)?,
            "attr" => {
                let [name] = args.take(name, ["name"])?;
                match name {
                    Some(Value::Str(name)) if !matches!(value, Value::Dict(_)) => {
                        attributes::attribute(&value, name.as_str())?
                    }
                    _ => Value::undefined("the filter attr found nothing"),
                }
            }
            "items" => match &value {
                Value::Undefined(_) => Value::iter(Vec::new()),
                Value::Dict(dict) => {
                    let pair = |(k, v): &(Value, Value)| Value::tuple(vec![k.clone(), v.clone()]);
                    Value::iter(dict.entries.iter().map(pair).collect())
                }
                _ => return problem("can only get item pairs from a mapping"),
            },
            "dictsort" => dictsort(&value, args)?,
            "trim" | "upper" | "lower" | "capitalize" | "title" | "replace" | "center" | "indent" | "wordcount"
            | "truncate" | "urlencode" | "format" => {
                if matches!(name, "truncate" | "urlencode" | "indent") && !matches!(value, Value::Str(_)) {
                    return problem(format!("{name} takes a text, not {}", value.type_name()));
                }
                let text = format::str(&value, self.origin())?;
                self.text_filter(name, &text, args)?
            }
            _ => return self.sequence_filter(name, value, args),
        };
        self.pay(made)
    }

    fn text_filter(&mut self, name: &str, text: &Text, args: Arguments) -> Outcome<Value> {
        match name {
            "trim" => {
                let [chars] = args.take(name, ["chars"])?;
                strings::strip(text, "strip", chars.filter(|c| !matches!(c, Value::None)).as_ref())
            }
            "replace" => {
                let [old, new, count] = args.take(name, ["old", "new", "count"])?;
                let (Some(old), Some(new)) = (old, new) else { return problem("replace takes two strings") };
                let old = format::str(&old, None)?;
                let new = format::str(&new, self.origin())?;
                let count = count.and_then(|c| c.as_int()).unwrap_or(-1);
                let mut plain = strings::replace(text, old.as_str(), &new, count);
                plain.safe = false;
                Ok(Value::text(plain))
            }
            "center" => {
                let [width] = args.take(name, ["width"])?;
                strings::method(text, "center", Arguments::one(width.unwrap_or(Value::Int(80))))
            }
            "indent" => indent(text, args),
            "format" => {
                let values = match args.named.is_empty() {
                    true => Value::tuple(args.positional),
                    false => {
                        let mut named = Dict::default();
                        args.named.into_iter().for_each(|(n, v)| named.set(Value::str(n), v));
                        Value::dict(named)
                    }
                };
                Ok(Value::text(percent::format(text, &values, self.origin())?))
            }
            "truncate" => truncate(text, args),
            _ => {
                let [] = args.take(name, [])?;
                let all = text.as_str();
                Ok(match name {
                    "wordcount" => {
                        let is_word = |c: char| c.is_alphanumeric() || c == '_';
                        Value::Int(all.split(|c| !is_word(c)).filter(|w| !w.is_empty()).count() as i128)
                    }
                    "urlencode" => Value::text(text.respelled(url_encoded(all))),
                    "title" => Value::text(text.respelled(title(all))),
                    _ => strings::method(text, name, Arguments::default())?,
                })
            }
        }
    }
}

fn default(value: Value, args: Arguments) -> Outcome<Value> {
    let [default, also_false] = args.take("default", ["default_value", "boolean"])?;
    let replaced = value.is_undefined() || also_false.is_some_and(|b| b.truth()) && !value.truth();
    Ok(if replaced { default.unwrap_or_else(|| Value::str("")) } else { value })
}

/// A number, or a text that reads as one.
fn number(value: &Value) -> Outcome<Option<f64>> {
    value.must_be_defined()?;
    Ok(match value {
        Value::Str(text) => text.as_str().trim().replace('_', "").parse().ok(),
        other => other.as_float(),
    })
}

fn int(value: &Value, args: Arguments) -> Outcome<Value> {
    let [default, base] = args.take("int", ["default", "base"])?;
    let base = base.and_then(|b| b.as_int()).unwrap_or(10);
    let read = |text: &str| {
        let text = text.trim().replace('_', "");
        let prefix = match base {
            16 => "0x",
            8 => "0o",
            2 => "0b",
            _ => "",
        };
        let lower = text.to_lowercase();
        let (negative, digits) = lower.strip_prefix('-').map_or((false, &*lower), |rest| (true, rest));
        let digits = digits.strip_prefix(prefix).unwrap_or(digits);
        let read = i128::from_str_radix(digits, u32::try_from(base).ok().filter(|b| (2..=36).contains(b))?).ok()?;
        if negative { read.checked_neg() } else { Some(read) }
    };
    let whole = match value {
        Value::Str(text) => read(text.as_str()),
        other => other.as_int(),
    };
    let cut = || -> Outcome<Option<i128>> { Ok(number(value)?.filter(|f| f.is_finite()).map(|f| f.trunc() as i128)) };
    let found = match whole {
        Some(whole) => Some(whole),
        None => cut()?,
    };
    Ok(found.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
}

/// Halves go to the even digit, as in Python.
fn round(value: &Value, args: Arguments) -> Outcome<Value> {
    let [precision, method] = args.take("round", ["precision", "method"])?;
    let places = precision.and_then(|p| p.as_int()).unwrap_or(0).clamp(-300, 300) as i32;
    let method = method.map_or_else(|| Ok("common".to_owned()), |m| Ok(format::str(&m, None)?.as_str().to_owned()))?;
    value.must_be_defined()?;
    let Some(f) = value.as_float() else {
        return problem(format!("round takes a number, not {}", value.type_name()));
    };
    let scale = 10f64.powi(places);
    match (&*method, value.as_int()) {
        ("common", Some(i)) if places >= 0 => Ok(Value::Int(i)),
        ("common", None) if places >= 0 => {
            // through the exact decimal digits of the number
            Ok(Value::Float(format!("{f:.*}", places as usize).parse().unwrap_or(f)))
        }
        ("common", _) => Ok(Value::Float((f * scale).round_ties_even() / scale)),
        ("ceil", _) => Ok(Value::Float((f * scale).ceil() / scale)),
        ("floor", _) => Ok(Value::Float((f * scale).floor() / scale)),
        (other, _) => problem(format!("round: method must be common, ceil or floor, not {other}")),
    }
}

fn dictsort(value: &Value, args: Arguments) -> Outcome<Value> {
    let [case_sensitive, by, reverse] = args.take("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = value else {
        value.must_be_defined()?;
        return problem(format!("dictsort takes a mapping, not {}", value.type_name()));
    };
    let by_value = by.is_some_and(|b| b.equals(&Value::str("value")));
    let sensitive = case_sensitive.is_some_and(|c| c.truth());
    let pairs = dict.entries.iter().map(|(k, v)| {
        let key = if by_value { v } else { k };
        limits::spend(key.weight());
        (super::sequences::sort_key(key, sensitive), Value::tuple(vec![k.clone(), v.clone()]))
    });
    let sorted = super::sequences::sorted(pairs.collect(), reverse.is_some_and(|r| r.truth()))?;
    Ok(Value::list(sorted))
}

/// Jinja's: the first letter of each word large, the others small; words begin behind blanks, hyphens and brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut first = true;
    for c in text.chars() {
        if first {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        first = c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

fn url_encoded(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"_.-~/".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn indent(text: &Text, args: Arguments) -> Outcome<Value> {
    let [width, first, blank] = args.take("indent", ["width", "first", "blank"])?;
    let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
    let (first, blank) = (truth(first), truth(blank));
    let indent = match width {
        None => "    ".to_owned(),
        Some(Value::Str(text)) => text.as_str().to_owned(),
        Some(n) => match n.as_int() {
            Some(n) if n <= 1000 => " ".repeat(n.max(0) as usize),
            _ => return problem("indent: a width is a text or a number up to 1000"),
        },
    };
    let mut out = Text::default();
    let add = |out: &mut Text| out.push_str(&indent, text.origin());
    if first {
        add(&mut out);
    }
    let mut whole = text.slice(0..text.as_str().len());
    whole.push_str("\n", None);
    for (i, line) in strings::lines(&whole, false).iter().enumerate() {
        let Value::Str(line) = line else { continue };
        if i > 0 {
            out.push_str("\n", text.origin());
            if blank || !line.as_str().is_empty() {
                add(&mut out);
            }
        }
        out.push(line);
    }
    Ok(Value::text(out))
}

fn truncate(text: &Text, args: Arguments) -> Outcome<Value> {
    let [length, kill, end, leeway] = args.take("truncate", ["length", "killwords", "end", "leeway"])?;
    let count = |v: Option<Value>, default: i128| v.and_then(|v| v.as_int()).unwrap_or(default).max(0) as usize;
    let (length, leeway) = (count(length, 255), count(leeway, 5));
    let end = end.map_or_else(|| Ok(Text::new("...", None)), |e| format::str(&e, None))?;
    let start = |n: usize| text.as_str().char_indices().nth(n).map(|(at, _)| at);
    if length.checked_add(leeway).and_then(start).is_none() {
        return Ok(Value::text(text.slice(0..text.as_str().len())));
    }
    let kept = length.saturating_sub(end.as_str().chars().count());
    let mut out = text.slice(0..start(kept).unwrap_or(0));
    if !kill.is_some_and(|k| k.truth())
        && let Some(space) = out.as_str().rfind(' ')
    {
        out = out.slice(0..space);
    }
    out.push(&end);
    Ok(Value::text(out))
}

/// The sum of numbers or lists.
pub fn add(a: &Value, b: &Value) -> Outcome<Value> {
    operators::binary(Operator::Add, a, b, None)
}
