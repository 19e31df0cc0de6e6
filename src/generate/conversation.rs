//! What was said, as the text that a model goes on with.

use crate::data::{ChatTemplate, Message, Tokenizer};
use crate::error::Result;

/// Turns of a user and a model. Without a chat template they are one text, line by line.
pub struct Conversation {
    template: Option<ChatTemplate>,
    system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    /// An empty one.
    ///
    /// # Errors
    /// Those of a chat template that cannot be used.
    pub fn new(tokenizer: &Tokenizer) -> Result<Conversation> {
        let has_template = !tokenizer.chat_templates().is_empty();
        let template = has_template.then(|| ChatTemplate::new(tokenizer)).transpose()?;
        Ok(Conversation { template, system: None, turns: Vec::new() })
    }

    /// Whether a chat template tells turns apart.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Begins again; the system's message stays.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// What the model is told before everything else; an empty text is none.
    pub fn set_system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| text.to_owned());
    }

    /// Turns so far.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// The tokens that ask for an answer to `text`. Nothing is kept of it: that does [`Conversation::add`].
    ///
    /// # Errors
    /// Those of the chat template, which may refuse a system's message, and of the tokenizer.
    pub fn ask(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        match &self.template {
            Some(template) => {
                let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
                let mut all: Vec<Message> = self.system.iter().map(|s| message("system", s)).collect();
                all.extend(self.turns.iter().cloned());
                all.push(message("user", text));
                tokenizer.encode(&template.render(&all, true)?, false)
            }
            None => {
                let before =
                    self.system.iter().map(String::as_str).chain(self.turns.iter().map(|t| t.content.as_str()));
                let mut all: String = before.flat_map(|line| [line, "\n"]).collect();
                all.push_str(text);
                tokenizer.encode(&all, true)
            }
        }
    }

    /// Takes a question and its answer in.
    pub fn add(&mut self, question: &str, answer: &str) {
        self.turns.push(Message { role: "user".into(), content: question.into() });
        self.turns.push(Message { role: "assistant".into(), content: answer.into() });
    }
}
