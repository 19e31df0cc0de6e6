//! `'%s' % value` and `'{}'.format(value)`.

use super::attributes;
use super::call::Arguments;
use super::format::{float, repr, str};
use super::limits;
use super::text::{Origin, Text};
use super::value::{Kind, Outcome, Value, problem};

/// Places of a number or a text that is padded, at most.
const WIDEST: usize = 1 << 20;

/// How one value is laid out.
#[derive(Clone, Debug, Default)]
struct Layout {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Python's `%` on strings.
pub fn format(text: &Text, values: &Value, origin: Option<Origin>) -> Outcome<Text> {
    if text.safe {
        return problem("'%' on what is marked as safe is not supported");
    }
    let list: Vec<Value> = match values {
        Value::Seq(Kind::Tuple, items) => items.to_vec(),
        one => vec![one.clone()],
    };
    let mut values_left = list.into_iter();
    let mut next = || values_left.next().map_or_else(|| problem("not enough arguments for format string"), Ok);
    let mut out = Text::default();
    let mut rest = text.as_str();
    let mut by_name = false;
    while let Some(at) = rest.find('%') {
        limits::check()?;
        out.push(&text.part(&rest[..at]));
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let Some(end) = inner.find(')') else { return problem("incomplete format key") };
            named = Some(attributes::item(values, &Value::str(&inner[..end]))?);
            by_name = true;
            rest = &inner[end + 1..];
        }
        let mut layout = Layout::default();
        let flags = rest.len() - rest.trim_start_matches(['#', '0', '-', ' ', '+']).len();
        for flag in rest[..flags].chars() {
            match flag {
                '#' => layout.alternate = true,
                '0' => layout.zero = true,
                '-' => layout.align = Some('<'),
                '+' => layout.sign = Some('+'),
                _ => layout.sign = layout.sign.or(Some(' ')),
            }
        }
        rest = &rest[flags..];
        layout.width = match rest.strip_prefix('*') {
            Some(after) => {
                rest = after;
                next()?.as_int().and_then(|n| usize::try_from(n).ok()).unwrap_or_default()
            }
            None => number(&mut rest).unwrap_or_default(),
        };
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            layout.precision = Some(number(&mut rest).unwrap_or_default());
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let Some(kind) = rest.chars().next() else { return problem("incomplete format") };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push_str("%", origin);
            continue;
        }
        let value = named.map_or_else(&mut next, Ok)?;
        out.push(&converted(kind, &value, layout, origin)?);
    }
    out.push(&text.part(rest));
    let whole = matches!(values, Value::Dict(_) | Value::Seq(Kind::List | Kind::Range, _)) || by_name;
    if values_left.next().is_some() && !whole {
        return problem("not all arguments converted during string formatting");
    }
    Ok(out)
}

fn converted(kind: char, value: &Value, mut layout: Layout, origin: Option<Origin>) -> Outcome<Text> {
    layout.align = layout.align.or(Some(if layout.zero && !matches!(kind, 's' | 'r' | 'a' | 'c') { '=' } else { '>' }));
    layout.fill = Some(if layout.align == Some('=') { '0' } else { ' ' });
    match kind {
        's' => laid_out(&str(value, origin)?, &layout),
        'r' => laid_out(&repr(value, origin)?, &layout),
        'a' => laid_out(&ascii(value, origin)?, &layout),
        'c' => match (value, value.as_int()) {
            (Value::Str(text), _) if text.as_str().chars().count() == 1 => laid_out(text, &layout),
            (_, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                Some(c) => laid_out(&Text::new(c.to_string(), origin), &layout),
                None => problem("%c arg not in range(0x110000)"),
            },
            _ => problem("%c requires an int or a char"),
        },
        'd' | 'i' | 'u' => match value.as_float() {
            Some(f) if matches!(value, Value::Float(_)) => integer(f.trunc() as i128, 'd', &layout, origin),
            _ => integer(int_of(value, kind)?, 'd', &layout, origin),
        },
        'x' | 'X' | 'o' => integer(int_of(value, kind)?, kind, &layout, origin),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(f) => decimal(f, kind, &layout, origin),
            None => problem(format!("must be real number, not {}", value.type_name())),
        },
        other => problem(format!("unsupported format character '{other}'")),
    }
}

fn int_of(value: &Value, kind: char) -> Outcome<i128> {
    let wanted = || problem(format!("%{kind} format: a number is required, not {}", value.type_name()));
    value.as_int().map_or_else(wanted, Ok)
}

fn ascii(value: &Value, origin: Option<Origin>) -> Outcome<Text> {
    let text = repr(value, origin)?;
    let plain: String = text
        .as_str()
        .chars()
        .map(|c| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() })
        .collect();
    if plain.contains("\\u{") { problem("characters beyond ASCII in %a and !a are not supported") } else { Ok(text) }
}

