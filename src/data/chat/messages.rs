//! The messages of a row and what else of it a chat template sees, checked.

use crate::data::rows::type_name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub(super) fn to_json(&self) -> Json {
        json!({"role": self.role, "content": self.content})
    }
}

/// Which of the assistant's turns are learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    #[default]
    All,
    Last,
}

/// What a chat template renders of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    pub(super) messages: Vec<Json>,
    pub(super) tools: Option<Json>,
    pub(super) documents: Option<Json>,
    /// More variables: `chat_template_kwargs`.
    pub(super) arguments: Map<String, Json>,
    /// Messages that must not be learnt.
    pub(super) masked: Vec<usize>,
}

/// Keys of a row with a meaning that no template gets, and what to do.
const REFUSED: [(&str, &str); 8] = [
    ("functions", "give tools: [{\"type\": \"function\", \"function\": ...}]"),
    ("function_call", "it asks for a call, which no chat template can do; remove it"),
    (
        "tool_choice",
        "it asks for a call, which no chat template can do; remove it, or put it into chat_template_kwargs",
    ),
    ("parallel_tool_calls", "no chat template is told so; remove it, or put it into chat_template_kwargs"),
    ("images", "pictures are not supported; remove the row"),
    ("videos", "films are not supported; remove the row"),
    ("audios", "sounds are not supported; remove the row"),
    ("train_detail", "parts of a turn can't be left out of what is learnt; use train on the whole turn"),
];

/// Keys of a message with a meaning that no template gets, and what to do.
const REFUSED_IN_MESSAGES: [(&str, &str); 7] = [
    ("audio", "only text is trained on; remove it"),
    ("train_detail", "a turn is learnt as a whole or not; remove it"),
    ("refusal", "no chat template renders it; put its words into content, or remove it"),
    ("prefix", "a turn that is to be continued cannot be learnt; remove it"),
    ("mask", "write train: false where a turn is not to be learnt"),
    ("masked", "write train: false where a turn is not to be learnt"),
    ("loss_weights", "a turn is learnt as a whole or not; remove it"),
];

/// What `chat_template_kwargs` may not say, since the row or the reader says it.
const RESERVED: [&str; 9] = [
    "messages",
    "conversation",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "return_assistant_tokens_mask",
];

impl Conversation {
    /// The conversation in a row of `messages`. Keys that are null are absent, as in exports that fill every key.
    ///
    /// # Errors
    /// The reason, with the field.
    pub fn of_row(row: &Map<String, Json>) -> Result<Conversation, String> {
        let list = match row.get("messages") {
            Some(Json::Array(list)) if !list.is_empty() => list,
            Some(Json::Array(_)) => return Err("messages is empty".into()),
            Some(other) => return Err(format!("messages must be a list, this is {}", type_name(other))),
            None => return Err("field messages is missing".into()),
        };
        for (key, instead) in REFUSED {
            if present(row.get(key)).is_some() {
                return Err(format!("field {key} has no place in a conversation: {instead}"));
            }
        }
        if let Some(weight) = present(row.get("weight"))
            && weight.as_f64() != Some(1.0)
        {
            return Err(format!("weight is {weight}: rows have no weights; remove the field, or the row"));
        }
        let mut made = Conversation {
            tools: tools(row.get("tools"))?,
            documents: objects("documents", row.get("documents"))?,
            arguments: arguments(row.get("chat_template_kwargs"))?,
            ..Conversation::default()
        };
        for (i, message) in list.iter().enumerate() {
            let at = |reason: String| format!("messages[{i}]: {reason}");
            let (message, is_learnt) = checked(message).map_err(at)?;
            if !is_learnt {
                made.masked.push(i);
            }
            made.messages.push(message);
        }
        if let Some(system) = present(row.get("system")) {
            made.add_system(system)?;
        }
        Ok(made)
    }

    /// A system prompt beside the messages goes in front of them.
    fn add_system(&mut self, system: &Json) -> Result<(), String> {
        let Json::String(text) = system else {
            return Err(format!("field system must be a string, this is {}", type_name(system)));
        };
        let first = &self.messages[0];
        if text.is_empty() || first["role"] == "system" && first["content"] == *system {
            return Ok(());
        }
        if first["role"] == "system" {
            return Err("there are two system prompts, in system and in messages[0]; keep one".into());
        }
        self.messages.insert(0, json!({"role": "system", "content": text}));
        self.masked.iter_mut().for_each(|i| *i += 1);
        Ok(())
    }

