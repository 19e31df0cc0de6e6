//! The messages of a row, checked.

use crate::data::rows::{string, type_name};
use serde_json::{Map, Value as Json};

/// The messages of a row, checked; contents that are lists of text parts are joined.
pub(in crate::data) fn messages(row: &Map<String, Json>) -> Result<Vec<Json>, String> {
    let list = match row.get("messages") {
        Some(Json::Array(list)) if !list.is_empty() => list,
        Some(Json::Array(_)) => return Err("messages is empty".into()),
        Some(other) => return Err(format!("messages must be a list, this is {}", type_name(other))),
        None => return Err("field messages is missing".into()),
    };
    let check = |(i, message): (usize, &Json)| -> Result<Json, String> {
        let at = |reason: String| format!("messages[{i}]: {reason}");
        let Json::Object(message) = message else {
            return Err(at(format!("must be an object with role and content, this is {}", type_name(message))));
        };
        string(message, "role").map_err(at)?;
        let mut message = message.clone();
        match message.get("content") {
            Some(Json::Array(parts)) => {
                let texts: Option<Vec<&str>> = parts.iter().map(|p| p.get("text")?.as_str()).collect();
                let text = texts.ok_or_else(|| at("content holds a part that is no text".into()))?.concat();
                message.insert("content".into(), Json::String(text));
            }
            None | Some(Json::Null) if message.contains_key("tool_calls") => {}
            _ => drop(string(&message, "content").map_err(at)?),
        }
        Ok(Json::Object(message))
    };
    list.iter().enumerate().map(check).collect()
}
