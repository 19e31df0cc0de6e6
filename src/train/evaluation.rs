//! What a run is evaluated on: rows that it does not learn from, and prompts whose answers somebody wants to read.
//!
//! An evaluation reads the model and changes nothing, so the numbers of the steps around it are those of a run without one. Its
//! batches hold no more tokens than a micro-batch may, and the plan of a run holds them with the rest.

use super::config::TrainConfig;
use crate::data::{ChatTemplate, Dataset, ExampleRef, Message, Tokenizer, split};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::evaluate::{
    Answerer, Asked, Judge, batches_of_tokens, comparable, give_answers, stop_tokens, token_nll, total,
};
use crate::generate::{Flow, Request, Sampling, generate};
use crate::io::checkpoint::Checkpoint;
use crate::io::kind;
use crate::nn::Decoder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Prompts of a file of samples, at most: they are for reading.
const MOST_PROMPTS: usize = 64;
/// Sequences that are generated together, at most.
const MOST_TOGETHER: usize = 64;
/// Tokens that a rehearsal generates: the first comes out of the prompt's pass, later ones one by one.
const REHEARSED: usize = 2;

/// What a run is evaluated on.
#[derive(Default)]
pub struct Evaluation {
    rows: Option<Dataset>,
    prompts: Vec<Prompt>,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Tokens that end an answer.
    stop: Vec<u32>,
}

/// A prompt to be answered.
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

/// A prompt and what the model made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub prompt: String,
    pub text: String,
}

/// What came out of an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// Mean negative log-likelihood of the supervised tokens, in nats, where there are rows; NaN where it is not finite.
    pub loss: Option<f64>,
    pub supervised_tokens: u64,
    /// Share of the answers that are given word for word, where some are compared.
    pub exact_match: Option<f64>,
    pub answers: u64,
    pub samples: Vec<Sample>,
}

/// Told what is done and how much there is, rows, answers and prompts together; whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> bool;

impl Evaluation {
    /// What `config` names, with what is left of `data` to train on. `now` is what chat templates see as the time.
    ///
    /// # Errors
    /// Those of the files; [`Error::Usage`] where the rows cannot be parted.
    pub fn open(
        config: &TrainConfig,
        checkpoint: &Checkpoint,
        tokenizer: Option<Arc<Tokenizer>>,
        data: Option<Dataset>,
        now: i64,
    ) -> Result<(Option<Dataset>, Option<Evaluation>)> {
        if !config.evaluates() {
            return Ok((data, None));
        }
        let (data, mut rows) = match (data, config.eval_split) {
            (Some(data), Some(share)) => split(&data, share, config.seed).map(|(a, b)| (Some(a), Some(b)))?,
            (data, _) => (data, None),
        };
        if let Some(path) = &config.eval_data {
            let options = crate::data::DataOptions { packing: false, now: Some(now), ..config.data_options() };
            rows = Some(Dataset::open(path, &options, tokenizer.as_deref(), checkpoint.config.vocab_size)?);
        }
        let stop = if config.generates() { stop_tokens(&checkpoint.config, tokenizer.as_deref())? } else { Vec::new() };
        let in_chat = data.as_ref().or(rows.as_ref()).is_none_or(|data| data.report().asks_in_chat());
        let prompts = match (&config.sample_prompts, &tokenizer) {
            (None, _) => Vec::new(),
            (Some(path), Some(t)) => read_prompts(path, t, in_chat, now, config.seq_len)?,
            (Some(path), None) => {
                return Err(Error::file(path, "⟨sample_prompts⟩", "the model has no tokenizer; leave it out"));
            }
        };
        Ok((data, Some(Evaluation { rows, prompts, tokenizer, stop })))
    }

    /// The rows.
    pub fn rows(&self) -> Option<&Dataset> {
        self.rows.as_ref()
    }

