//! `rugosa eval`: loss and exact match on a file of rows.

use super::model::{REHEARSED, Ready, Source};
use crate::autograd::Tape;
use crate::autograd::ops::head_nll;
use crate::cli::args::{EvalArgs, Metric};
use crate::cli::signal;
use crate::data::{Answer, Batch, Dataset, ExampleRef, PrepReport, RowForm, Tokenizer, answers};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::generate::{Request, Sampling, generate};
use crate::nn::DeviceBatch;
use crate::train::config::{PartialConfig, PromptFormatOption};
use crate::train::output::CONFIG_FILE;
use serde::Serialize;
use std::path::Path;

/// What is printed; metrics that were not asked for are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scores {
    /// Mean negative log-likelihood of a supervised token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervised_tokens: Option<usize>,
    /// Of each supervised token, a list a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_nll: Option<Vec<Vec<f32>>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
    /// Rows that are scored.
    pub examples: usize,
    #[serde(flatten)]
    pub file: FileScores,
}

/// How many answers are generated word for word, blanks at both ends aside.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Exact {
    /// Share of the answers that are compared; null where there is none.
    pub exact_match: Option<f64>,
    /// Answers that are compared: every assistant turn, each behind the row's own earlier turns.
    pub answers: usize,
    /// Answers that are not compared: those of which --seq-len cut a part or all, and those longer than --max-new-tokens.
    pub answers_cut: usize,
    pub answers_too_long: usize,
    /// Tokens of the longest of the latter, with what ends it.
    #[serde(skip)]
    pub longest: usize,
}

/// What became of the rows of the whole file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileScores {
    pub rows: usize,
    /// Rows that lost tokens to --seq-len, those of them that lost some of an answer, and rows that are left out for their
    /// length, or since they have no answer.
    pub rows_cut: usize,
    pub rows_answer_cut: usize,
    pub rows_dropped: usize,
    pub rows_empty: usize,
    /// Tokens of the longest row: as --seq-len it keeps all.
    pub longest_row: usize,
}

impl FileScores {
    fn of(report: &PrepReport) -> FileScores {
        FileScores {
            rows: report.rows,
            rows_cut: report.truncated,
            rows_answer_cut: report.answers_cut,
            rows_dropped: report.dropped,
            rows_empty: report.empty,
            longest_row: report.longest,
        }
    }
}

pub fn run(args: EvalArgs) -> Result<()> {
    signal::install(None)?;
    let wants = |m| args.metric.contains(&m);
    let room = if wants(Metric::ExactMatch) { args.max_new_tokens } else { 0 };
    let source = Source::open(&args.model)?;
    let options = args.rows.data_options();
    // an error in them is told behind one in the rows
    let stop = source.stop_tokens();
    let (tokenizer, vocab_size) = (source.tokenizer.as_ref(), source.config().vocab_size);
    let ends = stop.as_deref().unwrap_or_default();
    let dataset = Dataset::open_with_stop(&args.rows.data, &options, tokenizer, vocab_size, ends)?;
    dataset.notes().iter().for_each(|note| super::tell(note));
    asked_otherwise(&args, dataset.report()).iter().for_each(|note| super::tell(note));
    let examples: Vec<ExampleRef<'_>> = dataset.examples().take(args.limit.unwrap_or(usize::MAX)).collect();
    let (mut exact, compared) = comparable(&dataset, examples.len(), &stop?, args.max_new_tokens);
    let ready = source.ready(args.rows.seq_len.saturating_add(room), |ready| {
        // the smallest and the largest of what comes: kernels go by sizes
        if wants(Metric::Loss) {
            let ends = smallest_and_largest(&examples, args.batch_size, |e| e.ids.len());
            ends.iter().try_for_each(|rows| token_nll(ready, rows, args.batch_size).map(drop))?;
        }
        if wants(Metric::ExactMatch) {
            let ends = smallest_and_largest(&compared, args.batch_size, |a| a.prompt.len());
            ends.iter().try_for_each(|some| exact_match(ready, None, some, args.batch_size, REHEARSED).map(drop))?;
        }
        Ok(())
    })?;
    let positions = ready.model.rope.positions();
    if let Some(long) = examples.iter().find(|e| e.ids.len() > positions) {
        let reason =
            format!("the row has {} tokens, over the model's {positions} positions; lower --seq-len", long.ids.len());
        return Err(Error::row(dataset.path(), long.line, reason));
    }
    let mut scores = Scores { examples: examples.len(), file: FileScores::of(dataset.report()), ..Scores::default() };
    if wants(Metric::Loss) {
        let rows = token_nll(&ready, &examples, args.batch_size)?;
        check_finite(&rows, &examples, dataset.path(), ready.device.precision())?;
        let (nll, tokens) = total(&rows);
        scores.nll = Some(nll / tokens.max(1) as f64);
        scores.perplexity = scores.nll.map(f64::exp);
        scores.supervised_tokens = Some(tokens);
        scores.token_nll = args.per_token.then_some(rows);
    }
    if wants(Metric::ExactMatch) {
        exact_notes(&exact, args.max_new_tokens).iter().for_each(|note| super::tell(note));
        let matched = exact_match(&ready, ready.tokenizer.as_ref(), &compared, args.batch_size, args.max_new_tokens)?;
        exact.exact_match = (!compared.is_empty()).then(|| matched as f64 / compared.len() as f64);
        scores.exact = Some(exact);
    }
    if args.json {
        let line = serde_json::to_string(&scores).map_err(|e| Error::invalid("--json", e.to_string()))?;
        super::print(&format!("{line}\n"))
    } else {
        super::print(&table(&scores))
    }
}

