//! Conversations: rendering a model's chat template, and finding what of it a model should learn to say.

pub(super) mod messages;

use super::border::encode_cut_at;
use super::rows::{IGNORED, Tokens};
use super::tokenizer::{Tokenizer, one_line};
use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::ops::Range;

/// Instructions that one rendering may take; hostile templates end here.
const FUEL: u64 = 20_000_000;
const NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// A model's chat template, compiled.
///
/// It is rendered as `transformers` does: `trim_blocks` and `lstrip_blocks`; `messages`, `tools`, `bos_token`, `eos_token`
/// and `add_generation_prompt` as variables; `raise_exception`, `strftime_now`, a `tojson` that leaves HTML alone, and
/// Python's methods on strings and mappings.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: std::path::PathBuf,
    bos: String,
    eos: String,
    /// Spellings of the tokens that end a turn.
    ends: Vec<String>,
}

impl ChatTemplate {
    /// The template that comes with `tokenizer`.
    ///
    /// # Errors
    /// [`Error::File`] where there is none, or it does not compile (with its line).
    pub fn new(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let source = tokenizer.source();
        let Some(text) = tokenizer.chat_template() else {
            let reason = "there is none; use rows with prompt and response, or add a chat_template.jinja to the model";
            return Err(Error::file(source, NAME, reason));
        };
        let spelling = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let environment = environment(text).map_err(|reason| Error::file(source, NAME, reason))?;
        Ok(ChatTemplate {
            environment,
            source: source.to_path_buf(),
            bos: spelling(tokenizer.bos()),
            eos: spelling(tokenizer.eos()),
            ends: tokenizer.end_of_turn().iter().filter_map(|&id| tokenizer.token(id)).collect(),
        })
    }

    /// The text of `messages`, with the opening of the assistant's next turn if `add_generation_prompt`.
    ///
    /// # Errors
    /// [`Error::File`] with the template's line and reason.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|m| Value::from(Serde(m))).collect();
        self.render_values(&messages, &Value::from(()), add_generation_prompt)
            .map_err(|reason| Error::file(&self.source, NAME, reason))
    }

    fn render_values(&self, messages: &[Value], tools: &Value, add_generation_prompt: bool) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|e| explain(&e))?;
        let text = template.render(context! {
            messages => messages,
            tools => tools,
            documents => (),
            bos_token => &self.bos,
            eos_token => &self.eos,
            add_generation_prompt => add_generation_prompt,
        });
        text.map_err(|e| explain(&e))
    }

    /// The conversation as tokens, every assistant turn supervised: its content and its end-of-turn token.
    ///
    /// The ids are those of the whole rendered text, but for tokens that would reach over the start of a turn. On failure a reason that names the turn, counted from 1 over all messages.
    pub(super) fn tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Json],
        tools: Option<&Json>,
    ) -> Result<Tokens, String> {
        let values: Vec<Value> = messages.iter().map(|m| Value::from(Serde(m))).collect();
        let tools = tools.map_or_else(|| Value::from(()), |t| Value::from(Serde(t)));
        let text = self.render_values(&values, &tools, false).map_err(|e| format!("chat template: {e}"))?;
        let mut spans = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            let masked = message.get("weight").and_then(Json::as_f64) == Some(0.0);
            if message.get("role").and_then(Json::as_str) == Some("assistant") && !masked {
                let content = message.get("content").and_then(Json::as_str).unwrap_or_default();
                let span = self.turn(&text, &values, &tools, i, content);
                spans.push(span.map_err(|reason| format!("turn {} (assistant): {reason}", i + 1))?);
            }
        }
        let tokens = encode_cut_at(tokenizer, &text, spans.iter().map(|span| span.start))?;
        let inside = |start: usize| spans.iter().any(|span| span.contains(&start));
        let labels = tokens.iter().map(|&(id, start)| if inside(start) { id as i32 } else { IGNORED }).collect();
        Ok(Tokens { ids: tokens.into_iter().map(|(id, _)| id).collect(), labels })
    }

    /// Where in `text`, the whole conversation, message `i` stands without its opening: from the end of what the model
    /// would be given to answer, to the end of its end-of-turn token, or to the end of the message if it has none.
    fn turn(
        &self,
        text: &str,
        messages: &[Value],
        tools: &Value,
        i: usize,
        content: &str,
    ) -> Result<Range<usize>, String> {
        let unstable = || {
            "the chat template renders this turn differently when other turns follow or precede it, so what to \
             supervise is unclear; split the conversation so that this turn is the last one"
                .to_owned()
        };
        let render = |messages, open| {
            self.render_values(messages, tools, open)
                .map_err(|e| format!("chat template, of the turns up to here: {e}"))
        };
        let given = render(&messages[..i], true)?;
        let Some(rest) = text.strip_prefix(given.as_str()) else { return Err(unstable()) };
        let through = render(&messages[..=i], false)?;
        let length = if text.starts_with(&through) && through.starts_with(&given) {
            let turn = &through[given.len()..];
            // what follows the end-of-turn token, mostly a line break, is the template's and not the model's
            let said = turn.trim_end();
            if self.ends.iter().any(|end| said.ends_with(end.as_str())) { said.len() } else { turn.len() }
        } else {
            // Templates that say more in the last turn (an empty thought, say) than in earlier ones: there the content must
            // stand right behind the opening and be closed by an end-of-turn token.
            let content = content.trim();
            let lead = rest.len() - rest.trim_start().len();
            let after = rest.trim_start().strip_prefix(content).ok_or_else(unstable)?;
            let gap = after.len() - after.trim_start().len();
            let end = self.ends.iter().find(|end| after.trim_start().starts_with(end.as_str())).ok_or_else(unstable)?;
            lead + content.len() + gap + end.len()
        };
        Ok(given.len()..given.len() + length)
    }
}

fn environment(template: &str) -> Result<Environment<'static>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| explain(&e))?);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    let now = super::chat_text::now();
    env.add_function("strftime_now", move |format: &str| super::chat_text::strftime(now, format));
    env.add_filter("tojson", super::chat_text::tojson);
    env.add_template_owned(NAME, super::chat_text::without_generation_marks(template)).map_err(|e| explain(&e))?;
    Ok(env)
}

/// The template's line and what it complains about.
fn explain(e: &minijinja::Error) -> String {
    let line = e.line().map_or_else(String::new, |l| format!("line {l}: "));
    let what = match e.kind() {
        ErrorKind::OutOfFuel => "takes too many steps; it seems to loop without end".to_owned(),
        kind => e.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    format!("{line}{}", one_line(&what))
}
