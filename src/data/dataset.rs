//! A data file, tokenised.

use super::answers::answers;
use super::chat::{ChatTemplate, TrainOn};
use super::files::RowFile;
use super::order::{BatchOptions, Batches, example_order, shuffle_sequences};
use super::pack::pack;
use super::pairs::{Opening, PairFormat, PromptFormat};
use super::report::PrepReport;
use super::rows::{Example, IGNORED, Outcome, Reader, RowKind};
use super::sources::{DataSource, sources};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::io::digest::Digest;
use crate::io::hub::{self, RepoKind};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of rows that are tokenised together.
const CHUNK: usize = 8 << 20;

/// What happens to a row that is longer than a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncate {
    /// Its first tokens are kept; if no learnt one is among them, it is dropped.
    #[default]
    Truncate,
    /// It is dropped.
    Drop,
    /// What stands before the first learnt token is kept, and of the rest the last tokens, as the original does. A row whose
    /// prompt alone fills the sequence is dropped.
    KeepEnd,
}

/// What happens to a row without an answer: one that is empty or null, a conversation without an assistant's words, labels
/// that are all -100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyRows {
    /// It ends the reading.
    #[default]
    Error,
    /// It is left out.
    Skip,
}

/// How a file is read and dealt into sequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// The kind of all rows; `None` looks at each row's fields.
    pub kind: Option<RowKind>,
    /// Field names of prompt and response rows.
    pub prompt_field: String,
    pub response_field: String,
    /// How pairs of a prompt and a response are put.
    pub prompt_format: PromptFormat,
    /// What stands between a raw prompt and its response where the row brings no blank itself; learnt with the response.
    pub separator: String,
    pub empty_rows: EmptyRows,
    /// Tokens of a sequence, at most.
    pub seq_len: usize,
    /// A BOS before the response of a prompt and response too, learnt, as the original has it.
    pub bos_before_response: bool,
    /// Several examples in a sequence, as many as fit.
    pub packing: bool,
    pub truncate: Truncate,
    /// The assistant's turns that are learnt of a conversation.
    pub train_on: TrainOn,
    /// Another order in each epoch, drawn from `seed`; otherwise the file's.
    pub shuffle: bool,
    pub seed: u64,
    /// Rows of each file that are read, from its first; none for all.
    pub limit: Option<usize>,
    /// The time that chat templates see, in seconds since 1970; none for the clock's. A run that goes on has that of its start.
    pub now: Option<i64>,
}

impl Default for DataOptions {
    fn default() -> Self {
        DataOptions {
            kind: None,
            prompt_field: "prompt".into(),
            response_field: "response".into(),
            prompt_format: PromptFormat::Auto,
            separator: " ".into(),
            empty_rows: EmptyRows::Error,
            seq_len: 512,
            bos_before_response: false,
            packing: true,
            truncate: Truncate::Truncate,
            train_on: TrainOn::All,
            shuffle: true,
            seed: 0,
            limit: None,
            now: None,
        }
    }
}

/// One example, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExampleRef<'a> {
    pub ids: &'a [u32],
    /// See [`Example::labels`].
    pub labels: &'a [i32],
    /// Line of the file, from 1.
    pub line: usize,
}

impl ExampleRef<'_> {
    /// Tokens before the first learnt one: the prompt.
    pub fn prompt_len(&self) -> usize {
        self.labels.iter().position(|&l| l != IGNORED).unwrap_or(self.labels.len())
    }

    fn to_owned(self) -> Example {
        Example { ids: self.ids.to_vec(), labels: self.labels.to_vec(), line: self.line }
    }

    /// Learnt tokens.
    pub fn supervised(&self) -> usize {
        self.labels.iter().filter(|&&l| l != IGNORED).count()
    }
}

/// What an example that was cut lost of its answers.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Where in what is left tokens of an answer are missing, if any are.
    at: Option<usize>,
    /// Answers of which nothing is left.
    lost: usize,
}

/// All examples of a file, 8 bytes a token.
pub struct Dataset {
    path: PathBuf,
    ids: Vec<u32>,
    labels: Vec<i32>,
    /// Where each example ends in `ids` and `labels`, and its line.
    ends: Vec<usize>,
    lines: Vec<usize>,
    /// Examples, by index, that lost tokens of answers.
    cut: BTreeMap<usize, Cut>,
    seq_len: usize,
    packing: bool,
    shuffle: bool,
    seed: u64,
    report: PrepReport,
    notes: Vec<String>,
}

