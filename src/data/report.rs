//! What became of the rows of a file, in numbers and in lines for whoever reads along.

use super::rows::{Facts, RowForm};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Names that are shown of those that are not used.
const MOST_NAMES: usize = 8;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrepReport {
    /// Rows in the file.
    pub rows: usize,
    /// Rows that lost tokens, those of them that lost learnt ones, and rows that are not used at all for their length.
    pub truncated: usize,
    pub answers_cut: usize,
    pub dropped: usize,
    /// Rows that are left out since they have no answer, and the line of the first.
    pub empty: usize,
    pub first_empty: Option<usize>,
    /// Tokens of the longest row, cut or not.
    pub longest: usize,
    /// Rows by what was made of them.
    pub forms: BTreeMap<RowForm, usize>,
    /// Rows whose own text spells a special token, and line and token of the first.
    pub special: usize,
    pub first_special: Option<(usize, String)>,
    /// Conversations that end in a turn which nobody answers.
    pub unanswered: usize,
    /// Keys that hold something in some row and are not used.
    pub unused: BTreeSet<String>,
    /// What stands between a raw prompt and its response where a row brings no blank itself.
    pub separator: String,
    /// Whether the model has a chat template.
    pub has_template: bool,
    /// Tokens in use, and those of them that are learnt.
    pub tokens: usize,
    pub supervised: usize,
    /// Sequences in the first epoch.
    pub sequences: usize,
    /// Tokens per place: 1 if every sequence is full.
    pub packing_efficiency: f64,
}

impl PrepReport {
    /// Counts what is known of a row beside its tokens.
    pub(super) fn count(&mut self, line: usize, facts: Facts) {
        *self.forms.entry(facts.form).or_default() += 1;
        if let Some(token) = facts.special {
            self.special += 1;
            self.first_special.get_or_insert((line, token));
        }
        self.unanswered += usize::from(facts.unanswered);
        self.unused.extend(facts.unused);
    }

    /// Counts a row that is cut, whose answers lose tokens or not, or that is left out.
    pub(super) fn count_cut(&mut self, lost: bool, dropped: bool) {
        self.dropped += usize::from(dropped);
        self.truncated += usize::from(!dropped);
        self.answers_cut += usize::from(!dropped && lost);
    }

    /// Whether the rows ask as `rugosa generate --chat` does, most of them at least.
    pub fn asks_in_chat(&self) -> bool {
        let count = |forms: &[RowForm]| forms.iter().filter_map(|f| self.forms.get(f)).sum::<usize>();
        count(&[RowForm::Messages, RowForm::ChatPair]) > self.rows / 2
    }

    /// What a reader should know, a line each: how prompts are put, what is cut, left out or not used. `seq_len` is the limit
    /// that rows were cut at.
    pub fn notes(&self, seq_len: usize) -> Vec<String> {
        let mut notes = self.prompts();
        if self.truncated + self.dropped > 0 {
            notes.push(self.cuts(seq_len));
        }
        if let Some(line) = self.first_empty {
            notes.push(format!("{} without an answer left out, the first in line {line}", rows(self.empty)));
        }
        if let Some((line, token)) = &self.first_special {
            let token: String = token.chars().take(40).collect();
            notes.push(format!(
                "{} with special tokens in the text itself, the first in line {line} ({token}): the model sees the token, \
                 as it does in use",
                rows(self.special)
            ));
        }
        if self.unanswered > 0 {
            notes.push(format!(
                "{} with a last turn that no answer follows: nothing is learnt from it",
                rows(self.unanswered)
            ));
        }
        if !self.unused.is_empty() {
            let mut names: Vec<String> =
                self.unused.iter().take(MOST_NAMES).map(|n| n.chars().take(40).collect()).collect();
            if self.unused.len() > MOST_NAMES {
                names.push(format!("{} more", self.unused.len() - MOST_NAMES));
            }
            notes.push(format!("fields of the rows that are not used: {}", names.join(", ")));
        }
        notes
    }

    /// How the prompts of pairs are put.
    fn prompts(&self) -> Vec<String> {
        let count = |form| self.forms.get(&form).copied().filter(|n| *n > 0);
        let mut lines = Vec::new();
        if let Some(n) = count(RowForm::ChatPair) {
            lines.push(format!(
                "prompt format chat: {} through the model's chat template, as generate ⟨chat⟩ asks (raw: ⟨prompt_format⟩ raw)",
                rows(n)
            ));
        }
        if let Some(n) = count(RowForm::RawPair) {
            let between = match self.separator.as_str() {
                "" => "nothing between prompt and response".to_owned(),
                text => format!("{text:?} between prompt and response where a row has no blank there"),
            };
            let other = if self.has_template { "⟨prompt_format⟩ chat" } else { "the model has no chat template" };
            lines.push(format!(
                "prompt format raw: {} as they are, as generate ⟨prompt⟩ asks, {between} (chat: {other})",
                rows(n)
            ));
        }
        if let Some(n) = count(RowForm::RenderedPair) {
            lines.push(format!(
                "prompt format raw: {} as they are, for their prompts end as the chat template opens an answer (chat: \
                 ⟨prompt_format⟩ chat)",
                rows(n)
            ));
        }
        lines
    }

    fn cuts(&self, seq_len: usize) -> String {
        let keep = format!("⟨seq_len⟩ {} keeps all", self.longest);
        let of = format!("of {}", rows(self.rows));
        match (self.truncated, self.answers_cut, self.dropped) {
            (0, _, dropped) => format!("warning: ⟨seq_len⟩ {seq_len} leaves {dropped} {of} out; {keep}"),
            (cut, 0, 0) => format!("⟨seq_len⟩ {seq_len} cuts the ends of {cut} {of}, but no answer; {keep}"),
            (cut, 0, dropped) => {
                format!(
                    "warning: ⟨seq_len⟩ {seq_len} leaves {dropped} {of} out and cuts the ends of {cut}, but no answer; {keep}"
                )
            }
            (_, answers, 0) => format!("warning: ⟨seq_len⟩ {seq_len} cuts the answers of {answers} {of}; {keep}"),
            (_, answers, dropped) => {
                format!(
                    "warning: ⟨seq_len⟩ {seq_len} cuts the answers of {answers} {of} and leaves {dropped} out; {keep}"
                )
            }
        }
    }
}

fn rows(n: usize) -> String {
    if n == 1 { "1 row".to_owned() } else { format!("{n} rows") }
}
