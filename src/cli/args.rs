//! The arguments of `rugosa`. Wrong usage ends the process with code 2 and one line.

mod bench;
mod chat;
mod examples;
mod export;
mod merge;
mod tools;
mod watching;
mod wrong;

pub use chat::{ChatArgs, SamplingArgs};
pub use tools::{CompletionsArgs, DoctorArgs, Shell};

pub use bench::{Bench, BenchArgs, BenchKernelsArgs, BenchStepArgs, JsonArgs, WeightsOption};
pub use merge::{MergeArgs, QuantizeArgs};

pub use export::{ExportArgs, ExportTarget};
pub use watching::{ReportArgs, RunsArgs};

use crate::data::DataOptions;
use crate::env;
use crate::error::{Error, Result};
use crate::quant::LoadFormat;
use crate::train::config::{
    DataFormat, EmptyRowsOption, PartialConfig, PrecisionOption, PromptFormatOption, TooLong, TrainConfig, TrainTurns,
    default, defaults,
};
use crate::train::folder::new_name;
use crate::train::output::CONFIG_FILE;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Fine-tune language models with RoSA: low-rank and sparse adapters over frozen weights, on any GPU
#[derive(Debug, Parser)]
#[command(name = "rugosa", version, max_term_width = 120)]
pub struct Cli {
    /// Say nothing on standard error but errors
    #[arg(long, global = true, display_order = 1000)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Results go to standard output, everything else to standard error.\n\
    Exit codes: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a model
    Train(Box<TrainArgs>),
    /// Say how much memory a run would take, and what would make it fit
    Plan(Box<PlanArgs>),
    /// Score a model, with or without an adapter, on rows
    Eval(EvalArgs),
    /// Show a run, or several, as a page: curves, memory, masks, samples
    Report(ReportArgs),
    /// List the runs in a folder
    Runs(RunsArgs),
    /// Continue a text, or answer a message
    Generate(GenerateArgs),
    /// Talk with a model, turn by turn
    Chat(ChatArgs),
    /// Write a model with an adapter added to its weights, as a folder or a GGUF file
    Merge(Box<MergeArgs>),
    /// Write a model in another format
    Quantize(QuantizeArgs),
    /// Write an adapter for PEFT, the original RoSA code or llama.cpp
    Export(ExportArgs),
    /// Show rows as the model will see them, supervised tokens marked
    Preview(PreviewArgs),
    /// List the devices to compute on
    Devices(DevicesArgs),
    /// Check every kernel on a device against f64 on the CPU
    Selftest(SelftestArgs),
    /// Measure speeds on a device
    Bench(BenchArgs),
    /// Teach the built-in model a task, with numbers from before and after
    Demo(DemoArgs),
    /// Say what this machine computes on, what would be fast on it and what not, and what is in the way
    Doctor(DoctorArgs),
    /// Print what completes commands and options in a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

/// `rugosa train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Take options from this file, in TOML with the names of the flags written with _; flags win
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Go on with the run in --out from its last saved state
    #[arg(long, help_heading = "Run")]
    pub resume: bool,
    #[command(flatten)]
    pub options: PartialConfig,
    #[command(flatten)]
    pub negations: Negations,
}

/// The flags that switch off what is on unless told otherwise.
#[derive(Clone, Copy, Debug, Args)]
pub struct Negations {
    /// Go on with A, B and the optimiser's state once the masks are built
    #[arg(long, conflicts_with = "restart", help_heading = "Masks")]
    pub no_restart: bool,
    /// One row a sequence
    #[arg(long, conflicts_with = "packing", help_heading = "Batches")]
    pub no_packing: bool,
    /// Take the rows in the order of the file
    #[arg(long, conflicts_with = "shuffle", help_heading = "Batches")]
    pub no_shuffle: bool,
}