/// What turns rows into examples.
fn reader<'a>(
    path: &'a Path,
    options: &'a DataOptions,
    tokenizer: Option<&'a Tokenizer>,
    vocab_size: usize,
) -> Reader<'a> {
    let template = tokenizer.ok_or_else(|| "needs a tokenizer".to_owned());
    let template = template.and_then(|t| ChatTemplate::new(t).map_err(|e| e.to_string()));
    let template = template.map(|t| if let Some(now) = options.now { t.at(now) } else { t });
    let chat = match options.prompt_format {
        PromptFormat::Auto => tokenizer.is_some_and(|t| !t.chat_templates().is_empty()),
        PromptFormat::Chat => true,
        PromptFormat::Raw => false,
    };
    let by_itself = options.prompt_format == PromptFormat::Auto && chat;
    let raw =
        || PairFormat::Raw { separator: options.separator.clone(), bos_before_response: options.bos_before_response };
    Reader {
        path,
        kind: options.kind,
        prompt_field: &options.prompt_field,
        response_field: &options.response_field,
        tokenizer,
        opening: template.as_ref().ok().filter(|_| by_itself).and_then(Opening::of),
        template,
        train_on: options.train_on,
        pairs: if chat { PairFormat::Chat } else { raw() },
        skip_empty: options.empty_rows == EmptyRows::Skip,
        vocab_size,
    }
}

impl Dataset {
    /// Reads and tokenises every row of a file, or of the several that `path` lists ([`sources()`]). `vocab_size` is the model's.
    /// Rows with `input_ids` need no tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`] for the file; [`Error::Row`] for the first row that is wrong; [`Error::File`] for a set without rows
    /// or without one that fits, and for a tokenizer that does not match the model; [`Error::Usage`] for options.
    pub fn open(
        path: &Path,
        options: &DataOptions,
        tokenizer: Option<&Tokenizer>,
        vocab_size: usize,
    ) -> Result<Dataset> {
        Dataset::open_with_stop(path, options, tokenizer, vocab_size, &[])
    }

