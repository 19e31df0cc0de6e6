//! Rows of other tools' conversations, as `messages`: ShareGPT's `conversations` with `from` and `value`, and TRL's `prompt`
//! and `completion` as lists of messages.

use super::json::type_name;
use serde_json::{Map, Value as Json};

/// ShareGPT's names for who speaks, and the roles that chat templates know.
const SPEAKERS: &[(&str, &str)] = &[
    ("human", "user"),
    ("user", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("function", "tool"),
    ("function_response", "tool"),
    ("tool_response", "tool"),
    ("observation", "tool"),
];

/// Keys of a row that hold a system prompt.
const SYSTEM: &[&str] = &["system", "system_prompt"];

/// Keys of a row that hold a whole conversation.
pub(super) const CONVERSATIONS: &[&str] = &["messages", "conversations", "conversation"];

/// `row` with its conversation, under whichever key, as `messages` of `role` and `content`. A system prompt beside the
/// conversation becomes its first message.
pub(super) fn as_messages(row: &Map<String, Json>, key: &str) -> Result<Map<String, Json>, String> {
    // tables and Arrow hold lists as JSON texts
    let parsed = row.get(key).and_then(Json::as_str).and_then(|text| serde_json::from_str::<Json>(text).ok());
    let list = match parsed.as_ref().filter(|v| v.is_array()).or(row.get(key)) {
        Some(Json::Array(list)) if list.is_empty() => return Err(format!("{key} is empty")),
        Some(Json::Array(list)) => list,
        Some(other) => return Err(format!("{key} must be a list, this is {}", type_name(other))),
        None => return Err(format!("field {key} is missing")),
    };
    let mut messages = Vec::with_capacity(list.len() + 1);
    for (i, message) in list.iter().enumerate() {
        messages.push(turn(message).map_err(|reason| format!("{key}[{i}]: {reason}"))?);
    }
    put_system_first(row, key, &mut messages)?;
    Ok(with_messages(row, messages))
}

/// A system prompt beside the messages goes in front of them.
fn put_system_first(row: &Map<String, Json>, key: &str, messages: &mut Vec<Json>) -> Result<(), String> {
    let Some((name, system)) = system_prompt(row)? else { return Ok(()) };
    let first = messages.first().filter(|m| m.get("role").and_then(Json::as_str) == Some("system"));
    match first {
        Some(first) if first.get("content").and_then(Json::as_str) == Some(system) => {}
        Some(_) => {
            return Err(format!("another system prompt stands in field {name} than in {key}; remove one of them"));
        }
        None => messages.insert(0, message("system", system)),
    }
    Ok(())
}

/// `row` with the messages of its prompt and its response as one conversation; those of the prompt are not learnt.
pub(super) fn join(row: &Map<String, Json>, prompt: &[Json], response: &[Json]) -> Result<Map<String, Json>, String> {
    let mut messages = Vec::with_capacity(prompt.len() + response.len());
    for (i, given) in prompt.iter().enumerate() {
        let mut given = turn(given).map_err(|reason| format!("prompt[{i}]: {reason}"))?;
        if let Some(object) =
            given.as_object_mut().filter(|m| m.get("role").and_then(Json::as_str) == Some("assistant"))
        {
            object.insert("weight".into(), 0.into());
        }
        messages.push(given);
    }
    for (i, said) in response.iter().enumerate() {
        messages.push(turn(said).map_err(|reason| format!("response[{i}]: {reason}"))?);
    }
    put_system_first(row, "prompt", &mut messages)?;
    Ok(with_messages(row, messages))
}

/// A conversation of one question and one answer.
pub(super) fn pair(row: &Map<String, Json>, prompt: &str, response: &str) -> Result<Map<String, Json>, String> {
    let system = system_prompt(row)?.map(|(_, text)| message("system", text));
    let turns = [message("user", prompt), message("assistant", response)];
    Ok(with_messages(row, system.into_iter().chain(turns).collect()))
}

/// The system prompt beside a row's other fields, and the field's name.
pub(super) fn system_prompt(row: &Map<String, Json>) -> Result<Option<(&'static str, &str)>, String> {
    for name in SYSTEM {
        match row.get(*name) {
            None | Some(Json::Null) => {}
            Some(Json::String(text)) if text.trim().is_empty() => {}
            Some(Json::String(text)) => return Ok(Some((name, text))),
            Some(other) => return Err(format!("field {name} must be a string, this is {}", type_name(other))),
        }
    }
    Ok(None)
}

/// The row with these messages instead of what they were made of: what else stands in it is for whoever reads messages.
fn with_messages(row: &Map<String, Json>, messages: Vec<Json>) -> Map<String, Json> {
    let mut out = row.clone();
    for key in CONVERSATIONS.iter().chain(SYSTEM) {
        out.shift_remove(*key);
    }
    out.insert("messages".into(), Json::Array(messages));
    out
}

fn message(role: &str, content: &str) -> Json {
    serde_json::json!({ "role": role, "content": content })
}

/// A message with `role` and `content`; other keys are carried along for whoever reads messages.
fn turn(message: &Json) -> Result<Json, String> {
    let Json::Object(object) = message else { return Ok(message.clone()) };
    if object.get("value").is_some_and(Json::is_null) && !object.contains_key("content") {
        return Err("value is null; write what is said in this turn, \"\" for nothing, or remove the turn".into());
    }
    let mut object = object.clone();
    for (theirs, ours) in [("from", "role"), ("value", "content")] {
        let Some(value) = object.get(theirs).filter(|v| !v.is_null()).cloned() else { continue };
        if object.get(ours).is_some_and(|v| !v.is_null()) {
            return Err(format!("{theirs} and {ours} stand in one message; remove one of them"));
        }
        object.shift_remove(theirs);
        object.insert(ours.into(), value);
    }
    let shared = message.get("from").is_some_and(|v| !v.is_null());
    let role = object.get("role").and_then(Json::as_str).unwrap_or_default().to_owned();
    if let Some((_, known)) = SPEAKERS.iter().find(|(name, _)| *name == role && (shared || role == "model")) {
        object.insert("role".into(), Json::String((*known).into()));
    } else if shared && object.get("role").is_some_and(Json::is_string) {
        let reason = match role.as_str() {
            "function_call" | "function-call" | "tool_call" => "write such turns as messages with tool_calls",
            _ => "known are human, gpt, system and tool",
        };
        return Err(format!("from is \"{}\"; {reason}", role.chars().take(40).collect::<String>()));
    }
    Ok(Json::Object(object))
}