    /// Messages of the assistant.
    pub(super) fn assistants(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant").map(|(i, _)| i)
    }

    /// Messages that are learnt, at least one.
    pub(super) fn learnt(&self, on: TrainOn) -> Result<Vec<usize>, String> {
        let mut all: Vec<usize> = self.assistants().collect();
        if all.is_empty() {
            let mut roles: Vec<&str> = self.messages.iter().filter_map(|m| m["role"].as_str()).collect();
            roles.sort_unstable();
            roles.dedup();
            let roles = roles.join(", ");
            return Err(format!("no token to learn: no message has the role \"assistant\", the roles are {roles}"));
        }
        if on == TrainOn::Last {
            all.drain(..all.len() - 1);
        }
        all.retain(|i| !self.masked.contains(i));
        if all.is_empty() {
            return Err("no token to learn: weight or train masks every turn that would be learnt".into());
        }
        Ok(all)
    }
}

/// A field that is there and says something.
fn present(value: Option<&Json>) -> Option<&Json> {
    value.filter(|v| match v {
        Json::Null => false,
        Json::Array(list) => !list.is_empty(),
        _ => true,
    })
}

/// A message without its nulls, and whether it may be learnt.
fn checked(message: &Json) -> Result<(Json, bool), String> {
    let (Json::Object(given), Json::Object(mut message)) = (message, without_nulls(message)) else {
        return Err(format!("must be an object with role and content, this is {}", type_name(message)));
    };
    let role = match message.get("role") {
        Some(Json::String(role)) => role.clone(),
        Some(other) => return Err(format!("field role must be a string, this is {}", type_name(other))),
        None => return Err("field role is missing".into()),
    };
    if role != "assistant" && role.eq_ignore_ascii_case("assistant") {
        return Err(format!("role {role:?} would not be learnt; write it assistant"));
    }
    for (key, instead) in REFUSED_IN_MESSAGES {
        if message.get(key).is_some_and(|v| !v.is_null() && v.as_str() != Some("")) {
            return Err(format!("field {key} is not supported: {instead}"));
        }
    }
    let is_tool = matches!(role.as_str(), "tool" | "function" | "ipython");
    let says = ["content", "tool_calls", "function_call", "reasoning_content", "thinking", "reasoning"];
    match message.get("content") {
        None if !says.iter().any(|key| given.contains_key(*key)) => return Err("field content is missing".into()),
        None | Some(Json::String(_)) => {}
        Some(Json::Array(parts)) => {
            if let Some(part) = parts.iter().find(|p| !p.is_string() && p.get("text").and_then(Json::as_str).is_none())
            {
                let kind = part.get("type").and_then(Json::as_str).unwrap_or("no type");
                return Err(format!("content holds a part that is no text ({kind})"));
            }
        }
        Some(Json::Object(_)) if is_tool => {}
        Some(other) => return Err(format!("field content must be a string, this is {}", type_name(other))),
    }
    if message.get("tool_calls").is_some_and(|calls| !calls.is_array()) {
        return Err("tool_calls must be a list".into());
    }
    let mut is_learnt = true;
    for key in ["weight", "train", "training", "trainable", "learn", "loss", "loss_mask", "loss_weight"] {
        let Some(value) = message.get(key) else { continue };
        let learn = match value {
            Json::Bool(b) => *b,
            Json::Number(n) if n.as_f64() == Some(0.0) => false,
            Json::Number(n) if n.as_f64() == Some(1.0) => true,
            other => {
                return Err(format!(
                    "{key} is {other}: a turn is learnt or not, 1 or 0; other weights are not supported"
                ));
            }
        };
        if learn && role != "assistant" && value.is_boolean() {
            return Err(format!("{key} is true, but only the assistant's turns can be learnt; remove it"));
        }
        is_learnt &= learn;
    }
    // one thought under all the names that templates read
    let thought = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| message.get(*key)).cloned();
    if let Some(thought) = thought {
        message.entry("thinking").or_insert_with(|| thought.clone());
        message.insert("reasoning_content".into(), thought);
    }
    Ok((Json::Object(message), is_learnt))
}