/// Digits at the front of `rest`.
fn number(rest: &mut &str) -> Option<usize> {
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, after) = rest.split_at(digits);
    *rest = after;
    number.parse().ok()
}

/// A text in its width.
fn laid_out(text: &Text, layout: &Layout) -> Outcome<Text> {
    let mut whole = text.slice(0..text.as_str().len());
    if let Some(most) = layout.precision
        && let Some((end, _)) = text.as_str().char_indices().nth(most)
    {
        whole = text.slice(0..end);
    }
    padded(&whole, "", layout)
}

/// `sign` stands before the padding of `=`.
fn padded(text: &Text, sign: &str, layout: &Layout) -> Outcome<Text> {
    if layout.width > WIDEST {
        return problem(format!("a width of over {WIDEST} is too large"));
    }
    let missing = layout.width.saturating_sub(text.as_str().chars().count() + sign.chars().count());
    let fill = |n: usize| layout.fill.unwrap_or(' ').to_string().repeat(n);
    let (before, inner, after) = match layout.align {
        Some('>') => (missing, 0, 0),
        Some('^') => (missing / 2, 0, missing - missing / 2),
        Some('=') => (0, missing, 0),
        _ => (0, 0, missing),
    };
    let origin = text.origin();
    let mut out = Text::default();
    out.push_str(&fill(before), origin);
    out.push_str(sign, origin);
    out.push_str(&fill(inner), origin);
    out.push(text);
    out.push_str(&fill(after), origin);
    Ok(out)
}

fn sign(negative: bool, layout: &Layout) -> &'static str {
    match (negative, layout.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

fn integer(n: i128, kind: char, layout: &Layout, origin: Option<Origin>) -> Outcome<Text> {
    let size = n.unsigned_abs();
    let (prefix, mut digits) = match kind {
        'x' => ("0x", format!("{size:x}")),
        'X' => ("0X", format!("{size:X}")),
        'o' => ("0o", format!("{size:o}")),
        'b' => ("0b", format!("{size:b}")),
        _ => ("", size.to_string()),
    };
    if let Some(least) = layout.precision {
        digits = format!("{digits:0>width$}", width = least.min(WIDEST));
    }
    let digits = grouped(&digits, layout.grouping);
    let sign = format!("{}{}", sign(n < 0, layout), if layout.alternate { prefix } else { "" });
    padded(&Text::new(digits, origin), &sign, layout)
}

fn grouped(digits: &str, separator: Option<char>) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let (whole, rest) = digits.find(|c: char| !c.is_ascii_digit()).map_or((digits, ""), |at| digits.split_at(at));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}

fn decimal(f: f64, kind: char, layout: &Layout, origin: Option<Origin>) -> Outcome<Text> {
    let size = f.abs();
    let places = layout.precision.unwrap_or(6).min(1000);
    let mut digits = match kind.to_ascii_lowercase() {
        _ if !f.is_finite() => float(size),
        'f' => format!("{size:.places$}"),
        'e' => scientific(size, places),
        '%' => format!("{:.places$}%", size * 100.0),
        _ => general(size, places.max(1), layout.alternate),
    };
    if kind.is_ascii_uppercase() {
        digits = digits.to_uppercase();
    }
    let negative = f.is_sign_negative() && !f.is_nan();
    padded(&Text::new(grouped(&digits, layout.grouping), origin), sign(negative, layout), layout)
}

