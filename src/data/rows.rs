//! One row of a data file to the tokens of one example.

use super::chat::{ChatTemplate, Conversation, TrainOn};
use super::conversions::{self, CONVERSATIONS, as_messages};
use super::files::RowText;
pub(super) use super::json::type_name;
use super::meanings;
use super::pairs::{Opening, PairFormat, raw};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// The label of a token that is not learnt.
pub const IGNORED: i32 = -100;

/// How the reason begins why a row has no answer.
const NOTHING_TO_LEARN: &str = "no token to learn: ";

/// What a row holds. Found by its keys, in this order, unless it is said; keys with null count as absent. Keys that would
/// change the meaning are obeyed or refused (`meanings.rs`), others are named in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// `input_ids`, and where wanted `labels` (unshifted, -100 not learnt) and `attention_mask` (0 drops the position).
    /// Without labels every token is learnt, or those where `completion_mask` or `assistant_masks` has 1.
    InputIds,
    /// `messages`: a list of `role` and `content`; the assistant's turns are learnt, but for those with `weight` 0 or `train`
    /// false. `tools`, `documents` and `chat_template_kwargs` reach the template. ShareGPT's `conversations` with `from` and
    /// `value` are read as messages.
    Messages,
    /// `prompt` and `response`, under names that can be set; `completion` is another name for the response. What becomes of
    /// them says [`super::pairs::PromptFormat`]. Where both are lists of messages, they are one conversation of which the
    /// response is learnt.
    PromptResponse,
    /// `instruction`, `input` (may be missing or empty) and `output`: as above, raw in Alpaca's prompt.
    Alpaca,
    /// `text`, encoded as the tokenizer does it; every token is learnt.
    Text,
}

/// What was made of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowForm {
    Tokens,
    Text,
    /// Messages through the chat template.
    Messages,
    /// A pair through the chat template.
    ChatPair,
    /// A pair as it is.
    RawPair,
    /// A pair as it is, for its prompt ends as the chat template opens an answer.
    RenderedPair,
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

/// Why a row gives no example.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is nothing to learn in it; such rows can be left out.
    Empty(String),
    Wrong(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Fault {
        Fault::Wrong(reason)
    }
}

/// What is worth knowing of a row beside its tokens.
pub(super) struct Facts {
    pub form: RowForm,
    /// A special token that the row's own text spells out.
    pub special: Option<String>,
    /// Whether it ends in a turn that nobody answers.
    pub unanswered: bool,
    /// Keys that hold something and are not used.
    pub unused: Vec<String>,
}

/// What became of a row.
pub(super) enum Outcome {
    Read(Example, Facts),
    /// It has no answer, and such rows are left out.
    Empty {
        line: usize,
    },
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
    pub train_on: TrainOn,
    /// How pairs are put, and how a prompt ends that is rendered already.
    pub pairs: PairFormat,
    pub opening: Option<Opening>,
    pub skip_empty: bool,
    /// The model's; ids must be below it.
    pub vocab_size: usize,
}