/// Without keys that are null, at any depth; entries of lists stay, and so do the arguments of a call as somebody wrote them: a
/// null there is said.
fn without_nulls(value: &Json) -> Json {
    match value {
        Json::Object(fields) => {
            let kept = |(key, v): (&String, &Json)| match key.as_str() {
                "arguments" => (key.clone(), v.clone()),
                _ => (key.clone(), without_nulls(v)),
            };
            let kept = fields.iter().filter(|(_, v)| !v.is_null()).map(kept);
            Json::Object(kept.collect())
        }
        Json::Array(list) => Json::Array(list.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// A field that may also be a JSON text, since Arrow can't hold every shape. Only what was no text loses its nulls.
fn parsed(key: &str, value: &Json) -> Result<Json, String> {
    match value {
        Json::String(text) => serde_json::from_str(text).map_err(|e| format!("{key} is a string, but no JSON: {e}")),
        other => Ok(without_nulls(other)),
    }
}

fn tools(value: Option<&Json>) -> Result<Option<Json>, String> {
    let Some(value) = value.filter(|v| !v.is_null() && v.as_str().is_none_or(|s| !s.trim().is_empty())) else {
        return Ok(None);
    };
    match parsed("tools", value)? {
        Json::Null => Ok(None),
        Json::Array(list) => {
            let tool = |(i, tool): (usize, &Json)| match parsed(&format!("tools[{i}]"), tool)? {
                tool @ Json::Object(_) => Ok(tool),
                other => Err(format!("tools[{i}] must be an object, this is {}", type_name(&other))),
            };
            Ok(Some(Json::Array(list.iter().enumerate().map(tool).collect::<Result<_, String>>()?)))
        }
        other => Err(format!("tools must be a list of tools, this is {}", type_name(&other))),
    }
}

fn objects(key: &str, value: Option<&Json>) -> Result<Option<Json>, String> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    match parsed(key, value)? {
        Json::Array(list) if list.iter().all(Json::is_object) => Ok(Some(Json::Array(list))),
        _ => Err(format!("{key} must be a list of objects")),
    }
}

fn arguments(value: Option<&Json>) -> Result<Map<String, Json>, String> {
    let key = "chat_template_kwargs";
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(Map::new()) };
    let Json::Object(arguments) = parsed(key, value)? else { return Err(format!("{key} must be an object")) };
    match arguments.keys().find(|k| RESERVED.contains(&k.as_str())) {
        Some(name) => Err(format!("{key}: {name} can't be set there")),
        None => Ok(arguments),
    }
}

/// The messages with every content that is a list of texts joined; none where there is no such content.
pub(super) fn joined(messages: &[Json]) -> Option<Vec<Json>> {
    messages.iter().any(|m| m["content"].is_array()).then(|| {
        let join = |message: &Json| {
            let mut message = message.clone();
            if let Json::Array(parts) = &message["content"] {
                let text = |p: &Json| p.as_str().or_else(|| p.get("text")?.as_str()).unwrap_or_default().to_owned();
                message["content"] = Json::String(parts.iter().map(text).collect());
            }
            message
        };
        messages.iter().map(join).collect()
    })
}

/// The messages with every content that is a text as a list of one part.
pub(super) fn in_parts(messages: &[Json]) -> Vec<Json> {
    let part = |message: &Json| {
        let mut message = message.clone();
        if let Some(text) = message["content"].as_str() {
            message["content"] = json!([{"type": "text", "text": text}]);
        }
        message
    };
    messages.iter().map(part).collect()
}

/// The messages, those without a content with an empty one; none where there is no such message.
pub(super) fn filled(messages: &[Json]) -> Option<Vec<Json>> {
    messages.iter().any(|m| m["content"].is_null()).then(|| {
        let fill = |message: &Json| {
            let mut message = message.clone();
            if message["content"].is_null() {
                message["content"] = Json::String(String::new());
            }
            message
        };
        messages.iter().map(fill).collect()
    })
}