impl TrainArgs {
    /// The configuration that these flags, the file of `--config` and the defaults give. `--resume` without `--config` starts
    /// from the `config.toml` of the run folder.
    ///
    /// # Errors
    /// Those of [`PartialConfig::from_toml`] and [`TrainConfig::resolve`].
    pub fn resolve(self) -> Result<TrainConfig> {
        let resume = self.resume;
        let (file, mut flags) = self.sources()?;
        let file = match (file, &flags.out) {
            (Some(file), _) => file,
            (None, Some(out)) if resume => PartialConfig::from_toml(&config_of_run(out)?)?,
            (None, None) if resume => {
                return Err(Error::invalid("--resume", "needs --out DIR, the folder of the run").as_usage());
            }
            (None, _) => PartialConfig::default(),
        };
        if let (None, None, Some(data)) = (&flags.out, &file.out, flags.data.as_ref().or(file.data.as_ref())) {
            flags.out = Some(new_name(data));
        }
        TrainConfig::resolve(file, flags).map_err(Error::as_usage)
    }

    /// What the file of `--config` says, if one is given, and what the flags say.
    fn sources(self) -> Result<(Option<PartialConfig>, PartialConfig)> {
        let mut flags = self.options;
        let off = |flag: bool, option: &mut Option<bool>| {
            if flag {
                *option = Some(false);
            }
        };
        off(self.negations.no_restart, &mut flags.restart);
        off(self.negations.no_packing, &mut flags.packing);
        off(self.negations.no_shuffle, &mut flags.shuffle);
        Ok((self.config.as_deref().map(PartialConfig::from_toml).transpose()?, flags))
    }
}

/// `rugosa plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Take options from this file, as `rugosa train` does
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub options: PartialConfig,
    #[command(flatten)]
    pub negations: Negations,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl PlanArgs {
    /// The configuration of the run, and whether it names rows: a plan needs none, nor a folder.
    ///
    /// # Errors
    /// As [`TrainArgs::resolve`].
    pub fn resolve(self) -> Result<(TrainConfig, bool)> {
        let PlanArgs { config, options, negations, .. } = self;
        let (file, mut flags) = TrainArgs { config, resume: false, options, negations }.sources()?;
        let file = file.unwrap_or_default();
        let has_rows = flags.data.is_some() || file.data.is_some();
        flags.out = flags.out.or(Some(PathBuf::from("-")));
        if !has_rows {
            flags.data = Some(PathBuf::from("-"));
        }
        Ok((TrainConfig::resolve(file, flags).map_err(Error::as_usage)?, has_rows))
    }
}

/// The `config.toml` of the run in `out`.
fn config_of_run(out: &Path) -> Result<PathBuf> {
    let path = out.join(CONFIG_FILE);
    if path.exists() {
        return Ok(path);
    }
    Err(Error::file(out, "--resume", format!("there is no run here, {CONFIG_FILE} is missing; leave --resume out")))
}

/// A model and what is put on it.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// The model: a Hugging Face folder, a GGUF file, or a name on the Hub: hf:org/name, hf:org/name/file.gguf
    #[arg(long, value_name = "DIR|FILE.gguf|hf:NAME")]
    pub model: PathBuf,
    /// An adapter for it: a folder that `rugosa train` wrote, or one of PEFT's
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Quantise the matrices of the layers on their way to the device; embedding, head and norms stay as they are
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub quantize: Option<LoadFormat>,
    /// What the operands of products are rounded to
    #[arg(long, value_enum, default_value_t = PrecisionOption::F32)]
    pub precision: PrecisionOption,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Where to compute.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// Device to compute on: its index or a part of its name, see `rugosa devices` [default: $RUGOSA_DEVICE, or the best]
    #[arg(long, value_name = "INDEX|NAME")]
    pub device: Option<String>,
}