/// A warning where the adapter's run asked in another way than these rows do.
fn asked_otherwise(args: &EvalArgs, report: &PrepReport) -> Option<String> {
    let run = PartialConfig::from_toml(&args.model.adapter.as_ref()?.join(CONFIG_FILE)).ok()?;
    let raw = run.prompt_format? == PromptFormatOption::Raw;
    let has = |form| report.forms.contains_key(&form);
    if raw && has(RowForm::ChatPair) {
        let reason = "warning: the adapter was trained on raw prompts, these go through the chat template";
        Some(format!("{reason}; --prompt-format raw asks as its run did"))
    } else if !raw && report.has_template && has(RowForm::RawPair) {
        let reason = "warning: the adapter was trained through the chat template, these prompts are raw";
        Some(format!("{reason}; --prompt-format auto asks as its run did"))
    } else {
        None
    }
}

/// The answers of the first `examples` examples that can be compared, and how many cannot: those that were cut, in part or
/// wholly, and those that do not end within `max_new_tokens`. A model that is asked for `n` tokens has not shown that it ends
/// behind them.
fn comparable<'a>(
    dataset: &'a Dataset,
    examples: usize,
    stop: &[u32],
    max_new_tokens: usize,
) -> (Exact, Vec<Answer<'a>>) {
    let (mut exact, mut compared) = (Exact::default(), Vec::new());
    for (i, example) in dataset.examples().take(examples).enumerate() {
        exact.answers_cut += dataset.answers_lost(i);
        for answer in answers(example, dataset.answer_cut_at(i), stop) {
            let Some(answer) = answer else {
                exact.answers_cut += 1;
                continue;
            };
            let needs = answer.said.len() + usize::from(answer.ended);
            if needs > max_new_tokens {
                exact.answers_too_long += 1;
                exact.longest = exact.longest.max(needs);
            } else {
                compared.push(answer);
            }
        }
    }
    exact.answers = compared.len();
    (exact, compared)
}

/// What is not compared, a line each.
fn exact_notes(exact: &Exact, max_new_tokens: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let answers = |n: usize| if n == 1 { "1 answer is".to_owned() } else { format!("{n} answers are") };
    if exact.answers_cut > 0 {
        notes
            .push(format!("warning: {} cut by --seq-len and not compared for exact match", answers(exact.answers_cut)));
    }
    if exact.answers_too_long > 0 {
        let (n, longest) = (answers(exact.answers_too_long), exact.longest);
        notes.push(format!(
            "warning: {n} longer than --max-new-tokens {max_new_tokens} and not compared for exact match; \
             --max-new-tokens {longest} compares all"
        ));
    }
    notes
}

/// The first and the last `count` by `size`.
fn smallest_and_largest<T: Clone>(all: &[T], count: usize, size: impl Fn(&T) -> usize) -> [Vec<T>; 2] {
    let mut sorted = all.to_vec();
    sorted.sort_by_key(size);
    let count = count.min(sorted.len());
    [sorted[..count].to_vec(), sorted[sorted.len() - count..].to_vec()]
}

fn table(s: &Scores) -> String {
    let mut text = format!("examples           {}\n", s.examples);
    if s.file.rows_cut + s.file.rows_dropped + s.file.rows_empty > 0 {
        let f = &s.file;
        text += &format!(
            "rows of the file   {}: {} cut, {} too long and {} without an answer left out\n",
            f.rows, f.rows_cut, f.rows_dropped, f.rows_empty
        );
    }
    if let (Some(nll), Some(ppl), Some(tokens)) = (s.nll, s.perplexity, s.supervised_tokens) {
        text += &format!("supervised tokens  {tokens}\nnll                {nll:.6}\nperplexity         {ppl:.4}\n");
    }
    if let Some(exact) = &s.exact {
        let not = exact.answers_cut + exact.answers_too_long;
        let turns =
            if exact.answers + not > s.examples { ", every turn behind the row's own earlier ones" } else { "" };
        let left_out = if not > 0 { format!("; {not} cut or too long, not compared") } else { String::new() };
        text += &format!("answers compared   {}{turns}{left_out}\n", exact.answers);
        text += &match exact.exact_match {
            Some(share) => format!("exact match        {:.2} %\n", 100.0 * share),
            None => "exact match        none: no answer is whole\n".to_owned(),
        };
    }
    text
}