    /// What is evaluated, in a line.
    pub fn line(&self, config: &TrainConfig) -> String {
        let mut parts = Vec::new();
        if let Some(rows) = &self.rows {
            parts.push(format!("{} rows, {} supervised tokens", rows.len(), rows.report().supervised));
        }
        if !self.prompts.is_empty() {
            parts.push(format!("{} prompts to answer", self.prompts.len()));
        }
        let every = config.eval_steps.unwrap_or(1);
        format!("evaluation: {}, before the first step, every {every} and after the last", parts.join(" and "))
    }

    /// Evaluates `model` as it stands.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `progress` says so; those of the device.
    pub fn run(
        &self,
        config: &TrainConfig,
        device: &Device,
        model: &Decoder,
        progress: Progress<'_>,
    ) -> Result<Evaluated> {
        let sizes = Sizes::of(config);
        let asked = self.asked(config);
        let rows: Vec<ExampleRef<'_>> = self.rows.iter().flat_map(Dataset::examples).collect();
        let of = rows.len() + asked.len() + self.prompts.len();
        let mut all = Evaluated::default();
        if !rows.is_empty() {
            let batches = batches_of_tokens(&rows, sizes.tokens);
            let (sum, tokens) = total(&token_nll(device, model, &batches, &mut |done| progress(done, of))?);
            all.loss = Some(sum / tokens.max(1) as f64).map(|loss| if loss.is_finite() { loss } else { f64::NAN });
            all.supervised_tokens = tokens as u64;
        }
        if !asked.is_empty() {
            let with = Answerer {
                device,
                model,
                tokenizer: self.tokenizer.as_deref(),
                stop: &self.stop,
                max_new_tokens: config.eval_tokens,
            };
            let groups = sizes.groups(&asked, |a| a.answer.prompt.len());
            let mut done = |n: usize| progress(rows.len() + n, of);
            let right = give_answers(&with, &Judge::default(), &groups, &mut |_, _| Ok(()), &mut done);
            if let Some(right) = unless_not_finite(right)? {
                (all.exact_match, all.answers) = (Some(right as f64 / asked.len() as f64), asked.len() as u64);
            }
        }
        let mut done = |n: usize| progress(rows.len() + asked.len() + n, of);
        all.samples = unless_not_finite(self.samples(config, device, model, &mut done))?.unwrap_or_default();
        Ok(all)
    }

    /// The answers to be compared, by the length of their prompts.
    fn asked(&self, config: &TrainConfig) -> Vec<Asked<'_>> {
        let Some(rows) = self.rows.as_ref().filter(|_| config.eval_answers > 0) else { return Vec::new() };
        let mut asked = comparable(rows, config.eval_answers, &self.stop, config.eval_tokens).asked;
        asked.sort_by_key(|a| a.answer.prompt.len());
        asked
    }

    fn samples(
        &self,
        config: &TrainConfig,
        device: &Device,
        model: &Decoder,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Sample>> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(Vec::new()) };
        let request = Request { max_new_tokens: config.eval_tokens, stop: &self.stop, sampling: Sampling::GREEDY };
        let mut samples = Vec::with_capacity(self.prompts.len());
        for group in Sizes::of(config).groups(&self.prompts, |p| p.ids.len()) {
            let prompts: Vec<Vec<u32>> = group.iter().map(|p| p.ids.clone()).collect();
            let mut goes_on = true;
            let texts = generate(device, model, &prompts, &request, |_, _| {
                goes_on &= progress(samples.len());
                goes_on
            })?;
            if !goes_on {
                return Err(Error::Interrupted);
            }
            for (prompt, ids) in group.iter().zip(texts) {
                samples.push(Sample { prompt: prompt.text.clone(), text: tokenizer.decode(&ids, true)? });
            }
        }
        Ok(samples)
    }

    /// Does what stands for all of an evaluation, on a device that only counts: the batches with the most memory and one of each
    /// kind of the others. Without rows those are as large as they can be.
    ///
    /// # Errors
    /// Those of the device.
    pub fn rehearse(&self, config: &TrainConfig, device: &Device, model: &Decoder) -> Result<()> {
        let sizes = Sizes::of(config);
        let (ids, labels) = (vec![0u32; config.seq_len], vec![0i32; config.seq_len]);
        let largest = ExampleRef { ids: &ids, labels: &labels, line: 0 };
        // a shorter --seq-len cuts rows that were read with a longer one
        let cut = |row: ExampleRef<'_>| row.ids.len().min(config.seq_len);
        let rows: Vec<ExampleRef<'_>> = match &self.rows {
            Some(rows) => (rows.examples())
                .map(|row| ExampleRef { ids: &row.ids[..cut(row)], labels: &row.labels[..cut(row)], ..row })
                .collect(),
            None if config.has_eval_rows() => vec![largest; config.batch_size],
            None => Vec::new(),
        };
        let batches = batches_of_tokens(&rows, sizes.tokens);
        let supervised = |rows: &[ExampleRef<'_>]| rows.iter().map(ExampleRef::supervised).sum();
        let size = |rows: &&[ExampleRef<'_>]| (rows.iter().map(|row| row.ids.len()).sum(), supervised(rows));
        for index in representative(batches.iter().map(size)) {
            token_nll(device, model, &batches[index..=index], &mut |_| true)?;
        }
        if config.eval_answers > 0 {
            let lengths: Vec<usize> = match &self.rows {
                Some(_) => self.asked(config).iter().map(|a| a.answer.prompt.len().min(config.seq_len)).collect(),
                None => vec![config.seq_len - 1; config.batch_size],
            };
            sizes.rehearse(&lengths, device, model)?;
        }
        let lengths: Vec<usize> = self.prompts.iter().map(|p| p.ids.len().min(config.seq_len)).collect();
        sizes.rehearse(&lengths, device, model)
    }
}