impl Reader<'_> {
    /// The example in a row.
    ///
    /// # Errors
    /// [`Error::Row`] for anything wrong with the row.
    pub fn example(&self, row: &RowText) -> Result<Outcome> {
        let at = |line, reason: String| {
            let entry = row.entry.map_or_else(String::new, |n| format!("entry {n} of the array: "));
            Error::row(self.path, line, entry + &reason)
        };
        let line = row.line;
        let object = super::json::object(&row.text).map_err(|e| at(line + e.line, e.reason))?;
        match self.read(&object) {
            Ok((Tokens { ids, labels }, facts)) => {
                if let Some(tokenizer) = self.tokenizer {
                    tokenizer.check_ids(&ids, self.vocab_size).map_err(|reason| at(line, reason))?;
                }
                Ok(Outcome::Read(Example { ids, labels, line }, facts))
            }
            Err(Fault::Empty(_)) if self.skip_empty => Ok(Outcome::Empty { line }),
            Err(Fault::Empty(reason)) => {
                let way_out = "remove the row, or leave such rows out with ⟨empty_rows⟩ skip";
                Err(at(line, format!("{NOTHING_TO_LEARN}{reason}; {way_out}")))
            }
            Err(Fault::Wrong(reason)) => Err(at(line, reason)),
        }
    }

    fn read(&self, row: &Map<String, Json>) -> Result<(Tokens, Facts), Fault> {
        let kind = match self.kind {
            Some(kind) => kind,
            None => self.detect(row)?,
        };
        meanings::refuse(row, kind, self.kind.is_some())?;
        let (mut tokens, form, text, used) = match kind {
            RowKind::InputIds => (self.input_ids(row)?, RowForm::Tokens, Vec::new(), meanings::OF_IDS.to_vec()),
            RowKind::Messages => {
                let key = CONVERSATIONS.iter().find(|k| holds(row, k)).copied().unwrap_or(CONVERSATIONS[0]);
                let row = as_messages(row, key)?;
                let used = [&[key], meanings::BESIDE_MESSAGES].concat();
                (self.conversation(&row)?, RowForm::Messages, contents(&row), used)
            }
            RowKind::PromptResponse => return self.prompt_response(row),
            RowKind::Alpaca => return self.alpaca(row),
            RowKind::Text => {
                let text = string(row, "text")?;
                if text.is_empty() {
                    return Err(Fault::Empty("field text is empty".into()));
                }
                let ids = self.tokenizer()?.encode(text, true).map_err(|e| e.to_string())?;
                let labels = ids.iter().map(|&id| id as i32).collect();
                (Tokens { ids, labels }, RowForm::Text, Vec::new(), vec!["text"])
            }
        };
        check_learnt(&mut tokens)?;
        Ok((tokens, self.facts(row, form, &text, &used)))
    }

    fn facts(&self, row: &Map<String, Json>, form: RowForm, texts: &[String], used: &[&str]) -> Facts {
        let last = |key: &&str| row.get(*key).and_then(Json::as_array).and_then(|list| list.last());
        let speaker = CONVERSATIONS.iter().find_map(last).and_then(|m| m.get("role").or(m.get("from"))?.as_str());
        Facts {
            form,
            special: texts.iter().find_map(|text| self.tokenizer?.special_in(text)).map(str::to_owned),
            unanswered: form == RowForm::Messages && matches!(speaker, Some("user" | "human")),
            unused: row
                .iter()
                .filter(|(key, value)| !used.contains(&key.as_str()) && !meanings::is_nothing(value))
                .map(|(key, _)| key.clone())
                .collect(),
        }
    }

    fn detect(&self, row: &Map<String, Json>) -> Result<RowKind, String> {
        // keys that hold null, as tables of several kinds of rows have them, count where no others are
        let found = |has: &dyn Fn(&str) -> bool| {
            if has("input_ids") {
                Some(RowKind::InputIds)
            } else if CONVERSATIONS.iter().any(|key| has(key)) {
                Some(RowKind::Messages)
            } else if has(self.prompt_field) && has(self.response_key(row)) {
                Some(RowKind::PromptResponse)
            } else if has("instruction") && has("output") {
                Some(RowKind::Alpaca)
            } else {
                has("text").then_some(RowKind::Text)
            }
        };
        if let Some(kind) = found(&|key| holds(row, key)) {
            return Ok(kind);
        }
        meanings::refuse_preferences(row)?;
        found(&|key| row.contains_key(key)).ok_or_else(|| {
            let fields: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
            let of_rows = |v: &&Json| v.as_array().is_some_and(|l| l.first().is_some_and(Json::is_object));
            let nested = row.iter().find(|(_, v)| row.len() <= 2 && of_rows(v));
            let nested = nested.map_or_else(String::new, |(key, _)| format!("; if the rows are the list in {key}, write that list alone"));
            format!(
                "unknown kind of row, its fields are [{}]; expected are messages or conversations, or {} and {} (set the \
                 names with ⟨prompt_field⟩ and ⟨response_field⟩), or instruction and output, or text, or input_ids{nested}",
                fields.join(", "),
                self.prompt_field,
                self.response_field
            )
        })
    }

    /// Where a pair's answer stands: TRL calls it `completion`.
    fn response_key<'k>(&'k self, row: &Map<String, Json>) -> &'k str {
        if !row.contains_key(self.response_field) && self.response_field == "response" && row.contains_key("completion")
        {
            return "completion";
        }
        self.response_field
    }

    fn tokenizer(&self) -> Result<&Tokenizer, String> {
        self.tokenizer.ok_or_else(|| {
            "this row needs a tokenizer, and the model folder has none; add its tokenizer.json, or give rows with \
             input_ids"
                .into()
        })
    }

    /// A row with `messages`, through the chat template.
    fn conversation(&self, row: &Map<String, Json>) -> Result<Tokens, Fault> {
        let tokenizer = self.tokenizer()?;
        let conversation = Conversation::of_row(row)?;
        let messages = row.get("messages").and_then(Json::as_array).into_iter().flatten();
        let mut said = messages.filter(|m| m.get("role").and_then(Json::as_str) == Some("assistant")).peekable();
        // a content that is null is a turn without words, of which its end is learnt; an empty text is an answer that is missing
        let is_empty = |m: &Json| meanings::says_nothing(m) && m.get("content").is_none_or(|c| !c.is_null());
        if said.peek().is_some() && said.all(is_empty) {
            return Err(Fault::Empty("what the assistant says is empty".into()));
        }
        let template = self.template.as_ref().map_err(Clone::clone)?;
        template.tokens(tokenizer, &conversation, self.train_on).map_err(|reason| {
            match reason.strip_prefix(NOTHING_TO_LEARN) {
                Some(why) => Fault::Empty(why.to_owned()),
                None => Fault::Wrong(reason),
            }
        })
    }

    fn prompt_response(&self, row: &Map<String, Json>) -> Result<(Tokens, Facts), Fault> {
        let key = self.response_key(row);
        let used = [&[self.prompt_field, key], meanings::BESIDE_MESSAGES].concat();
        match (row.get(self.prompt_field), row.get(key)) {
            (Some(Json::Array(prompt)), Some(Json::Array(response))) => {
                let joined = conversions::join(row, prompt, response)?;
                let mut tokens = self.conversation(&joined)?;
                check_learnt(&mut tokens)?;
                Ok((tokens, self.facts(row, RowForm::Messages, &contents(&joined), &used)))
            }
            (Some(Json::Array(_)), Some(Json::String(_))) | (Some(Json::String(_)), Some(Json::Array(_))) => {
                let reason = "are a list of messages and a string; both must be strings, or both lists";
                Err(format!("fields {} and {key} {reason}", self.prompt_field).into())
            }
            _ => {
                let prompt = string(row, self.prompt_field)?;
                self.pair(row, prompt, prompt, answer(row, key)?, &used)
            }
        }
    }

    fn alpaca(&self, row: &Map<String, Json>) -> Result<(Tokens, Facts), Fault> {
        let instruction = string(row, "instruction")?;
        let input = if holds(row, "input") { string(row, "input")? } else { "" };
        let asked = if input.trim().is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") };
        let used = [&["instruction", "input", "output"], meanings::BESIDE_MESSAGES].concat();
        self.pair(row, &asked, &super::pairs::alpaca(instruction, input), answer(row, "output")?, &used)
    }

    /// A pair whose prompt is `asked` in a conversation and `prompt` outside of one.
    fn pair(
        &self,
        row: &Map<String, Json>,
        asked: &str,
        prompt: &str,
        response: &str,
        used: &[&str],
    ) -> Result<(Tokens, Facts), Fault> {
        let tokenizer = self.tokenizer()?;
        let rendered = self.opening.as_ref().filter(|o| o.ends(asked));
        let (mut tokens, form) = match (&self.pairs, rendered) {
            (PairFormat::Chat, None) => {
                (self.conversation(&conversions::pair(row, asked, response)?)?, RowForm::ChatPair)
            }
            (PairFormat::Chat, Some(opening)) => {
                (raw(tokenizer, asked, response, opening.blank(), false)?, RowForm::RenderedPair)
            }
            (PairFormat::Raw { separator, bos_before_response }, _) => {
                meanings::refuse_beside_raw(row)?;
                (raw(tokenizer, prompt, response, separator, *bos_before_response)?, RowForm::RawPair)
            }
        };
        check_learnt(&mut tokens)?;
        let texts =
            if form == RowForm::RenderedPair { Vec::new() } else { vec![asked.to_owned(), response.to_owned()] };
        Ok((tokens, self.facts(row, form, &texts, used)))
    }

    fn input_ids(&self, row: &Map<String, Json>) -> Result<Tokens, String> {
        let vocab = self.vocab_size as i64;
        let ids = integers(
            row,
            "input_ids",
            |v| (0..vocab).contains(&v),
            || format!("a token id is an integer from 0 to {} (the model's vocab_size is {vocab})", vocab - 1),
        )?;
        let mut labels = match row.get("labels") {
            None | Some(Json::Null) => ids.clone(),
            Some(_) => integers(
                row,
                "labels",
                |v| v == i64::from(IGNORED) || (0..vocab).contains(&v),
                || format!("a label is -100 or a token id from 0 to {}", vocab - 1),
            )?,
        };
        let same = |name: &str, length: usize| match length == ids.len() {
            true => Ok(()),
            false => Err(format!("{name} has {length} entries, input_ids has {}", ids.len())),
        };
        same("labels", labels.len())?;
        let mask = |name: &str| -> Result<Vec<bool>, String> {
            if !holds(row, name) {
                return Ok(vec![true; ids.len()]);
            }
            let mask = integers(row, name, |v| v == 0 || v == 1, || "a mask holds 0 and 1".to_owned())?;
            same(name, mask.len())?;
            Ok(mask.into_iter().map(|v| v == 1).collect())
        };
        for name in meanings::MASKS_OF_LABELS {
            labels.iter_mut().zip(mask(name)?).filter(|(_, learnt)| !learnt).for_each(|(l, _)| *l = i64::from(IGNORED));
        }
        let kept = mask("attention_mask")?;
        let keep =
            |list: &[i64]| -> Vec<i64> { list.iter().zip(&kept).filter(|(_, k)| **k).map(|(v, _)| *v).collect() };
        Ok(Tokens {
            ids: keep(&ids).into_iter().map(|v| v as u32).collect(),
            labels: keep(&labels).into_iter().map(|v| v as i32).collect(),
        })
    }
}

