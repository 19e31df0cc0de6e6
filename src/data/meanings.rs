//! Keys of a row that mean something for training: obeyed, or refused with the way out. Whatever else a row carries is named
//! in the report.

use super::conversions::system_prompt;
use super::rows::RowKind;
use serde_json::{Map, Value as Json};

/// Lists of 0 and 1 beside `input_ids` that say which tokens are learnt, as TRL and others write them.
pub(super) const MASKS_OF_LABELS: &[&str] = &["completion_mask", "assistant_masks", "assistant_mask", "loss_mask"];

/// Keys that rows of token ids use.
pub(super) const OF_IDS: &[&str] =
    &["input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks", "assistant_mask", "loss_mask"];

/// Keys that go with a conversation.
pub(super) const BESIDE_MESSAGES: &[&str] = &["tools", "documents", "chat_template_kwargs", "system", "system_prompt"];

/// Keys of what is no text.
const NO_TEXT: &[&str] = &["images", "image", "videos", "video", "audios", "audio"];

/// Keys that say whether, or how much, a whole row is learnt.
const OF_A_ROW: &[&str] = &["weight", "train", "training", "learn", "loss_weight", "sample_weight"];

/// Null, or an empty string, list or object.
pub(super) fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// Refuses keys that say something else than what would be learnt. `said`: somebody chose the kind of rows.
pub(super) fn refuse(row: &Map<String, Json>, kind: RowKind, said: bool) -> Result<(), String> {
    let holds = |key: &str| row.get(key).is_some_and(|v| !is_nothing(v));
    if let Some(key) = NO_TEXT.iter().find(|key| holds(key)) {
        return Err(format!("field {key}: only text is trained on; remove the field if the text is enough"));
    }
    for key in OF_A_ROW {
        let Some(value) = row.get(*key).filter(|v| !v.is_null()) else { continue };
        if !(value.as_bool() == Some(true) || value.as_f64() == Some(1.0)) {
            return Err(format!("field {key} is {value}: rows have no weights; remove the field, or the row"));
        }
    }
    let of_tokens: &[&str] =
        if kind == RowKind::InputIds { &["loss_weights", "position_ids"] } else { MASKS_OF_LABELS };
    if let Some(key) = of_tokens.iter().find(|key| holds(key)) {
        let what = "says token by token what to do, and is not read with such rows";
        return Err(format!("field {key} {what}; remove it, or give input_ids with labels"));
    }
    if kind == RowKind::Text && holds("tools") {
        return Err("field tools: a text has no place for it; write the row as messages".into());
    }
    let pair = matches!(kind, RowKind::PromptResponse | RowKind::Alpaca);
    if pair && holds("history") {
        return Err("field history: earlier turns are read from messages only; write the row as messages".into());
    }
    if said {
        return Ok(());
    }
    refuse_preferences(row)?;
    if pair && row.get("label").is_some_and(Json::is_boolean) {
        let reason = "whether an answer is wanted (KTO) is not trained on";
        return Err(format!(
            "field label: {reason}; keep the rows with true and remove the field, or give ⟨data_format⟩"
        ));
    }
    Ok(())
}

/// Refuses rows with a better and a worse answer.
pub(super) fn refuse_preferences(row: &Map<String, Json>) -> Result<(), String> {
    if row.get("rejected").is_some_and(|v| !is_nothing(v)) && row.get("chosen").is_some_and(|v| !is_nothing(v)) {
        let reason = "preferences (DPO) are not trained on; to learn the chosen answers rename chosen to";
        let to = if row.get("chosen").is_some_and(Json::is_array) { "messages" } else { "response" };
        return Err(format!("fields chosen and rejected: {reason} {to} and remove rejected"));
    }
    Ok(())
}

/// Refuses what only a conversation has a place for.
pub(super) fn refuse_beside_raw(row: &Map<String, Json>) -> Result<(), String> {
    let system = system_prompt(row)?.map(|(name, _)| name);
    let other = ["tools", "documents", "chat_template_kwargs"]
        .into_iter()
        .find(|key| row.get(*key).is_some_and(|v| !is_nothing(v)));
    match system.or(other) {
        Some(key) => Err(format!(
            "field {key}: a raw prompt has no place for it; put it into the prompt, or use a chat template with \
             ⟨prompt_format⟩ chat"
        )),
        None => Ok(()),
    }
}

/// Whether a message holds neither words nor calls.
pub(super) fn says_nothing(message: &Json) -> bool {
    let blank = |v: &Json| is_nothing(v) || v.as_str().is_some_and(|text| text.trim().is_empty());
    message.as_object().is_some_and(|m| m.iter().all(|(key, v)| BLANK_IN_MESSAGES.contains(&key.as_str()) || blank(v)))
}

/// Keys of a message that are not said.
const BLANK_IN_MESSAGES: &[&str] = &["role", "name", "weight", "train"];
