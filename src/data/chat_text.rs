//! What chat templates call that Python has and minijinja has not.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io;

/// `json.dumps(value, ensure_ascii=False, indent=indent)`: as `transformers` has it, not as Jinja, which escapes HTML.
pub(super) fn tojson(value: &Value, args: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = args.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = args.get(ignored)?;
    }
    args.assert_all_used()?;
    let mut out = Vec::new();
    let done = match indent {
        // more than a screen's width is a mistake, not a layout
        Some(n) => {
            let indent = " ".repeat(n.min(80));
            value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(indent.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    done.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// Python's separators: `", "` and `": "`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

/// `{% generation %}` and `{% endgeneration %}` mark the assistant's words for a Python extension; here they are only
/// blocks, so they become conditions that always hold.
pub(super) fn without_generation_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else { break };
        let (tag, after) = rest[open..].split_at(length);
        out.push_str(&rest[..open]);
        let inner = tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match inner {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

/// Seconds since 1970: the clock's, or `SOURCE_DATE_EPOCH` where that is set, so that a run can be repeated exactly with
/// templates that write today's date.
pub(super) fn now() -> i64 {
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    crate::env::settings().source_date_epoch.unwrap_or_else(clock)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `strftime` in UTC for the directives that name a date or a time; others stay as they are.
pub(super) fn strftime(seconds: i64, format: &str) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let hour = second / 3600;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year.rem_euclid(100)),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('e') => out += &format!("{day:2}"),
            Some('j') => out += &format!("{:03}", days - since_epoch(year) + 1),
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('A') => out += day_name,
            Some('a') => out += &day_name[..3],
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('M') => out += &format!("{:02}", second / 60 % 60),
            Some('S') => out += &format!("{:02}", second % 60),
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Days from 1970-01-01 to the first day of `year`.
fn since_epoch(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)) - 477
}

/// Year, month and day (both from 1) of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while since_epoch(year + 1) <= days {
        year += 1;
    }
    let leap = i64::from(since_epoch(year + 1) - since_epoch(year) == 366);
    let mut day = days - since_epoch(year);
    let lengths = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in (1..).zip(lengths) {
        if day < length {
            return (year, month, day + 1);
        }
        day -= length;
    }
    (year, 12, 31) // ok: the lengths add up to the year's
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_pythons() {
        // python3 -c 'import datetime as d; print(d.datetime.fromtimestamp(S, d.UTC).strftime(F))'
        let f = "%d %b %Y %y %m %B %A %a %H:%M:%S %j %I%p %% %F";
        for (s, want) in [
            (0, "01 Jan 1970 70 01 January Thursday Thu 00:00:00 001 12AM % 1970-01-01"),
            (951_782_399, "28 Feb 2000 00 02 February Monday Mon 23:59:59 059 11PM % 2000-02-28"),
            (1_709_208_000, "29 Feb 2024 24 02 February Thursday Thu 12:00:00 060 12PM % 2024-02-29"),
            (1_767_225_599, "31 Dec 2025 25 12 December Wednesday Wed 23:59:59 365 11PM % 2025-12-31"),
            (4_107_542_400, "01 Mar 2100 00 03 March Monday Mon 00:00:00 060 12AM % 2100-03-01"),
        ] {
            assert_eq!(strftime(s, f), want);
        }
    }

    #[test]
    fn generation_marks_go_and_other_tags_stay() {
        let t = "a{%- if x %}{% generation %}b{%- endgeneration -%}{% endif %} {% open";
        assert_eq!(without_generation_marks(t), "a{%- if x %}{% if true %}b{%- endif -%}{% endif %} {% open");
    }
}
