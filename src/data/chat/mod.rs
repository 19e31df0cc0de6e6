//! Conversations: rendering a model's chat template, and finding what of it a model should learn to say.

pub(super) mod files;
pub(super) mod messages;
mod notes;
mod opening;
mod spans;

pub use messages::{Conversation, Message, TrainOn};
pub use notes::Notes;

use super::border::encode_cut_at;
use super::jinja::text::Part;
use super::jinja::{Rendered, Template, Value, clock};
use super::rows::{IGNORED, Tokens};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use opening::Opening;
use serde_json::Value as Json;
use spans::Spans;
use std::path::PathBuf;
use std::sync::OnceLock;

const NAME: &str = "chat_template";
/// The template for rows with tools, where a model has several.
const WITH_TOOLS: &str = "tool_use";
const DEFAULT: &str = "default";

/// A model's chat templates, parsed.
///
/// They are rendered as `transformers` does: Jinja as Python has it, in its sandbox, with `messages`, `tools`, `documents`,
/// the special tokens by their names (`bos_token`, ...), `add_generation_prompt` and what a row adds as variables. Of
/// several, `tool_use` renders rows with tools and `default` the others.
pub struct ChatTemplate {
    named: Vec<Named>,
    source: PathBuf,
    /// `bos_token` and its like, with their spellings.
    specials: Vec<(String, String)>,
    /// Spellings of the tokens that end a turn.
    ends: Vec<String>,
    /// Seconds since 1970, for templates that write today's date.
    now: i64,
    notes: Notes,
}

struct Named {
    name: String,
    template: Template,
    /// How it opens a turn when a row adds nothing.
    opening: OnceLock<Option<Opening>>,
}

impl ChatTemplate {
    /// The templates that come with `tokenizer`.
    ///
    /// # Errors
    /// [`Error::File`] where there is none, or one is no Jinja (with its line); [`Error::Usage`] where an environment variable
    /// can't be meant, such as the time in `SOURCE_DATE_EPOCH`, which templates see.
    pub fn new(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        crate::env::check()?;
        let source = tokenizer.source();
        if tokenizer.chat_templates().is_empty() {
            let reason = "there is none; use rows with prompt and response, or add a chat_template.jinja to the model";
            return Err(Error::file(source, NAME, reason));
        }
        let parse = |(name, text): &(String, String)| -> Result<Named> {
            let field = if name == DEFAULT { NAME.to_owned() } else { format!("{NAME} {name}") };
            let template = Template::parse(text).map_err(|reason| Error::file(source, field, reason))?;
            Ok(Named { name: name.clone(), template, opening: OnceLock::new() })
        };
        Ok(ChatTemplate {
            named: tokenizer.chat_templates().iter().map(parse).collect::<Result<_>>()?,
            source: source.to_path_buf(),
            specials: tokenizer.named_specials(),
            ends: tokenizer.end_of_turn().iter().filter_map(|&id| tokenizer.token(id)).collect(),
            now: clock::now(),
            notes: Notes::default(),
        })
    }

    /// The same, for which it is always `now`, in seconds since 1970.
    pub fn at(mut self, now: i64) -> ChatTemplate {
        self.now = now;
        self
    }