/// Rows and how to read them; as in training.
#[derive(Clone, Debug, Args)]
pub struct RowArgs {
    /// Rows: JSON lines, a JSON array, CSV or Parquet; a file, one on the Hub as hf:org/name/file.jsonl, or several: a.jsonl,b.csv
    #[arg(long, value_name = "FILE|hf:NAME,…")]
    pub data: PathBuf,
    /// What the rows look like
    #[arg(long, value_enum, default_value_t = default::data_format())]
    pub data_format: DataFormat,
    /// Key of the prompt in prompt/response rows
    #[arg(long, value_name = "KEY", default_value_t = default::prompt_field())]
    pub prompt_field: String,
    /// Key of the response in prompt/response rows
    #[arg(long, value_name = "KEY", default_value_t = default::response_field())]
    pub response_field: String,
    /// How a prompt and its response are put: through the model's chat template, raw, or (auto) by whether there is one
    #[arg(long, value_enum, default_value_t = default::prompt_format())]
    pub prompt_format: PromptFormatOption,
    /// Text between a raw prompt and its response where the row has no blank there; part of the response
    #[arg(long, value_name = "TEXT", default_value_t = default::separator())]
    pub separator: String,
    /// What to do with a row that has no answer
    #[arg(long, value_enum, default_value_t = default::empty_rows())]
    pub empty_rows: EmptyRowsOption,
    /// Tokens of a sequence, at most
    #[arg(long, value_name = "TOKENS", default_value_t = default::seq_len(), value_parser = at_least::<2>)]
    pub seq_len: usize,
    /// Put a BOS before the response of a prompt and response as well
    #[arg(long)]
    pub bos_before_response: bool,
    /// What to do with a row of more tokens
    #[arg(long, value_enum, default_value_t = default::too_long())]
    pub too_long: TooLong,
    /// The assistant's turns of a conversation that are learnt
    #[arg(long, value_enum, default_value_t = default::train_on())]
    pub train_on: TrainTurns,
}

impl RowArgs {
    /// How rows are read, in the order of the file, one in a sequence.
    pub fn data_options(&self) -> DataOptions {
        DataOptions {
            kind: self.data_format.kind(),
            prompt_field: self.prompt_field.clone(),
            response_field: self.response_field.clone(),
            prompt_format: self.prompt_format.into(),
            separator: self.separator.clone(),
            empty_rows: self.empty_rows.into(),
            seq_len: self.seq_len,
            bos_before_response: self.bos_before_response,
            packing: false,
            truncate: self.too_long.into(),
            train_on: self.train_on.into(),
            shuffle: false,
            seed: 0,
            limit: None,
            now: None,
        }
    }
}

/// What `rugosa eval` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Mean negative log-likelihood of the supervised tokens, in nats, and perplexity
    Loss,
    /// Share of the rows whose greedy answer equals the response
    ExactMatch,
}

/// `rugosa eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub rows: RowArgs,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "loss")]
    pub metric: Vec<Metric>,
    /// Rows that are computed together
    #[arg(long, value_name = "ROWS", default_value_t = 8, value_parser = at_least::<1>)]
    pub batch_size: usize,
    /// Tokens of an answer, at most, for exact-match
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least::<1>)]
    pub max_new_tokens: usize,
    /// Take only the first N rows
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub limit: Option<usize>,
    /// For exact-match, compare what this expression finds in an answer instead of all of it: the first group of the last
    /// match; '#### (.+)' for GSM8K's. Rows in whose answer it finds nothing are left out
    #[arg(long, value_name = "RE")]
    pub answer_regex: Option<String>,
    /// For exact-match, end answers before this text too; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// For exact-match, write each answer to this new file as it is given, as a line of JSON
    #[arg(long, value_name = "FILE.jsonl")]
    pub output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// With the negative log-likelihood of every supervised token, a list a row
    #[arg(long, requires = "json")]
    pub per_token: bool,
}

/// `rugosa generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub input: GenerateInput,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Print one JSON object with the new text and its token ids
    #[arg(long)]
    pub json: bool,
}