/// How much is computed at once: what training's own micro-batches may hold.
struct Sizes {
    /// Of a batch whose loss is taken.
    tokens: usize,
    /// Of the sequences that are generated together, prompts and answers.
    generated: usize,
    new_tokens: usize,
}

impl Sizes {
    fn of(config: &TrainConfig) -> Sizes {
        let new_tokens = config.eval_tokens;
        let sequence = config.seq_len.saturating_add(new_tokens);
        Sizes {
            tokens: config.batch_size.saturating_mul(config.seq_len),
            generated: config.batch_size.saturating_mul(sequence),
            new_tokens,
        }
    }

    /// Neighbours in `all` that are generated together: each takes room for the longest prompt and the longest answer.
    fn groups<'a, T>(&self, all: &'a [T], length: impl Fn(&T) -> usize) -> Vec<&'a [T]> {
        let (mut groups, mut first, mut longest) = (Vec::new(), 0, 0);
        for (i, item) in all.iter().enumerate() {
            let longer = longest.max(length(item));
            let count = i + 1 - first;
            if count > 1 && (count > MOST_TOGETHER || count * (longer + self.new_tokens) > self.generated) {
                groups.push(&all[first..i]);
                (first, longest) = (i, length(item));
            } else {
                longest = longer;
            }
        }
        if first < all.len() {
            groups.push(&all[first..]);
        }
        groups
    }

    /// Generates a few tokens behind prompts of these lengths, with memory for all of them.
    fn rehearse(&self, lengths: &[usize], device: &Device, model: &Decoder) -> Result<()> {
        let groups = self.groups(lengths, |n| *n);
        let size = |group: &&[usize]| {
            let longest = group.iter().copied().max().unwrap_or(0);
            (group.iter().sum(), group.len() * (longest + self.new_tokens))
        };
        let most = groups.iter().map(|g| g.len()).max().unwrap_or(0);
        // sequences end one by one, so that ever fewer are left
        let fewer = (1..most).filter(|n| *n <= 8 || n.is_power_of_two()).map(|n| &lengths[..n]);
        for group in representative(groups.iter().map(size)).into_iter().map(|i| groups[i]).chain(fewer) {
            let prompts: Vec<Vec<u32>> = group.iter().map(|n| vec![0; (*n).max(1)]).collect();
            let request = Request { max_new_tokens: self.new_tokens, stop: &[], sampling: Sampling::GREEDY };
            let mut given = 0;
            generate(device, model, &prompts, &request, |_, _| {
                given += 1;
                if given < REHEARSED * prompts.len() { Flow::GoOn } else { Flow::EndAll }
            })?;
        }
        Ok(())
    }
}

