//! What was met in conversations that a user should know of.

use super::messages::Conversation;
use super::spans::Spans;
use crate::data::jinja::Rendered;
use crate::data::jinja::text::Part;
use serde_json::Value as Json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counters that rows add to from several threads.
#[derive(Debug, Default)]
pub struct Notes {
    by_generation: AtomicUsize,
    by_content: AtomicUsize,
    last_turn: AtomicUsize,
    missing: AtomicUsize,
    endless: AtomicUsize,
    shortened: AtomicUsize,
    quoted: AtomicUsize,
    unseen: AtomicUsize,
}

fn add(counter: &AtomicUsize, n: usize) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Notes {
    pub(super) fn by_generation(&self, spans: &Spans) {
        add(&self.by_generation, usize::from(!spans.ranges.is_empty()));
    }

    pub(super) fn by_content(&self, spans: &Spans) {
        add(&self.by_content, 1);
        add(&self.missing, spans.missing.len());
        add(&self.endless, spans.endless);
    }

    pub(super) fn last_turn(&self) {
        add(&self.last_turn, 1);
    }

    /// `unseen`: messages of others of which nothing is in the text.
    pub(super) fn rendered(&self, row: &Conversation, rendered: &Rendered, learnt: &[usize], unseen: usize) {
        add(&self.unseen, unseen);
        add(&self.quoted, usize::from(rendered.quoted_arguments));
        let mut content = vec![0; row.messages.len()];
        let mut other = vec![false; row.messages.len()];
        for mark in &rendered.marks {
            let Some(message) = mark.origin.message.map(|m| m as usize) else { continue };
            match mark.origin.part {
                Part::Content => content[message] += letters(&rendered.text[mark.range.clone()]),
                Part::Other => other[message] = true,
                Part::Role | Part::Template => {}
            }
        }
        let short = |i: &&usize| {
            let message = &row.messages[**i];
            let more =
                ["tool_calls", "function_call", "reasoning_content"].iter().any(|k| is_something(message.get(k)));
            let wanted = message.get("content").map_or(0, content_letters);
            wanted > 0 && content[**i] < wanted || more && !other[**i]
        };
        add(&self.shortened, learnt.iter().filter(short).count());
    }

    /// A line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let get = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut lines = Vec::new();
        let mut say = |n: usize, what: &str, text: &str| {
            if n > 0 {
                lines.push(format!("{}: {text}", count(n, what)));
            }
        };
        say(
            get(&self.by_generation),
            "conversation",
            "learnt is what the chat template puts between {% generation %} marks",
        );
        say(
            get(&self.by_content),
            "conversation",
            "learnt are the assistant's words in the rendered text, with their end-of-turn token",
        );
        say(
            get(&self.last_turn),
            "conversation",
            "only the last turn is learnt, as the prompt of inference and the answer, since the chat template does not render it \
             as a turn",
        );
        say(get(&self.missing), "assistant turn", "not learnt, since the chat template leaves them out");
        say(
            get(&self.shortened),
            "assistant turn",
            "the chat template leaves out a part (a thought of an earlier turn, or tool calls), which is not learnt",
        );
        say(
            get(&self.unseen),
            "message",
            "warning: the chat template leaves it out where it is not the assistant's, so the model does not see it",
        );
        say(
            get(&self.endless),
            "assistant turn",
            "no end-of-turn token of the tokenizer stands behind the words, so the model does not learn to stop there",
        );
        say(
            get(&self.quoted),
            "conversation",
            "arguments of tool calls are JSON texts, which the chat template quotes once more; give them as objects",
        );
        lines
    }
}

/// Messages that are not the assistant's and say something, of which nothing stands in the text.
pub(super) fn unseen(row: &Conversation, rendered: &Rendered) -> Vec<usize> {
    let mut seen = vec![false; row.messages.len()];
    for mark in rendered.marks.iter().filter(|m| matches!(m.origin.part, Part::Content | Part::Other)) {
        if let Some(seen) = mark.origin.message.and_then(|m| seen.get_mut(m as usize)) {
            *seen = true;
        }
    }
    let others = row.messages.iter().enumerate().filter(|(_, m)| m["role"] != "assistant");
    let says = others.filter(|(_, m)| m.get("content").is_some_and(|c| content_letters(c) > 0));
    says.map(|(i, _)| i).filter(|i| !seen[*i]).collect()
}

fn is_something(value: Option<&Json>) -> bool {
    match value {
        None | Some(Json::Null) => false,
        Some(Json::Array(list)) => !list.is_empty(),
        Some(Json::String(text)) => !text.trim().is_empty(),
        Some(_) => true,
    }
}

/// Without the marks around a thought, which templates take off and write anew.
fn spoken(text: &str) -> usize {
    letters(&text.replace("<think>", "").replace("</think>", ""))
}

fn letters(text: &str) -> usize {
    text.chars().filter(|c| !c.is_whitespace()).count()
}

fn content_letters(content: &Json) -> usize {
    match content {
        Json::String(text) => spoken(text),
        Json::Array(parts) => parts.iter().filter_map(|p| p.get("text")?.as_str()).map(spoken).sum(),
        _ => 0,
    }
}
