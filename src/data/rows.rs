//! One row of a data file to the tokens of one example.

use super::chat::ChatTemplate;
use super::chat::messages::messages;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// The label of a token that is not learnt.
pub const IGNORED: i32 = -100;

/// The prompt of an Alpaca row without an input, and with one.
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the \
                      request.\n\n### Instruction:\n{instruction}\n\n### Response:\n";
const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                            context. Write a response that appropriately completes the request.\n\n### Instruction:\n\
                            {instruction}\n\n### Input:\n{input}\n\n### Response:\n";

/// What a row holds. Found by its keys, in this order, unless it is said. Keys that a kind does not know are left alone:
/// sets carry identifiers and sources along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// `input_ids`, and where wanted `labels` (unshifted, -100 not learnt) and `attention_mask` (0 drops the position).
    /// Without labels every token is learnt.
    InputIds,
    /// `messages`: a list of `role` and `content`; every assistant turn is learnt. `tools` reach the template.
    Messages,
    /// `prompt` and `response`, under names that can be set. They are tokenised apart, as in use, where the prompt comes
    /// alone. One BOS at the start where the tokenizer adds one (the original adds another one before the response, and so
    /// teaches the model to begin its answer with BOS; this does not). The response and EOS are learnt.
    PromptResponse,
    /// `instruction`, `input` (may be missing or empty) and `output`, put into Alpaca's prompt; then as above.
    Alpaca,
    /// `text`, encoded as the tokenizer does it; every token is learnt.
    Text,
}

/// A tokenised row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub ids: Vec<u32>,
    /// For each token its own id where it is learnt, else [`IGNORED`]; unshifted. The first is always ignored: nothing
    /// stands before it that could predict it.
    pub labels: Vec<i32>,
    /// Line of the file, from 1.
    pub line: usize,
}

/// Ids and labels of one row, of the same length.
pub(super) struct Tokens {
    pub ids: Vec<u32>,
    pub labels: Vec<i32>,
}

/// Turns rows into examples.
pub(super) struct Reader<'a> {
    pub path: &'a Path,
    pub kind: Option<RowKind>,
    pub prompt_field: &'a str,
    pub response_field: &'a str,
    pub tokenizer: Option<&'a Tokenizer>,
    /// Only needed for messages; why there is none otherwise.
    pub template: Result<ChatTemplate, String>,
    /// The model's; ids must be below it.
    pub vocab_size: usize,
}