/// What generation starts from: one of the two.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct GenerateInput {
    /// Continue this text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Answer this message of a user, through the model's chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub chat: Option<String>,
}

/// `rugosa preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// The model whose tokenizer is used: a Hugging Face folder, a GGUF file, or a name on the Hub as hf:org/name
    #[arg(long, value_name = "DIR|FILE.gguf|hf:NAME")]
    pub model: PathBuf,
    #[command(flatten)]
    pub rows: RowArgs,
    /// How many to show, from the first
    #[arg(long = "rows", value_name = "N", default_value_t = 5, value_parser = at_least::<1>)]
    pub count: usize,
    /// Print one JSON object a row: its line, text, token ids and labels
    #[arg(long)]
    pub json: bool,
}

/// `rugosa devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// `rugosa selftest`.
#[derive(Debug, Args)]
pub struct SelftestArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Leave the larger shapes out
    #[arg(long)]
    pub quick: bool,
    /// Start no case after so many seconds, and count those that were left [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    pub limit: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `rugosa demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Seed of the rows and of the run
    #[arg(long, value_name = "SEED", default_value_t = default::seed())]
    pub seed: u64,
    /// Keep the model, the rows and the adapter in this new folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Optimiser steps after the masks
    #[arg(long, value_name = "N", default_value_t = 80, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// Reads the process's arguments. Help and version end the process.
    ///
    /// # Errors
    /// [`Error::Usage`], one line that names the option, the reason and the way out.
    pub fn from_env() -> Result<Cli> {
        Cli::of(std::env::args_os().collect())
    }

    /// As [`Cli::from_env`] with these words, the program's name first.
    ///
    /// # Errors
    /// As [`Cli::from_env`].
    pub fn of(words: Vec<OsString>) -> Result<Cli> {
        let words = with_negative_numbers(words);
        let mut command = command();
        let parsed = command.try_get_matches_from_mut(&words).and_then(|mut m| Cli::from_arg_matches_mut(&mut m));
        parsed.map_err(|error| {
            // help is a result, or what an empty line of arguments asks for
            if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                error.exit()
            }
            wrong::explain(&error, &command, &words)
        })
    }
}

/// The command, with the defaults of training put into its help: clap does not know them, for a flag that is absent must
/// not win over the file.
pub fn command() -> clap::Command {
    let all = Cli::command().after_help(format!("{EXIT_CODES}\n\n{}", env::help()));
    let all = ["train", "plan"].into_iter().fold(all, |all, name| all.mut_subcommand(name, with_defaults));
    examples::add(all)
}

/// A subcommand with the options of training.
fn with_defaults(command: clap::Command) -> clap::Command {
    defaults().into_iter().filter(|(_, value)| !value.is_empty()).fold(command, |command, (option, value)| {
        command.mut_arg(option, |arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} [default: {value}]"))
        })
    })
}

/// `words` with each negative number behind an option as `--option=-1`: clap takes it for an option else, and says so
/// instead of naming the option's range.
fn with_negative_numbers(words: Vec<OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(words.len());
    for word in words {
        let is_negative = word.to_str().is_some_and(|w| w.starts_with('-') && w.parse::<f64>().is_ok());
        match joined.last_mut() {
            Some(option) if is_negative && option.to_str().is_some_and(|o| o.starts_with("--") && !o.contains('=')) => {
                option.push("=");
                option.push(word);
            }
            _ => joined.push(word),
        }
    }
    joined
}

/// A whole number of at least `MIN`.
fn at_least<const MIN: usize>(text: &str) -> Result<usize, String> {
    let n: i128 = text.parse().map_err(|_| "expected a whole number".to_owned())?;
    if n < MIN as i128 {
        return Err(format!("must be at least {MIN}"));
    }
    usize::try_from(n).map_err(|_| format!("is over {}, the most that there can be", usize::MAX))
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