fn scientific(f: f64, places: usize) -> String {
    let text = format!("{f:.places$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%g`: so many digits, in whichever way is shorter.
fn general(f: f64, digits: usize, zeros: bool) -> String {
    let text = scientific(f, digits - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or_default();
    let trim = |s: &str| match s.contains('.') && !zeros {
        true => s.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => s.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let (mantissa, rest) = text.split_once('e').unwrap_or((&text, ""));
        return format!("{}e{rest}", trim(mantissa));
    }
    let places = (digits as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{f:.places$}"))
}

/// Python's `str.format`.
pub fn braces(text: &Text, args: &Arguments, origin: Option<Origin>) -> Outcome<Text> {
    let mut out = Text::default();
    let mut rest = text.as_str();
    let mut automatic = 0;
    while let Some(at) = rest.find(['{', '}']) {
        limits::check()?;
        out.push(&text.part(&rest[..at]));
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if rest.starts_with(brace) {
            out.push_str(brace, origin);
            rest = &rest[1..];
            continue;
        }
        if brace == "}" {
            return problem("single '}' encountered in format string");
        }
        let Some(end) = rest.find('}') else { return problem("expected '}' before end of string") };
        let field = &rest[..end];
        if field.contains('{') {
            return problem("format fields inside of format fields are not supported");
        }
        rest = &rest[end + 1..];
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = field.split_once('!').map_or((field, None), |(f, c)| (f, Some(c)));
        let mut value = looked_up(field, args, &mut automatic)?;
        match conversion {
            None => {}
            Some("s") => value = Value::text(str(&value, origin)?),
            Some("r") => value = Value::text(repr(&value, origin)?),
            Some(other) => return problem(format!("conversion !{other} is not supported")),
        }
        out.push(&by_spec(&value, spec, origin)?);
    }
    out.push(&text.part(rest));
    Ok(out)
}

/// `0.name[key]`.
fn looked_up(field: &str, args: &Arguments, automatic: &mut usize) -> Outcome<Value> {
    let end = field.find(['.', '[']).unwrap_or(field.len());
    let (name, mut path) = field.split_at(end);
    let missing = || problem(format!("format field '{name}' has no value"));
    let index = if name.is_empty() {
        *automatic += 1;
        Some(*automatic - 1)
    } else {
        name.parse().ok()
    };
    let found = match index {
        Some(i) => args.positional.get(i).cloned(),
        None => args.named.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()),
    };
    let mut value = found.map_or_else(missing, Ok)?;
    while !path.is_empty() {
        let end = if path.starts_with('[') {
            path.find(']').map_or(path.len(), |n| n + 1)
        } else {
            path[1..].find(['.', '[']).map_or(path.len(), |n| n + 1)
        };
        let (step, after) = path.split_at(end);
        let key = step.trim_matches(['.', '[', ']']);
        value = match key.parse::<i128>() {
            Ok(i) if step.starts_with('[') => attributes::item(&value, &Value::Int(i))?,
            _ => attributes::item(&value, &Value::str(key))?,
        };
        value.must_be_defined()?;
        path = after;
    }
    Ok(value)
}

/// Python's format specification: `[[fill]align][sign][#][0][width][grouping][.precision][kind]`.
fn by_spec(value: &Value, spec: &str, origin: Option<Origin>) -> Outcome<Text> {
    if spec.is_empty() {
        return str(value, origin);
    }
    let mut layout = Layout::default();
    let chars: Vec<char> = spec.chars().take(2).collect();
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>^=".contains(*c));
    let mut rest = spec;
    if is_align(chars.get(1)) {
        (layout.fill, layout.align) = (chars.first().copied(), chars.get(1).copied());
        rest = &spec[chars[0].len_utf8() + 1..];
    } else if is_align(chars.first()) {
        layout.align = chars.first().copied();
        rest = &spec[1..];
    }
    let mut take = |set: &str| {
        let found = rest.chars().next().filter(|c| set.contains(*c));
        rest = &rest[found.map_or(0, char::len_utf8)..];
        found
    };
    layout.sign = take("+- ");
    layout.alternate = take("#").is_some();
    layout.zero = take("0").is_some();
    layout.width = number(&mut rest).unwrap_or_default();
    let mut take = |set: &str| {
        let found = rest.chars().next().filter(|c| set.contains(*c));
        rest = &rest[found.map_or(0, char::len_utf8)..];
        found
    };
    layout.grouping = take(",_");
    if take(".").is_some() {
        layout.precision = number(&mut rest);
    }
    layout.kind = rest.chars().next();
    if rest.chars().count() > 1 {
        return problem(format!("invalid format specifier '{spec}'"));
    }
    let numeric = value.as_float().is_some();
    if layout.zero && layout.align.is_none() && numeric {
        (layout.fill, layout.align) = (layout.fill.or(Some('0')), Some('='));
    }
    layout.fill = layout.fill.or(layout.zero.then_some('0'));
    let by_default = if numeric { '>' } else { '<' };
    layout.align = layout.align.or(Some(by_default));
    match (layout.kind, value.as_int(), value.as_float()) {
        (None | Some('s'), _, None) => match value {
            Value::Str(text) => laid_out(text, &layout),
            other => problem(format!("unsupported format string passed to {}", other.type_name())),
        },
        (None | Some('d' | 'x' | 'X' | 'o' | 'b'), Some(n), _) => {
            integer(n, layout.kind.unwrap_or('d'), &layout, origin)
        }
        (Some('c'), Some(n), _) => match u32::try_from(n).ok().and_then(char::from_u32) {
            Some(c) => laid_out(&Text::new(c.to_string(), origin), &layout),
            None => problem("no such character"),
        },
        (Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')), _, Some(f)) => decimal(f, kind, &layout, origin),
        (None, _, Some(f)) => match layout.precision {
            Some(_) => problem("a precision without a kind of number is not supported"),
            None => {
                let digits = grouped(&float(f.abs()), layout.grouping);
                padded(&Text::new(digits, origin), sign(f.is_sign_negative(), &layout), &layout)
            }
        },
        _ => problem(format!("format specifier '{spec}' does not fit a value of type '{}'", value.type_name())),
    }
}
