//! How a template opens an assistant's turn.

use crate::data::jinja::text::{Mark, Part};
use crate::data::jinja::{Rendered, Template, Value};
use serde_json::json;

/// Bytes of an invitation, and of what opens a user's turn, that are looked at; and ways to open a turn. Real ones have some
/// dozens: what is longer is a template that must not take time and memory in proportion to the square of its output.
const LONGEST: usize = 2048;
const MOST_PREFIXES: usize = 64;

/// What inference supplies before the assistant's first word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// What may stand before the words of a turn, the longest first. A prompt may end in `<think>` where a turn has no
    /// thought, so that only the front of what opens it is there.
    pub prefixes: Vec<String>,
    /// What closes a turn.
    pub closing: Option<String>,
    /// Blanks that stand before an answer and that inference does not supply.
    pub blank: String,
}

impl Opening {
    /// Asks the template for a question with and without an invitation to answer, and for a question with its answer.
    /// `render` takes the messages and `add_generation_prompt`.
    fn ask(render: impl Fn(&Value, bool) -> Result<Rendered, String>, in_parts: bool) -> Option<Opening> {
        let turn = |role: &str, text: &str| match in_parts {
            true => json!({"role": role, "content": [{"type": "text", "text": text}]}),
            false => json!({"role": role, "content": text}),
        };
        let question = turn("user", "question");
        let one = Value::messages(std::slice::from_ref(&question));
        let both = [question, turn("assistant", "answer")];
        let answered = render(&Value::messages(&both), false).ok()?;
        let answer = words(&answered, 1)?;
        let asked = words(&answered, 0).map_or(0, |w| w.end).min(answer.start);
        let lead = &answered.text[asked..answer.start];
        let closing = answered.text[answer.end..].trim();
        let closing = (!closing.is_empty()).then(|| closing.to_owned());
        let user = words(&answered, 0).map_or("", |w| &answered.text[..w.start]);
        let tail = |invite| {
            let rendered = render(&one, invite).ok()?;
            words(&rendered, 0).map(|w| rendered.text[w.end..].to_owned())
        };
        let (open, shut) = (tail(true).unwrap_or_default(), tail(false).unwrap_or_default());
        let invitation = &open[common(&open, &shut)..];
        let own = answered.marks.iter().find(|m| of(m, 1)).map_or(answer.start, |m| m.range.start.min(answer.start));
        // a template that always invites an answer, or never
        let always = (asked + common(&open, lead)).max(own).min(answer.start);
        let prefixes = if !invitation.trim().is_empty() {
            fronts(invitation, user, true)
        } else if !answered.text[own..always].trim().is_empty() {
            fronts(&answered.text[own..always], user, false)
        } else {
            // nothing is supplied: what stands before every answer is not the answer's
            let own = answered.text[own..answer.start].trim_start();
            if own.trim().is_empty() { Vec::new() } else { vec![own.to_owned()] }
        };
        let before = &answered.text[..answer.start];
        let (written, supplied) = (before.trim_end(), open.trim_end());
        // where an answer is opened in another way than inference does, the blank goes with that
        let blank = match !supplied.is_empty() && written.ends_with(supplied) {
            true => before[written.len()..].strip_prefix(&open[supplied.len()..]).unwrap_or_default().to_owned(),
            false => String::new(),
        };
        Some(Opening { prefixes, closing, blank })
    }
}

fn of(mark: &Mark, message: u32) -> bool {
    mark.origin.message == Some(message)
}

/// Where the words of a message stand.
fn words(rendered: &Rendered, message: u32) -> Option<std::ops::Range<usize>> {
    let mut said = rendered.marks.iter().filter(|m| of(m, message) && m.origin.part == Part::Content);
    let first = said.next()?.range.clone();
    Some(first.start..said.next_back().map_or(first.end, |m| m.range.end))
}

/// Bytes that both begin with.
fn common(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

/// The front parts of an invitation that may open a turn: cut behind marks and line breaks, and longer than what also
/// opens a user's turn. It is one itself where it is `whole`.
fn fronts(invitation: &str, user: &str, whole: bool) -> Vec<String> {
    let invitation = invitation.trim_start_matches('\n');
    let whole = whole && invitation.len() <= LONGEST;
    let border = |text: &str, at: usize| (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let invitation = &invitation[..border(invitation, LONGEST)];
    let user = &user[border(user, user.len().saturating_sub(LONGEST))..];
    let shared =
        (0..user.len()).filter(|at| user.is_char_boundary(*at)).map(|at| common(invitation, &user[at..])).max();
    let shared = shared.unwrap_or(0);
    let cut = |(at, c): (usize, char)| matches!(c, '>' | ']' | ':' | '\n' | '｜').then_some(at + c.len_utf8());
    let mut cuts: Vec<usize> = invitation.char_indices().filter_map(cut).collect();
    if whole {
        cuts.extend([invitation.len(), invitation.trim_end().len()]);
    }
    cuts.retain(|at| *at > shared && !invitation[..*at].trim().is_empty());
    cuts.sort_unstable();
    cuts.dedup();
    cuts.into_iter().rev().take(MOST_PREFIXES).map(|at| invitation[..at].to_owned()).collect()
}

/// A template's opening of a turn, with these variables beside the messages; none where it refuses the question.
pub fn of_template(template: &Template, variables: &[(&str, Value)], now: i64) -> Option<Opening> {
    let render = |messages: &Value, invite: bool| {
        let mut all = variables.to_vec();
        all.retain(|(name, _)| !matches!(*name, "messages" | "add_generation_prompt"));
        all.push(("messages", messages.clone()));
        all.push(("add_generation_prompt", Value::Bool(invite)));
        template.render(&all, now)
    };
    // templates of models that see pictures may know lists of parts only
    Opening::ask(render, false).or_else(|| Opening::ask(render, true))
}
