//! `rugosa eval`: loss and exact match on a file of rows.

use super::model::{REHEARSED, Ready, Source};
use crate::autograd::Tape;
use crate::autograd::ops::head_nll;
use crate::cli::args::{EvalArgs, Metric};
use crate::cli::signal;
use crate::data::{Batch, Dataset, ExampleRef, Tokenizer};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::generate::{Request, Sampling, generate};
use crate::nn::DeviceBatch;
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
    /// Share of rows whose answer is generated word for word, blanks at both ends aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    pub examples: usize,
}

pub fn run(args: EvalArgs) -> Result<()> {
    signal::install()?;
    let wants = |m| args.metric.contains(&m);
    let room = if wants(Metric::ExactMatch) { args.max_new_tokens } else { 0 };
    let source = Source::open(&args.model)?;
    let options = args.rows.data_options();
    let dataset = Dataset::open(&args.rows.data, &options, source.tokenizer.as_ref(), source.config().vocab_size)?;
    dataset.notes().iter().for_each(|note| super::tell(note));
    let examples: Vec<ExampleRef<'_>> = dataset.examples().take(args.limit.unwrap_or(usize::MAX)).collect();
    let ready = source.ready(args.rows.seq_len.saturating_add(room), |ready| {
        // the smallest and the largest of what comes: kernels go by sizes
        let by = |size: fn(&ExampleRef<'_>) -> usize| {
            let mut sorted = examples.clone();
            sorted.sort_by_key(size);
            let batch = args.batch_size.min(sorted.len());
            [sorted[..batch].to_vec(), sorted[sorted.len() - batch..].to_vec()]
        };
        if wants(Metric::Loss) {
            by(|e| e.ids.len()).iter().try_for_each(|rows| token_nll(ready, rows, args.batch_size).map(drop))?;
        }
        if wants(Metric::ExactMatch) {
            let answer = |rows: &Vec<_>| exact_match(ready, None, rows, args.batch_size, REHEARSED).map(drop);
            by(|e| e.prompt_len()).iter().try_for_each(answer)?;
        }
        Ok(())
    })?;
    let positions = ready.model.rope.positions();
    if let Some(long) = examples.iter().find(|e| e.ids.len() > positions) {
        let reason =
            format!("the row has {} tokens, over the model's {positions} positions; lower --seq-len", long.ids.len());
        return Err(Error::row(dataset.path(), long.line, reason));
    }
    let mut scores = Scores { examples: examples.len(), ..Scores::default() };
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
        let matched = exact_match(&ready, ready.tokenizer.as_ref(), &examples, args.batch_size, args.max_new_tokens)?;
        scores.exact_match = Some(matched as f64 / examples.len().max(1) as f64);
    }
    if args.json {
        let line = serde_json::to_string(&scores).map_err(|e| Error::invalid("--json", e.to_string()))?;
        super::print(&format!("{line}\n"))
    } else {
        super::print(&table(&scores))
    }
}

fn table(s: &Scores) -> String {
    let mut text = format!("examples           {}\n", s.examples);
    if let (Some(nll), Some(ppl), Some(tokens)) = (s.nll, s.perplexity, s.supervised_tokens) {
        text += &format!("supervised tokens  {tokens}\nnll                {nll:.6}\nperplexity         {ppl:.4}\n");
    }
    if let Some(em) = s.exact_match {
        text += &format!("exact match        {:.2} %\n", 100.0 * em);
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

/// Rows whose answer the model gives word for word from their prompt. An answer is the supervised tokens of the first
/// answer in a row, up to what ends it.
pub fn exact_match(
    ready: &Ready,
    tokenizer: Option<&Tokenizer>,
    examples: &[ExampleRef<'_>],
    batch_size: usize,
    max_new_tokens: usize,
) -> Result<usize> {
    let stop = ready.stop_tokens()?;
    let request = Request { max_new_tokens, stop: &stop, sampling: Sampling::GREEDY };
    // rows of like length together: a batch takes as long as its longest
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&i| examples[i].prompt_len());
    let mut matched = 0;
    for rows in order.chunks(batch_size) {
        let prompts: Vec<Vec<u32>> =
            rows.iter().map(|&i| examples[i].ids[..examples[i].prompt_len().max(1)].to_vec()).collect();
        let answers = generate(&ready.device, &ready.model, &prompts, &request, |_, _| !signal::interrupted())?;
        if signal::interrupted() {
            return Err(Error::Interrupted);
        }
        for (&i, answer) in rows.iter().zip(&answers) {
            matched += usize::from(same(tokenizer, answer, &expected(&examples[i], &stop))?);
        }
    }
    Ok(matched)
}

/// The tokens of a row's first answer, without what ends it.
fn expected(example: &ExampleRef<'_>, stop: &[u32]) -> Vec<u32> {
    let start = example.prompt_len();
    let learnt = example.labels[start.min(example.labels.len())..].iter().take_while(|l| **l >= 0).count();
    let answer = &example.ids[start..start + learnt];
    answer.iter().copied().take_while(|t| !stop.contains(t)).collect()
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
    fn the_answer_is_the_first_run_of_supervised_tokens() {
        let ids = [1, 2, 3, 4, 9, 5, 6];
        let labels = [-100, -100, 3, 4, 9, -100, 6];
        let example = ExampleRef { ids: &ids, labels: &labels, line: 1 };
        assert_eq!(expected(&example, &[9]), [3, 4]);
        assert_eq!(expected(&example, &[]), [3, 4, 9]);
    }
}