    /// The text of `messages`, with the opening of the assistant's next turn if `add_generation_prompt`.
    ///
    /// # Errors
    /// [`Error::File`] with the template's line and reason.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let bad = |reason: String| Error::file(&self.source, NAME, reason);
        let messages: Vec<Json> = messages.iter().map(Message::to_json).collect();
        let named = self.choose(false).map_err(bad)?;
        let plain = Conversation::default();
        let variables = self.variables(&plain, &messages, add_generation_prompt);
        Ok(named.template.render(&variables, self.now).map_err(bad)?.text)
    }

    /// What was met in the conversations so far that a user should know, a line each.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lines()
    }

    fn choose(&self, tools: bool) -> Result<&Named, String> {
        let by_name = |name: &str| self.named.iter().find(|n| n.name == name);
        let chosen = by_name(WITH_TOOLS).filter(|_| tools).or_else(|| by_name(DEFAULT));
        let only = self.named.first().filter(|only| self.named.len() == 1 && only.name != WITH_TOOLS);
        chosen.or(only).ok_or_else(|| {
            if self.named.len() == 1 {
                let file = "chat_template.jinja";
                // transformers refuses such rows too
                return format!(
                    "the only one is named {WITH_TOOLS}, for rows with tools, and this has none; copy it to {file}, which \
                     renders the others"
                );
            }
            let names: Vec<&str> = self.named.iter().map(|n| n.name.as_str()).collect();
            format!("there are several, [{}], and none is named {DEFAULT}; name one so", names.join(", "))
        })
    }

    fn variables<'a>(&'a self, row: &'a Conversation, messages: &[Json], invite: bool) -> Vec<(&'a str, Value)> {
        let mut all: Vec<(&str, Value)> = self.specials.iter().map(|(n, t)| (n.as_str(), Value::str(t))).collect();
        all.push(("tools", row.tools.as_ref().map_or(Value::None, Value::from_json)));
        all.push(("documents", row.documents.as_ref().map_or(Value::None, Value::from_json)));
        all.extend(row.arguments.iter().map(|(name, value)| (name.as_str(), Value::from_json(value))));
        all.push(("messages", Value::messages(messages)));
        all.push(("add_generation_prompt", Value::Bool(invite)));
        all
    }

    /// The row as text. Contents that are lists of parts reach the template as they are; one that knows texts only gets
    /// them joined, and one that knows lists only gets lists.
    fn text(&self, named: &Named, row: &Conversation, messages: &[Json], invite: bool) -> Result<Rendered, String> {
        let render = |messages: &[Json]| named.template.render(&self.variables(row, messages, invite), self.now);
        let rendered = render(messages);
        let as_list = |r: &Rendered| r.text.contains("[{'type': 'text'") || r.text.contains("[{'text': ");
        // templates of models that see pictures may know lists only, and render nothing of a text
        let says_nothing = |r: &Rendered| !r.marks.iter().any(|m| m.origin.part == Part::Content);
        match (&rendered, messages::joined(messages)) {
            (Ok(r), None) if says_nothing(r) => match render(&messages::in_parts(messages)) {
                Ok(in_parts) if !says_nothing(&in_parts) => Ok(in_parts),
                _ => rendered,
            },
            (Ok(r), Some(joined)) if as_list(r) => render(&joined),
            (Err(_), Some(joined)) => render(&joined).or(rendered),
            // a template that needs a content gets the empty one of a message without
            (Err(_), None) => messages::filled(messages)
                .map_or(Err(()), |m| render(&m).map_err(drop))
                .or_else(|()| render(&messages::in_parts(messages)).map_err(drop))
                .or(rendered),
            _ => rendered,
        }
    }

    /// The conversation as tokens, the assistant's turns learnt: from behind what inference supplies to the end-of-turn token.
    ///
    /// The ids are those of the whole rendered text. A token that straddles a border is learnt if and only if it starts
    /// inside the turn. On failure the reason.
    pub(super) fn tokens(&self, tokenizer: &Tokenizer, row: &Conversation, on: TrainOn) -> Result<Tokens, String> {
        let learnt = row.learnt(on)?;
        let named = self.choose(row.tools.is_some())?;
        let (text, spans) = self.spans(named, row, &learnt)?;
        labelled(tokenizer, &text, &spans)
    }

    fn spans(&self, named: &Named, row: &Conversation, learnt: &[usize]) -> Result<(String, Spans), String> {
        let rendered = self.text(named, row, &row.messages, false);
        let rendered = match rendered {
            Ok(rendered) => rendered,
            Err(e) => {
                let last = self.last_turn(named, row, learnt, &[]).ok_or_else(|| format!("chat template: {e}"))?;
                return Ok(last);
            }
        };
        // what stands in the prompt of inference and not before the turn: a system prompt that goes into the last user's turn
        let unseen = notes::unseen(row, &rendered);
        if !unseen.is_empty()
            && let Some(found) = self.last_turn(named, row, learnt, &unseen)
        {
            return Ok(found);
        }
        self.notes.rendered(row, &rendered, learnt, unseen.len());
        if named.template.marks_generation() {
            let all = learnt.len() == row.assistants().count();
            let spans = spans::by_generation(&rendered.marks, learnt, all);
            self.notes.by_generation(&spans);
            return Ok((rendered.text, spans));
        }
        let opening = self.opening(named, row);
        let spans = spans::by_content(&rendered.text, &rendered.marks, learnt, &opening, &self.ends);
        if let Some(last) = learnt.last().filter(|last| spans.missing.contains(last))
            && let Some(found) = self.last_turn(named, row, std::slice::from_ref(last), &[])
        {
            return Ok(found);
        }
        self.notes.by_content(&spans);
        Ok((rendered.text, spans))
    }

    /// The last turn as the prompt of inference, its answer and an end-of-turn token: where the whole conversation can't be
    /// rendered, or has not got it. None where one of the messages `wanted` does not stand in the prompt.
    fn last_turn(
        &self,
        named: &Named,
        row: &Conversation,
        learnt: &[usize],
        wanted: &[usize],
    ) -> Option<(String, Spans)> {
        let last = *learnt.last()?;
        let message = &row.messages[last];
        let answer = message.get("content")?.as_str()?;
        if answer.is_empty() || message.get("tool_calls").is_some() || last + 1 != row.messages.len() {
            return None;
        }
        let prompt = self.text(named, row, &row.messages[..last], true).ok()?;
        let unseen = notes::unseen(row, &prompt);
        if wanted.iter().any(|m| unseen.contains(m)) {
            return None;
        }
        let mut text = prompt.text;
        let start = text.len();
        let opening = self.opening(named, row);
        // as the template has it between what it opens a turn with and the answer
        text.push_str(&opening.blank);
        text.push_str(answer);
        let closing = opening.closing.unwrap_or_default();
        let end = self.ends.iter().filter_map(|end| closing.find(end.as_str()).map(|at| (at, end))).min();
        text.push_str(end.map(|(_, end)| end).or(self.ends.first()).map_or("", String::as_str));
        let ranges = std::iter::once(start..text.len()).collect();
        self.notes.last_turn();
        Some((text, Spans { ranges, ..Spans::default() }))
    }

    fn opening(&self, named: &Named, row: &Conversation) -> Opening {
        let plain = Conversation { arguments: row.arguments.clone(), ..Conversation::default() };
        let ask =
            |row: &Conversation| opening::of_template(&named.template, &self.variables(row, &[], false), self.now);
        let known =
            if row.arguments.is_empty() { named.opening.get_or_init(|| ask(&plain)).clone() } else { ask(&plain) };
        // templates for tools may refuse a row without them
        known.or_else(|| ask(row)).unwrap_or_default()
    }
}

