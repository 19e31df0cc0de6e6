//! Pairs of a prompt and a response: through the chat template, as a chat model is asked, or as they are.

use super::border::continuation;
use super::chat::{ChatTemplate, Message};
use super::rows::{IGNORED, Tokens};
use super::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// The prompt of an Alpaca row without an input, and with one.
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the \
                      request.\n\n### Instruction:\n{instruction}\n\n### Response:\n";
const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                            context. Write a response that appropriately completes the request.\n\n### Instruction:\n\
                            {instruction}\n\n### Input:\n{input}\n\n### Response:\n";

/// What becomes of a prompt and a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptFormat {
    /// Chat where the model has a chat template, else raw. A prompt that ends as the template opens an answer is rendered
    /// already, and taken as it is.
    #[default]
    Auto,
    /// A turn of the user and one of the assistant, through the model's chat template.
    Chat,
    /// The prompt as it is, tokenised as in use, where it comes alone; then the response, and EOS. One BOS at the start
    /// where the tokenizer adds one (the original adds another one before the response; this does so where it is asked to).
    Raw,
}

/// [`PromptFormat`], decided.
pub(super) enum PairFormat {
    Chat,
    /// What is put before a response where the row brings no blank itself.
    Raw {
        separator: String,
        /// As the original has it, which so teaches the model to begin its answer with BOS.
        bos_before_response: bool,
    },
}

/// How a chat template opens an answer.
pub(super) struct Opening {
    text: String,
    blank: String,
}

impl Opening {
    /// What `template` puts behind the last words of a user, up to the answer's first word; `None` where it puts nothing.
    pub fn of(template: &ChatTemplate) -> Option<Opening> {
        // a word that no template has
        let word = "zxqv";
        let asked = Message { role: "user".into(), content: word.into() };
        let text = template.render(&[asked], true).ok()?;
        let behind = text.rsplit_once(word)?.1;
        let shown = behind.trim();
        let blank = &behind[behind.trim_end().len()..];
        (!shown.is_empty()).then(|| Opening { text: shown.to_owned(), blank: blank.to_owned() })
    }

    /// Whether `prompt` ends so.
    pub fn ends(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(&self.text)
    }

    /// What stands between the opening and an answer.
    pub fn blank(&self) -> &str {
        &self.blank
    }
}

/// Alpaca's prompt.
pub(super) fn alpaca(instruction: &str, input: &str) -> String {
    let (before, after) =
        if input.trim().is_empty() { ALPACA } else { ALPACA_INPUT }.split_once("{instruction}").unwrap_or_default(); // ok: both hold it
    [before, instruction, &after.replacen("{input}", input, 1)].concat()
}

/// Prompt and response as they are. The separator is learnt as the beginning of the answer, so that the prompt can be given
/// as it is in use, and the answer's first word is the token that it is within a text.
pub(super) fn raw(
    tokenizer: &Tokenizer,
    prompt: &str,
    response: &str,
    separator: &str,
    bos_before_response: bool,
) -> Result<Tokens, String> {
    let eos = tokenizer.eos().ok_or_else(|| {
        format!("{}: names no end-of-sequence token to close the response with", tokenizer.source().display())
    })?;
    let encode = |text: &str| tokenizer.encode(text, false).map_err(|e| e.to_string());
    let mut ids = encode(prompt)?;
    if !ids.starts_with(tokenizer.prefix_ids()) {
        ids.splice(0..0, tokenizer.prefix_ids().iter().copied());
    }
    let mut labels = vec![IGNORED; ids.len()];
    if bos_before_response {
        ids.extend(tokenizer.prefix_ids());
    }
    let divided = prompt.is_empty()
        || prompt.ends_with(char::is_whitespace)
        || response.starts_with(char::is_whitespace)
        || ids.last().is_some_and(|&id| tokenizer.is_added(id));
    let separator = if divided { "" } else { separator };
    // behind a BOS a text begins
    let response = [separator, response].concat();
    ids.extend(if bos_before_response { encode(&response)? } else { continuation(tokenizer, &response)? });
    if ids.last() != Some(&eos) {
        ids.push(eos);
    }
    labels.extend(ids[labels.len()..].iter().map(|&id| id as i32));
    Ok(Tokens { ids, labels })
}