/// Whether a key holds something.
fn holds(row: &Map<String, Json>, key: &str) -> bool {
    row.get(key).is_some_and(|v| !v.is_null())
}

/// Nothing stands before the first token that could predict it, and something must be learnt.
fn check_learnt(tokens: &mut Tokens) -> Result<(), Fault> {
    if let Some(first) = tokens.labels.first_mut() {
        *first = IGNORED;
    }
    match tokens.labels.iter().all(|&l| l == IGNORED) {
        true => Err(Fault::Empty("the answer is empty, or every label is -100".into())),
        false => Ok(()),
    }
}

/// The answer of a pair.
fn answer<'a>(row: &'a Map<String, Json>, key: &str) -> Result<&'a str, Fault> {
    if row.get(key).is_some_and(Json::is_null) {
        return Err(Fault::Empty(format!("field {key} is null")));
    }
    let text = string(row, key)?;
    if text.trim().is_empty() {
        return Err(Fault::Empty(format!("field {key} is empty")));
    }
    Ok(text)
}

/// What all messages of a row say.
fn contents(row: &Map<String, Json>) -> Vec<String> {
    let list = row.get("messages").and_then(Json::as_array).into_iter().flatten();
    list.filter_map(|m| m.get("content")?.as_str().map(str::to_owned)).collect()
}

pub(super) fn string<'a>(row: &'a Map<String, Json>, key: &str) -> Result<&'a str, String> {
    match row.get(key) {
        Some(Json::String(text)) => Ok(text),
        Some(Json::Number(n)) => {
            Err(format!("field {key} must be a string, this is a number; write it as it should be said: \"{n}\""))
        }
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
