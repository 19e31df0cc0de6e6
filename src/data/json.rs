//! The JSON of a row: as `serde_json` reads it, but with a key that stands twice refused, and with errors that say what to do.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value as Json};
use std::fmt;

/// What is wrong with a row's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Lines below the row's first.
    pub line: usize,
    pub reason: String,
}

/// The object in `text`.
///
/// # Errors
/// Line and reason where it is no JSON, no object, or names a key twice.
pub(super) fn object(text: &str) -> Result<Map<String, Json>, Malformed> {
    let at_start = |reason| Malformed { line: 0, reason };
    match serde_json::from_str::<Unique>(text) {
        Ok(Unique(Json::Object(row))) => Ok(row),
        Ok(Unique(other)) => Err(at_start(format!("a row must be a JSON object, this is {}", type_name(&other)))),
        Err(e) => Err(Malformed { line: e.line().saturating_sub(1), reason: explain(text, &e) }),
    }
}

pub(super) fn type_name(v: &Json) -> &'static str {
    match v {
        Json::Null => "null",
        Json::Bool(_) => "a bool",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

fn explain(text: &str, e: &serde_json::Error) -> String {
    let message = e.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    if e.classify() == Category::Data {
        return format!("column {}: {what}", e.column());
    }
    // behind the characters that were read
    let line = text.split('\n').nth(e.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.as_bytes().get(e.column().saturating_sub(1)..).unwrap_or_default();
    let hint = if what.contains("surrogate") || what.contains("unexpected end of hex escape") {
        "; half of a character that needs two \\u escapes: the text was cut inside it, cut it before"
    } else if what.starts_with("trailing characters") && matches!(rest.first(), Some(b'{' | b'[')) {
        "; another value begins behind the first: one object a line"
    } else if rest.first() == Some(&b'\'') {
        "; strings stand in double quotes (is this a dict as Python prints it? json.dumps writes JSON)"
    } else if [&b"NaN"[..], b"Infinity", b"-Infinity", b"nan", b"inf"].iter().any(|n| rest.starts_with(n)) {
        "; JSON has no NaN and no infinity: write null, or leave the key out"
    } else if [&b"None"[..], b"True", b"False"].iter().any(|n| rest.starts_with(n)) {
        "; write null, true and false (json.dumps does)"
    } else if what.starts_with("control character") {
        "; write a line break inside a string as \\n"
    } else {
        ""
    };
    format!("malformed JSON at column {}: {what}{hint}", e.column())
}

/// A value in which no object names a key twice.
struct Unique(Json);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeys).map(Unique)
    }
}

struct UniqueKeys;

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Json, E> {
        Ok(Json::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Json, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Json, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Json, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Json, E> {
        Ok(Json::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Json, E> {
        Ok(Json::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut object = Map::new();
        while let Some((key, Unique(value))) = map.next_entry::<String, Unique>()? {
            if object.insert(key.clone(), value).is_some() {
                let key: String = key.chars().take(40).collect();
                return Err(A::Error::custom(format!(
                    "the key \"{key}\" stands twice in one object; remove one of them"
                )));
            }
        }
        Ok(Json::Object(object))
    }
}