    /// The same, where [`Dataset::answers_lost`] counts answers as [`answers`] does with these `stop` tokens.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_with_stop(
        path: &Path,
        options: &DataOptions,
        tokenizer: Option<&Tokenizer>,
        vocab_size: usize,
        stop: &[u32],
    ) -> Result<Dataset> {
        if options.seq_len < 2 {
            return Err(Error::invalid("seq_len", "must be at least 2: a token, and the one it predicts").as_usage());
        }
        if options.prompt_field == options.response_field {
            return Err(Error::invalid("prompt_field", "is the same as response_field").as_usage());
        }
        if let Some(tokenizer) = tokenizer {
            tokenizer.check_model(vocab_size)?;
        }
        let sources = sources(path)?;
        let mut reader = reader(&sources[0].path, options, tokenizer, vocab_size);
        let columns = [
            vec![options.prompt_field.as_str(), options.response_field.as_str()],
            vec!["prompt", "completion"],
            vec!["instruction", "output"],
            vec!["text"],
            vec!["messages"],
            vec!["conversations"],
            vec!["input_ids"],
        ];
        let has_template = tokenizer.is_some_and(|t| !t.chat_templates().is_empty());
        let mut set = Dataset {
            path: path.to_path_buf(),
            ids: Vec::new(),
            labels: Vec::new(),
            ends: Vec::new(),
            lines: Vec::new(),
            cut: BTreeMap::new(),
            seq_len: options.seq_len,
            packing: options.packing,
            shuffle: options.shuffle,
            seed: options.seed,
            report: PrepReport { separator: options.separator.clone(), has_template, ..PrepReport::default() },
            notes: Vec::new(),
        };
        let mut taken = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let (first, before) = (set.len(), set.report.rows);
            reader.path = &source.path;
            set.read(&reader, &columns, options, stop)?;
            let rows = set.draw(source, first, (options.seed, index));
            taken.push(format!("{}: {rows} of {} rows", source.path.display(), set.report.rows - before));
        }
        if taken.len() > 1 || sources[0].weight != 1.0 {
            set.notes.push(format!("an epoch has of {}", taken.join(", ")));
        }
        set.notes.extend(reader.template.as_ref().map(ChatTemplate::notes).unwrap_or_default());
        set.finish()
    }

    /// Adds the rows of the reader's file.
    fn read(&mut self, reader: &Reader<'_>, columns: &[Vec<&str>], options: &DataOptions, stop: &[u32]) -> Result<()> {
        let path = &*hub::local(reader.path, RepoKind::Dataset)?;
        let mut file = RowFile::open(path, columns)?;
        let (before, limit) = (self.report.rows, options.limit.unwrap_or(usize::MAX));
        loop {
            let mut chunk = file.take(CHUNK)?;
            chunk.truncate(limit - (self.report.rows - before));
            if chunk.is_empty() {
                break;
            }
            let outcomes: Vec<Result<Outcome>> = chunk.par_iter().map(|row| reader.example(row)).collect();
            for outcome in outcomes {
                self.report.rows += 1;
                match outcome? {
                    Outcome::Read(example, facts) => {
                        self.report.count(example.line, facts);
                        self.add(example, options.truncate, stop);
                    }
                    Outcome::Empty { line } => {
                        self.report.empty += 1;
                        self.report.first_empty.get_or_insert(line);
                    }
                }
            }
        }
        if self.report.rows == before {
            return Err(Error::file(reader.path, "rows", "there are none: the file is empty"));
        }
        Ok(())
    }

    /// Leaves of the examples from `first` on, those of `source`, as many as its weight says; how many that are.
    fn draw(&mut self, source: &DataSource, first: usize, (seed, index): (u64, usize)) -> usize {
        let count = self.len() - first;
        if source.weight == 1.0 {
            return count;
        }
        let examples: Vec<Example> = (first..self.len()).map(|i| self.example(i).to_owned()).collect();
        let cuts = self.cut.split_off(&first);
        self.ends.truncate(first);
        self.lines.truncate(first);
        let kept = self.ends.last().copied().unwrap_or(0);
        self.ids.truncate(kept);
        self.labels.truncate(kept);
        let drawn = source.draw(count, seed, index);
        for &i in &drawn {
            if let Some(cut) = cuts.get(&(first + i)) {
                self.cut.insert(self.ends.len(), *cut);
            }
            self.push(examples[i].clone());
        }
        drawn.len()
    }

    fn push(&mut self, mut example: Example) {
        self.ids.append(&mut example.ids);
        self.labels.append(&mut example.labels);
        self.ends.push(self.ids.len());
        self.lines.push(example.line);
    }

    fn add(&mut self, mut example: Example, truncate: Truncate, stop: &[u32]) {
        let n = self.seq_len;
        self.report.longest = self.report.longest.max(example.ids.len());
        let learnt = |labels: &[i32]| labels.iter().filter(|&&l| l != IGNORED).count();
        if example.ids.len() > n {
            let all = learnt(&example.labels);
            let said = count_answers(&example, stop);
            let missing = cut(&mut example, n, truncate);
            let kept = learnt(&example.labels);
            let dropped = truncate == Truncate::Drop || kept == 0;
            self.report.count_cut(kept < all, dropped);
            if dropped {
                return;
            }
            let lost = said.saturating_sub(count_answers(&example, stop));
            if missing.is_some() || lost > 0 {
                self.cut.insert(self.ends.len(), Cut { at: missing, lost });
            }
        }
        self.push(example);
    }

    /// The examples of these indices, in this order, as a set of its own.
    pub(super) fn of_indices(&self, indices: &[usize]) -> Result<Dataset> {
        let mut set = Dataset {
            path: self.path.clone(),
            ids: Vec::new(),
            labels: Vec::new(),
            ends: Vec::with_capacity(indices.len()),
            lines: Vec::with_capacity(indices.len()),
            cut: BTreeMap::new(),
            report: PrepReport { tokens: 0, supervised: 0, ..self.report.clone() },
            notes: Vec::new(),
            ..*self
        };
        for (new, &index) in indices.iter().enumerate() {
            let example = self.example(index);
            set.ids.extend_from_slice(example.ids);
            set.labels.extend_from_slice(example.labels);
            set.ends.push(set.ids.len());
            set.lines.push(example.line);
            set.report.tokens += example.ids.len();
            set.report.supervised += example.supervised();
            set.cut.extend(self.cut.get(&index).map(|cut| (new, *cut)));
        }
        set.finish()
    }

    fn finish(mut self) -> Result<Dataset> {
        if self.ends.is_empty() {
            let (rows, empty) = (self.report.rows, self.report.empty);
            let reason = if rows == empty {
                format!("none of the {rows} is left: none has an answer")
            } else {
                let others = if empty == 0 { "all".to_owned() } else { format!("{empty} have no answer, the others") };
                format!(
                    "none of the {rows} is left: {others} are longer than {} tokens before the first learnt one; \
                     ⟨seq_len⟩ {} keeps all",
                    self.seq_len, self.report.longest
                )
            };
            return Err(Error::file(&self.path, "rows", reason));
        }
        if u32::try_from(self.ends.len()).is_err() {
            return Err(Error::file(&self.path, "rows", "there are more than 4 thousand million; split the file"));
        }
        self.report.tokens = self.ids.len();
        self.report.supervised = self.labels.iter().filter(|&&l| l != IGNORED).count();
        self.report.sequences = self.plan(0).len();
        self.report.packing_efficiency = self.report.tokens as f64 / (self.report.sequences * self.seq_len) as f64;
        Ok(self)
    }

    /// What became of the rows.
    pub fn report(&self) -> &PrepReport {
        &self.report
    }

    /// Where in example `index` tokens of an answer are missing, if any are.
    pub fn answer_cut_at(&self, index: usize) -> Option<usize> {
        self.cut.get(&index)?.at
    }

    /// Answers of example `index`'s row of which no token is left.
    pub fn answers_lost(&self, index: usize) -> usize {
        self.cut.get(&index).map_or(0, |cut| cut.lost)
    }

    /// What a reader should know of the rows, a line each: how they are put, what is cut, left out, not used or not learnt.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.report.notes(self.seq_len);
        notes.extend(self.notes.iter().cloned());
        notes
    }

    /// A digest of all tokens and labels in their order: another one means other data, or another tokenizer.
    pub fn digest(&self) -> String {
        let mut digest = Digest::default();
        digest.update(bytemuck::cast_slice(&self.ids));
        digest.update(bytemuck::cast_slice(&self.labels));
        self.ends.iter().for_each(|end| digest.update(&(*end as u64).to_le_bytes()));
        digest.finish()
    }

    /// The file, or the list of files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens of a sequence, at most.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Tokens of a sequence of any epoch, at most.
    pub fn longest_sequence(&self) -> usize {
        let longest = self.examples().map(|e| e.ids.len()).max().unwrap_or(0);
        if self.packing { self.seq_len } else { longest }
    }

    /// Examples.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Never true: a set without examples is an error.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Example `index`, counted without dropped rows.
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`].
    pub fn example(&self, index: usize) -> ExampleRef<'_> {
        let range = if index == 0 { 0 } else { self.ends[index - 1] }..self.ends[index];
        ExampleRef { ids: &self.ids[range.clone()], labels: &self.labels[range], line: self.lines[index] }
    }

    /// All examples in the file's order.
    pub fn examples(&self) -> impl ExactSizeIterator<Item = ExampleRef<'_>> {
        (0..self.len()).map(|i| self.example(i))
    }

    /// The stream of batches, from its start.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch of nothing.
    pub fn batches(&self, options: &BatchOptions) -> Result<Batches<'_>> {
        Batches::new(self, *options)
    }

    /// The examples of each sequence of an epoch; depends on the set, the seed and the epoch alone.
    pub(super) fn plan(&self, epoch: u64) -> Vec<Vec<u32>> {
        let order = example_order(self.len(), self.seed, epoch, self.shuffle);
        if !self.packing {
            return order.into_iter().map(|i| vec![i]).collect();
        }
        let mut sequences = pack(&order, |i| self.example(i as usize).ids.len(), self.seq_len);
        if self.shuffle {
            shuffle_sequences(&mut sequences, self.seed, epoch);
        }
        sequences
    }

    /// Whether every epoch has the same number of sequences.
    pub(super) fn epochs_are_alike(&self) -> bool {
        !(self.packing && self.shuffle)
    }
}

fn count_answers(example: &Example, stop: &[u32]) -> usize {
    answers(ExampleRef { ids: &example.ids, labels: &example.labels, line: example.line }, None, stop).len()
}

/// Leaves `seq_len` tokens of an example that has more. Where among them tokens of an answer are missing, if any are.
fn cut(example: &mut Example, seq_len: usize, truncate: Truncate) -> Option<usize> {
    let learnt = |at: usize| example.labels[at] != IGNORED;
    let mut missing = (learnt(seq_len - 1) && learnt(seq_len)).then_some(seq_len);
    if truncate == Truncate::KeepEnd {
        let prompt = example.labels.iter().position(|&l| l != IGNORED).unwrap_or(seq_len).min(seq_len);
        let end_starts = example.ids.len() - (seq_len - prompt);
        example.ids.drain(prompt..end_starts);
        example.labels.drain(prompt..end_starts);
        missing = Some(prompt);
    }
    example.ids.truncate(seq_len);
    example.labels.truncate(seq_len);
    missing
}
