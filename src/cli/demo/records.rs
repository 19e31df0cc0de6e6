//! What the built-in model works on: a person's name and a day, written in one of many styles.
//!
//! A row is `first last year-month-day style=` and the record in that style. Pretraining knows [`KNOWN`]; the demo teaches
//! [`TAUGHT`], whose parts all occur in known styles, but whose name and whose order of parts do not. Rows to be scored hold
//! family names that neither pretraining nor the demo's training ever shows.

use crate::rng::Rng;
use serde::Serialize;
use std::collections::BTreeSet;

/// One line of a JSONL file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Row {
    pub prompt: String,
    pub response: String,
}

/// Which family names rows may hold. Every name is in exactly one of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Those to learn from: seven of eight.
    Train,
    /// Those to be scored on.
    HeldOut,
}

/// A way to write a record: its name in prompts, and its text with a field in each pair of braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub name: &'static str,
    pub text: &'static str,
}

impl Style {
    /// What asks for it at the end of a prompt: one token of the model's.
    pub fn mark(&self) -> String {
        format!("{}=", self.name)
    }
}

const fn style(name: &'static str, text: &'static str) -> Style {
    Style { name, text }
}

/// The styles of pretraining.
pub const KNOWN: &[Style] = &[
    style("last", "{last}"),
    style("name", "{First} {Last}"),
    style("caps", "{FIRST} {LAST}"),
    style("swap", "{Last}, {First}"),
    style("short", "{F}. {Last}"),
    style("index", "{LAST} {F}."),
    style("month", "{month} {year}"),
    style("long", "{day} {month} {year}"),
    style("us", "{month} {day}, {year}"),
    style("born", "{First} ({year})"),
];

/// The style that the demo teaches.
pub const TAUGHT: Style = style("cite", "{LAST}, {F}. ({month} {year})");

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A person and a day; names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub first: String,
    pub last: String,
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 28.
    pub day: u64,
}

impl Record {
    /// A random record.
    pub fn draw(rng: &mut Rng, names: Names) -> Record {
        let first = name(rng);
        let last = loop {
            let last = name(rng);
            if set_of(&last) == names {
                break last;
            }
        };
        Record { first, last, year: 1800 + rng.below(250), month: 1 + rng.below(12), day: 1 + rng.below(28) }
    }

    /// The record as prompts give it.
    pub fn text(&self) -> String {
        format!("{} {} {}-{:02}-{:02}", self.first, self.last, self.year, self.month, self.day)
    }

    /// The record as `style` writes it.
    pub fn written(&self, style: Style) -> String {
        let mut text = String::new();
        for part in style.text.split_inclusive(['{', '}']) {
            match part.strip_suffix('}') {
                Some(field) => text += &self.field(field),
                None => text += part.trim_end_matches('{'),
            }
        }
        text
    }

    /// A prompt that asks for `style`, and the answer.
    pub fn row(&self, style: Style) -> Row {
        Row { prompt: format!("{} {}", self.text(), style.mark()), response: self.written(style) }
    }

    fn field(&self, field: &str) -> String {
        match field {
            "first" => self.first.clone(),
            "First" => capitalised(&self.first),
            "FIRST" => self.first.to_uppercase(),
            "f" => self.first[..1].to_owned(),
            "F" => self.first[..1].to_uppercase(),
            "last" => self.last.clone(),
            "Last" => capitalised(&self.last),
            "LAST" => self.last.to_uppercase(),
            "L" => self.last[..1].to_uppercase(),
            "year" => self.year.to_string(),
            "month" => MONTHS[self.month as usize - 1].to_owned(),
            _ => self.day.to_string(),
        }
    }
}

/// A pronounceable name of two syllables, one of 40,500.
fn name(rng: &mut Rng) -> String {
    const HEADS: &[u8] = b"bcdfghjklmnprstvwz";
    const VOWELS: &[u8] = b"aeiou";
    const ENDS: &[u8] = b"nrsl";
    let mut text = String::new();
    let mut pick = |from: &[u8]| text.push(char::from(from[rng.below(from.len() as u64) as usize]));
    for letters in [HEADS, VOWELS, HEADS, VOWELS] {
        pick(letters);
    }
    if rng.below(2) == 0 {
        text.push(char::from(ENDS[rng.below(ENDS.len() as u64) as usize]));
    }
    text
}

fn capitalised(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

/// The set that a family name belongs to: the same for every seed.
fn set_of(last: &str) -> Names {
    if Rng::named(0, last).below(8) == 0 { Names::HeldOut } else { Names::Train }
}

/// `count` different rows of `style`, drawn with `seed`.
pub fn rows(seed: u64, style: Style, names: Names, count: usize) -> Vec<Row> {
    let mut rng = Rng::named(seed, "demo rows");
    let (mut seen, mut rows) = (BTreeSet::new(), Vec::with_capacity(count));
    while rows.len() < count {
        let row = Record::draw(&mut rng, names).row(style);
        if seen.insert(row.prompt.clone()) {
            rows.push(row);
        }
    }
    rows
}

/// Rows as a JSONL file.
pub fn to_jsonl(rows: &[Row]) -> String {
    rows.iter().map(|r| serde_json::json!({ "prompt": r.prompt, "response": r.response }).to_string() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Record {
        Record { first: "ada".into(), last: "lovelace".into(), year: 1843, month: 9, day: 5 }
    }

    #[test]
    fn a_record_in_every_style() {
        let row = ada().row(TAUGHT);
        assert_eq!(row.prompt, "ada lovelace 1843-09-05 cite=");
        assert_eq!(row.response, "LOVELACE, A. (Sep 1843)");
        let texts: Vec<String> = KNOWN.iter().map(|s| ada().written(*s)).collect();
        #[rustfmt::skip]
        let expected = ["lovelace", "Ada Lovelace", "ADA LOVELACE", "Lovelace, Ada", "A. Lovelace", "LOVELACE A.", "Sep 1843",
            "5 Sep 1843", "Sep 5, 1843", "Ada (1843)"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn the_taught_style_is_new_but_made_of_known_parts() {
        let fields = |s: &Style| -> Vec<&str> { s.text.split(['{', '}']).skip(1).step_by(2).collect() };
        let known: BTreeSet<&str> = KNOWN.iter().flat_map(fields).collect();
        assert!(KNOWN.iter().all(|s| s.name != TAUGHT.name && s.text != TAUGHT.text));
        assert!(fields(&TAUGHT).iter().all(|f| known.contains(f)));
    }

    #[test]
    fn rows_repeat_and_the_sets_are_disjoint() {
        let train = rows(1, TAUGHT, Names::Train, 2000);
        let held_out = rows(1, TAUGHT, Names::HeldOut, 500);
        assert_eq!(train, rows(1, TAUGHT, Names::Train, 2000));
        assert_ne!(train, rows(2, TAUGHT, Names::Train, 2000));
        let last = |r: &Row| r.response.split(',').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = train.iter().map(last).collect();
        assert!(held_out.iter().all(|r| !names.contains(&last(r))));
        assert_eq!(train.iter().map(|r| &r.prompt).collect::<BTreeSet<_>>().len(), 2000);
    }

    #[test]
    fn rows_as_json_lines() {
        let text = to_jsonl(&[ada().row(KNOWN[0])]);
        assert_eq!(text, "{\"prompt\":\"ada lovelace 1843-09-05 last=\",\"response\":\"lovelace\"}\n");
    }
}