/// Where each token ends: where the next one begins that does not begin with it, as those of parts of a character do.
fn ends(tokens: &[(u32, usize)], length: usize) -> Vec<usize> {
    let mut ends = vec![length; tokens.len()];
    for i in (1..tokens.len()).rev() {
        let (start, next) = (tokens[i - 1].1, tokens[i].1);
        ends[i - 1] = if next > start { next } else { ends[i] };
    }
    ends
}

/// The ids of a text, and the labels of those in `spans`.
fn labelled(tokenizer: &Tokenizer, text: &str, spans: &Spans) -> Result<Tokens, String> {
    let borders = spans.ranges.iter().map(|r| r.start).filter(|_| !spans.overlapping);
    let tokens = encode_cut_at(tokenizer, text, borders)?;
    let mut ranges = spans.ranges.iter().peekable();
    let mut labels = Vec::with_capacity(tokens.len());
    for (&(id, start), end) in tokens.iter().zip(ends(&tokens, text.len())) {
        while ranges.next_if(|r| r.end <= start).is_some() {}
        let inside = |r: &&std::ops::Range<usize>| if spans.overlapping { r.start < end } else { r.start <= start };
        labels.push(if ranges.peek().is_some_and(inside) { id as i32 } else { IGNORED });
    }
    Ok(Tokens { ids: tokens.into_iter().map(|(id, _)| id).collect(), labels })
}