/// The sum, and the number of tokens.
fn total(rows: &[Vec<f32>]) -> (f64, usize) {
    let sum = rows.iter().flatten().map(|n| f64::from(*n)).sum();
    (sum, rows.iter().map(Vec::len).sum())
}

/// Refuses a loss that is no number: it is none of the model's.
fn check_finite(rows: &[Vec<f32>], examples: &[ExampleRef<'_>], path: &Path, precision: Precision) -> Result<()> {
    let Some(i) = rows.iter().position(|row| row.iter().any(|nll| !nll.is_finite())) else { return Ok(()) };
    let way_out = match precision {
        Precision::F16 => "f16 may be too small for this model: use --precision f32",
        Precision::F32 => "check the device with rugosa selftest, or use another model or adapter",
    };
    let reason = format!("the row's loss is not finite: numbers overflow on the way to it; {way_out}");
    Err(Error::row(path, examples[i].line, reason))
}

/// The negative log-likelihood of each row's supervised tokens, in nats.
fn token_nll(ready: &Ready, examples: &[ExampleRef<'_>], batch_size: usize) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::with_capacity(examples.len());
    for rows in examples.chunks(batch_size) {
        if signal::interrupted() {
            return Err(Error::Interrupted);
        }
        let batch = Batch::new(rows.iter().copied(), 0);
        let on_device = DeviceBatch::upload(&ready.device, &batch, ready.model.config.sliding_window)?;
        let hidden = ready.model.hidden(&mut Tape::inference(), &on_device.input, 0)?;
        let nll = head_nll(&hidden.value, &ready.model.head, &on_device.targets)?;
        let mut rest = nll.into_iter();
        // what a row's first token should have been is never asked
        let asked = |e: &ExampleRef<'_>| e.labels.iter().skip(1).filter(|l| **l >= 0).count();
        all.extend(rows.iter().map(|e| rest.by_ref().take(asked(e)).collect::<Vec<_>>()));
    }
    Ok(all)
}

/// How many of `answers` the model gives word for word behind what stands before them. One that nothing ends is compared as
/// far as it goes.
pub fn exact_match(
    ready: &Ready,
    tokenizer: Option<&Tokenizer>,
    answers: &[Answer<'_>],
    batch_size: usize,
    max_new_tokens: usize,
) -> Result<usize> {
    let stop = ready.stop_tokens()?;
    let request = Request { max_new_tokens, stop: &stop, sampling: Sampling::GREEDY };
    // prompts of like length together: a batch takes as long as its longest
    let mut order: Vec<&Answer<'_>> = answers.iter().collect();
    order.sort_by_key(|a| a.prompt.len());
    let mut matched = 0;
    for some in order.chunks(batch_size) {
        let prompts: Vec<Vec<u32>> = some.iter().map(|a| a.prompt.to_vec()).collect();
        let generated = generate(&ready.device, &ready.model, &prompts, &request, |_, _| !signal::interrupted())?;
        if signal::interrupted() {
            return Err(Error::Interrupted);
        }
        for (answer, generated) in some.iter().zip(&generated) {
            let length = if answer.ended { generated.len() } else { generated.len().min(answer.said.len()) };
            matched += usize::from(same(tokenizer, &generated[..length], answer.said)?);
        }
    }
    Ok(matched)
}

fn same(tokenizer: Option<&Tokenizer>, answer: &[u32], expected: &[u32]) -> Result<bool> {
    match tokenizer {
        // as text: one string may be cut into tokens in several ways
        Some(t) => Ok(t.decode(answer, true)?.trim() == t.decode(expected, true)?.trim()),
        None => Ok(answer == expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_compared_is_said() {
        let exact = Exact { answers: 2, answers_cut: 1, answers_too_long: 3, longest: 300, ..Exact::default() };
        let notes = exact_notes(&exact, 256);
        assert!(notes[0].contains("1 answer is cut by --seq-len and not compared"), "{notes:?}");
        assert!(notes[1].contains("3 answers are longer") && notes[1].contains("--max-new-tokens 300 compares all"));
        let none = Scores { examples: 2, exact: Some(Exact { exact_match: None, ..exact }), ..Scores::default() };
        assert!(table(&none).contains("exact match        none"), "{}", table(&none));
        let json: serde_json::Value = serde_json::to_value(&none).unwrap();
        assert!(json["exact_match"].is_null() && json["answers_cut"] == 1 && json["rows_cut"] == 0, "{json}");
        assert!(json.as_object().unwrap().contains_key("exact_match"), "{json}");
    }
}