impl Reader<'_> {
    /// The example in `text`, line `line` of the file.
    ///
    /// # Errors
    /// [`Error::Row`] for anything wrong with the row.
    pub fn example(&self, line: usize, text: &str) -> Result<Example> {
        let Tokens { ids, mut labels } = self.tokens(text).map_err(|reason| Error::row(self.path, line, reason))?;
        if let Some(first) = labels.first_mut() {
            *first = IGNORED;
        }
        if labels.iter().all(|&l| l == IGNORED) {
            let reason = "no token to learn: the response is empty, or every label is -100; remove the row";
            return Err(Error::row(self.path, line, reason));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let reason = format!("token id {id} is not below the model's vocab_size, {}", self.vocab_size);
            return Err(Error::row(self.path, line, reason));
        }
        Ok(Example { ids, labels, line })
    }

    fn tokens(&self, text: &str) -> Result<Tokens, String> {
        let row = match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(row)) => row,
            Ok(other) => return Err(format!("a row must be a JSON object, this is {}", type_name(&other))),
            Err(e) => {
                let message = e.to_string();
                let what = message.split(" at line ").next().unwrap_or_default();
                return Err(format!("malformed JSON at column {}: {what}", e.column()));
            }
        };
        let kind = self.kind.map_or_else(|| self.detect(&row), Ok)?;
        match kind {
            RowKind::InputIds => self.input_ids(&row),
            RowKind::Messages => {
                let tokenizer = self.tokenizer()?;
                let messages = messages(&row)?;
                if !messages.iter().any(|m| m.get("role").and_then(Json::as_str) == Some("assistant")) {
                    return Err("no token to learn: no message has the role \"assistant\"".into());
                }
                self.template.as_ref().map_err(Clone::clone)?.tokens(tokenizer, &messages, row.get("tools"))
            }
            RowKind::PromptResponse => self.pair(string(&row, self.prompt_field)?, string(&row, self.response_field)?),
            RowKind::Alpaca => {
                let instruction = string(&row, "instruction")?;
                let input = if row.contains_key("input") { string(&row, "input")? } else { "" };
                let (before, after) = if input.trim().is_empty() { ALPACA } else { ALPACA_INPUT }
                    .split_once("{instruction}")
                    .unwrap_or_default(); // ok: both hold it
                let prompt = [before, instruction, &after.replacen("{input}", input, 1)].concat();
                self.pair(&prompt, string(&row, "output")?)
            }
            RowKind::Text => {
                let ids = self.tokenizer()?.encode(string(&row, "text")?, true).map_err(|e| e.to_string())?;
                Ok(Tokens { labels: ids.iter().map(|&id| id as i32).collect(), ids })
            }
        }
    }

    fn detect(&self, row: &Map<String, Json>) -> Result<RowKind, String> {
        let has = |key: &str| row.contains_key(key);
        if has("input_ids") {
            Ok(RowKind::InputIds)
        } else if has("messages") {
            Ok(RowKind::Messages)
        } else if has(self.prompt_field) && has(self.response_field) {
            Ok(RowKind::PromptResponse)
        } else if has("instruction") && has("output") {
            Ok(RowKind::Alpaca)
        } else if has("text") {
            Ok(RowKind::Text)
        } else {
            let found: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
            Err(format!(
                "unknown kind of row, its fields are [{}]; expected are messages, or {} and {} (set the names with \
                 --prompt-field and --response-field), or instruction and output, or text, or input_ids",
                found.join(", "),
                self.prompt_field,
                self.response_field
            ))
        }
    }

    fn tokenizer(&self) -> Result<&Tokenizer, String> {
        self.tokenizer.ok_or_else(|| {
            "this row needs a tokenizer, and the model folder has none; add its tokenizer.json, or give rows with \
             input_ids"
                .into()
        })
    }

    fn pair(&self, prompt: &str, response: &str) -> Result<Tokens, String> {
        let tokenizer = self.tokenizer()?;
        if response.is_empty() {
            return Err("no token to learn: the response is empty; remove the row".into());
        }
        let eos = tokenizer.eos().ok_or_else(|| {
            format!("{}: names no end-of-sequence token to close the response with", tokenizer.source().display())
        })?;
        let mut ids = tokenizer.prefix_ids().to_vec();
        ids.extend(tokenizer.encode(prompt, false).map_err(|e| e.to_string())?);
        let mut labels = vec![IGNORED; ids.len()];
        ids.extend(tokenizer.encode(response, false).map_err(|e| e.to_string())?);
        ids.push(eos);
        labels.extend(ids[labels.len()..].iter().map(|&id| id as i32));
        Ok(Tokens { ids, labels })
    }

    fn input_ids(&self, row: &Map<String, Json>) -> Result<Tokens, String> {
        let vocab = self.vocab_size as i64;
        let ids = integers(
            row,
            "input_ids",
            |v| (0..vocab).contains(&v),
            || format!("a token id is an integer from 0 to {} (the model's vocab_size is {vocab})", vocab - 1),
        )?;
        let labels = match row.get("labels") {
            None | Some(Json::Null) => ids.clone(),
            Some(_) => integers(
                row,
                "labels",
                |v| v == i64::from(IGNORED) || (0..vocab).contains(&v),
                || format!("a label is -100 or a token id from 0 to {}", vocab - 1),
            )?,
        };
        let mask = match row.get("attention_mask") {
            None | Some(Json::Null) => vec![1; ids.len()],
            Some(_) => integers(row, "attention_mask", |v| v == 0 || v == 1, || "a mask holds 0 and 1".to_owned())?,
        };
        for (name, length) in [("labels", labels.len()), ("attention_mask", mask.len())] {
            if length != ids.len() {
                return Err(format!("{name} has {length} entries, input_ids has {}", ids.len()));
            }
        }
        let kept = || mask.iter().map(|&m| m == 1);
        let keep =
            |list: &[i64]| -> Vec<i64> { list.iter().zip(kept()).filter(|(_, k)| *k).map(|(v, _)| *v).collect() };
        Ok(Tokens {
            ids: keep(&ids).into_iter().map(|v| v as u32).collect(),
            labels: keep(&labels).into_iter().map(|v| v as i32).collect(),
        })
    }
}

pub(super) fn string<'a>(row: &'a Map<String, Json>, key: &str) -> Result<&'a str, String> {
    match row.get(key) {
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(format!("field {key} must be a string, this is {}", type_name(other))),
        None => Err(format!("field {key} is missing")),
    }
}

fn integers(
    row: &Map<String, Json>,
    key: &str,
    fits: impl Fn(i64) -> bool,
    rule: impl Fn() -> String,
) -> Result<Vec<i64>, String> {
    let Some(list) = row.get(key) else { return Err(format!("field {key} is missing")) };
    let Json::Array(list) = list else {
        return Err(format!("field {key} must be a list of integers, this is {}", type_name(list)));
    };
    let one = |(i, v): (usize, &Json)| match v.as_i64() {
        Some(n) if fits(n) => Ok(n),
        _ => Err(format!("{key}[{i}] is {}: {}", v.to_string().chars().take(40).collect::<String>(), rule())),
    };
    list.iter().enumerate().map(one).collect()
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
