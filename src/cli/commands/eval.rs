//! `rugosa eval`: loss and exact match on a file of rows.

use super::model::{REHEARSED, Ready, Source};
use crate::cli::args::{EvalArgs, Metric};
use crate::cli::counting::Counting;
use crate::cli::signal;
use crate::data::{Dataset, ExampleRef, PrepReport, RowForm, Tokenizer};
use crate::error::{Error, Result};
use crate::evaluate::{
    Answerer, Asked, Comparable, Judge, Verdict, batches_of_rows, check_finite, comparable, give_answers, token_nll,
    total,
};
use crate::io::disk::OutFile;
use crate::train::config::{PartialConfig, PromptFormatOption};
use crate::train::output::CONFIG_FILE;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

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
    /// Answers that are not compared since --answer-regex finds nothing in them.
    #[serde(skip_serializing_if = "is_zero")]
    pub answers_unmatched: usize,
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

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Exact {
    fn of(all: &Comparable<'_>) -> Exact {
        Exact {
            exact_match: None,
            answers: all.asked.len(),
            answers_cut: all.cut,
            answers_too_long: all.too_long,
            answers_unmatched: all.unmatched,
            longest: all.longest,
        }
    }
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
    let judge = judge(&args)?;
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
    let stop = stop?;
    let mut all = comparable(&dataset, examples.len(), &stop, args.max_new_tokens);
    if judge.needs_text() {
        all.keep_judged(&judge, source.tokenizer()?)?;
    }
    // prompts of like length together: a batch takes as long as its longest
    all.asked.sort_by_key(|a| a.answer.prompt.len());
    args.output.as_deref().map_or(Ok(()), AnswersFile::check)?;
    let ready =
        source.ready(args.rows.seq_len.saturating_add(room), |ready| rehearse(ready, &args, &examples, &all.asked))?;
    let positions = ready.model.rope.positions();
    if let Some(long) = examples.iter().find(|e| e.ids.len() > positions) {
        let reason =
            format!("the row has {} tokens, over the model's {positions} positions; lower --seq-len", long.ids.len());
        return Err(Error::row(dataset.path(), long.line, reason));
    }
    // nothing that can be told beforehand goes wrong from here on
    let mut output = args.output.as_deref().map(AnswersFile::create).transpose()?;
    let mut scores = Scores { examples: examples.len(), file: FileScores::of(dataset.report()), ..Scores::default() };
    if wants(Metric::Loss) {
        let mut counting = Counting::new("loss");
        let batches = batches_of_rows(&examples, args.batch_size);
        let rows = token_nll(&ready.device, &ready.model, &batches, &mut |done| {
            counting.show(done, examples.len());
            !signal::interrupted()
        });
        counting.finish();
        let rows = rows?;
        check_finite(&rows, &examples, dataset.path(), ready.device.precision())?;
        let (nll, tokens) = total(&rows);
        scores.nll = Some(nll / tokens.max(1) as f64);
        scores.perplexity = scores.nll.map(f64::exp);
        scores.supervised_tokens = Some(tokens);
        scores.token_nll = args.per_token.then_some(rows);
    }
    if wants(Metric::ExactMatch) {
        let mut exact = Exact::of(&all);
        exact_notes(&exact, args.max_new_tokens).iter().for_each(|note| super::tell(note));
        let right = exact_match(&ready, &args, &judge, &stop, &all.asked, output.as_mut())?;
        exact.exact_match = (!all.asked.is_empty()).then(|| right as f64 / all.asked.len() as f64);
        scores.exact = Some(exact);
    }
    if args.json {
        let line = serde_json::to_string(&scores).map_err(|e| Error::invalid("--json", e.to_string()))?;
        super::print(&format!("{line}\n"))
    } else {
        super::print(&table(&scores))
    }
}

/// How answers are judged.
fn judge(args: &EvalArgs) -> Result<Judge> {
    let only = [
        ("--answer-regex", args.answer_regex.is_some()),
        ("--stop", !args.stop.is_empty()),
        ("--output", args.output.is_some()),
    ];
    if let Some((option, _)) = only.iter().find(|o| o.1).filter(|_| !args.metric.contains(&Metric::ExactMatch)) {
        return Err(Error::invalid(*option, "is about answers; add --metric exact-match").as_usage());
    }
    Judge::new(args.answer_regex.as_deref(), args.stop.clone())
}