/// Which of batches of these sizes, tokens and what else takes memory, stand for all: the largest in either, one of each length,
/// about, and the first of each kind, for kernels are chosen by size and by the powers of two that divide it.
fn representative(sizes: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let (mut most, mut kinds) = ([(0, 0); 2], BTreeMap::new());
    for (i, (tokens, other)) in sizes.enumerate() {
        for (most, size) in most.iter_mut().zip([tokens, other]) {
            if size > most.0 {
                *most = (size, i);
            }
        }
        let octave = tokens.max(1).ilog2();
        kinds.entry((octave as usize, (8 * tokens) >> octave)).or_insert(i);
        let divides = tokens.trailing_zeros().min(6) as usize;
        kinds.entry((usize::MAX - divides, other % 4)).or_insert(i);
    }
    let largest = most.iter().filter(|most| most.0 > 0).map(|most| most.1);
    let mut all: Vec<usize> = kinds.into_values().chain(largest).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Nothing where numbers are not finite: an evaluation says so, and ends no run.
fn unless_not_finite<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Error::NonFinite { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// The prompts of a file: one a line, as it is or as a JSON string.
fn read_prompts(path: &Path, tokenizer: &Tokenizer, chat: bool, now: i64, most: usize) -> Result<Vec<Prompt>> {
    let text = kind::read_text(path)?;
    let template = if chat { Some(ChatTemplate::new(tokenizer)?.at(now)) } else { None };
    let mut prompts = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let text = match line.trim_start().starts_with('"') {
            true => serde_json::from_str(line)
                .map_err(|e| Error::row(path, i + 1, format!("begins as a JSON string and is none: {e}")))?,
            false => line.to_owned(),
        };
        let ids = match &template {
            Some(template) => {
                let turn = Message { role: "user".into(), content: text.clone() };
                tokenizer.encode(&template.render(&[turn], true)?, false)?
            }
            None => tokenizer.encode(&text, true)?,
        };
        if ids.is_empty() || ids.len() > most {
            let reason = format!("has {} tokens; a prompt has at least one, and at most ⟨seq_len⟩ {most}", ids.len());
            return Err(Error::row(path, i + 1, reason));
        }
        prompts.push(Prompt { text, ids });
    }
    match prompts.len() {
        0 => Err(Error::file(path, "prompts", "there are none: write one a line")),
        n if n > MOST_PROMPTS => {
            let reason = format!("there are {n}, and at most {MOST_PROMPTS} are answered; rugosa eval asks for more");
            Err(Error::file(path, "prompts", reason))
        }
        _ => Ok(prompts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_together_has_room_for_its_longest() {
        let sizes = Sizes { tokens: 0, generated: 30, new_tokens: 5 };
        let groups = |lengths: &[usize]| sizes.groups(lengths, |n| *n).iter().map(|g| g.len()).collect::<Vec<_>>();
        assert_eq!(
            groups(&[3, 3, 5, 10, 10, 25, 40]),
            [3, 2, 1, 1],
            "3 × 10, 2 × 15, 1 × 30, and one that is too long"
        );
        assert!(groups(&[]).is_empty());
        let many = Sizes { tokens: 0, generated: 1 << 20, new_tokens: 5 };
        assert_eq!(many.groups(&[1; 130], |n| *n).iter().map(|g| g.len()).collect::<Vec<_>>(), [64, 64, 2]);
    }

    #[test]
    fn the_largest_stand_for_all_and_one_of_each_kind() {
        let sizes = [(100, 7), (64, 90), (101, 3), (3, 3), (100, 7)];
        assert_eq!(representative(sizes.into_iter()), [0, 1, 2, 3]);
        assert!(representative(std::iter::empty()).is_empty());
    }
}