/// Does the smallest and the largest of what comes: kernels go by sizes.
fn rehearse(ready: &Ready, args: &EvalArgs, examples: &[ExampleRef<'_>], asked: &[Asked<'_>]) -> Result<()> {
    if args.metric.contains(&Metric::Loss) {
        for rows in smallest_and_largest(examples, args.batch_size, |e| e.ids.len()) {
            token_nll(&ready.device, &ready.model, &batches_of_rows(&rows, args.batch_size), &mut |_| true)?;
        }
    }
    if args.metric.contains(&Metric::ExactMatch) {
        let with = answerer(ready, None, &[], REHEARSED);
        for some in smallest_and_largest(asked, args.batch_size, |a| a.answer.prompt.len()) {
            give_answers(&with, &Judge::default(), &[&some], &mut |_, _| Ok(()), &mut |_| true)?;
        }
    }
    Ok(())
}

fn answerer<'a>(
    ready: &'a Ready,
    tokenizer: Option<&'a Tokenizer>,
    stop: &'a [u32],
    max_new_tokens: usize,
) -> Answerer<'a> {
    Answerer { device: &ready.device, model: &ready.model, tokenizer, stop, max_new_tokens }
}

/// How many of `asked` are answered rightly.
fn exact_match(
    ready: &Ready,
    args: &EvalArgs,
    judge: &Judge,
    stop: &[u32],
    asked: &[Asked<'_>],
    mut output: Option<&mut AnswersFile>,
) -> Result<usize> {
    let tokenizer = ready.tokenizer.as_ref();
    let with = answerer(ready, tokenizer, stop, args.max_new_tokens);
    let mut counting = Counting::new("exact match");
    let mut each = |asked: &Asked<'_>, verdict: &Verdict| match &mut output {
        Some(output) => output.put(asked, verdict, tokenizer),
        None => Ok(()),
    };
    let batches: Vec<_> = asked.chunks(args.batch_size).collect();
    let right = give_answers(&with, judge, &batches, &mut each, &mut |done| {
        counting.show(done, asked.len());
        !signal::interrupted()
    });
    counting.finish();
    right
}

/// The file of `--output`: a line an answer, there as soon as the answer is.
struct AnswersFile {
    path: PathBuf,
    file: OutFile,
}

impl AnswersFile {
    /// Refuses a name that is taken, also by a link that leads nowhere.
    fn check(path: &Path) -> Result<()> {
        match path.symlink_metadata() {
            Ok(_) => {
                Err(Error::file(path, "--output", "is there already; give a new file, or remove this one").as_usage())
            }
            Err(_) => Ok(()),
        }
    }

    fn create(path: &Path) -> Result<AnswersFile> {
        AnswersFile::check(path)?;
        Ok(AnswersFile { path: path.to_path_buf(), file: OutFile::create(path)? })
    }

    fn put(&mut self, asked: &Asked<'_>, verdict: &Verdict, tokenizer: Option<&Tokenizer>) -> Result<()> {
        let prompt = tokenizer.map(|t| t.decode(asked.answer.prompt, false)).transpose()?;
        let line = serde_json::json!({
            "line": asked.line, "answer": asked.turn, "prompt": prompt, "expected": verdict.expected,
            "generated": verdict.given, "wanted": verdict.wanted, "found": verdict.found, "match": verdict.is_right,
        });
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io(&self.path))
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

/// What is not compared, a line each.
fn exact_notes(exact: &Exact, max_new_tokens: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let answers = |n: usize| if n == 1 { "1 answer is".to_owned() } else { format!("{n} answers are") };
    if exact.answers_cut > 0 {
        notes
            .push(format!("warning: {} cut by --seq-len and not compared for exact match", answers(exact.answers_cut)));
    }
    if exact.answers_unmatched > 0 {
        let n = answers(exact.answers_unmatched);
        notes.push(format!("warning: {n} without what --answer-regex looks for, and not compared for exact match"));
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
        let not = exact.answers_cut + exact.answers_too_long + exact.answers_unmatched;
        let turns =
            if exact.answers + not > s.examples { ", every turn behind the row's own earlier ones" } else { "" };
        let left_out =
            if not > 0 { format!("; {not} cut, too long or without a match, not compared") } else { String::new() };
        text += &format!("answers compared   {}{turns}{left_out}\n", exact.answers);
        text += &match exact.exact_match {
            Some(share) => format!("exact match        {:.2} %\n", 100.0 * share),
            None => "exact match        none: no answer is whole\n".to_owned(),
        };
    }
    text
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
