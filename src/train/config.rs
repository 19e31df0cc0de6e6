//! The configuration of a training run: every option, its default, its flag and its key in a file, in one table.
//!
//! [`PartialConfig`] is what a file or the command line says; [`TrainConfig`] is what holds after flags, file and defaults
//! are laid over each other and checked by [`TrainConfig::resolve`]. Both come out of the `options!` table below, so a
//! new option is one entry there, and one in `validate.rs` if its value can be wrong.

mod choices;
mod derive;
mod paper;
mod validate;

pub use choices::{
    AdapterDtype, ByteSize, Checkpointing, DataFormat, EmptyRowsOption, Keep, LossNormalisation, MaskMode, Method,
    PrecisionOption, PromptFormatOption, TooLong, TrainTurns,
};
pub use validate::tune_seconds;

use crate::adapters::targets::{PerModule, TargetModules, TargetRules};
use crate::data::{BatchOptions, DataOptions, sources};
use crate::error::{Error, Result};
use crate::io::hub::{HubName, RepoKind};
use crate::io::kind;
use crate::optim::schedule::LrSchedule;
use crate::quant::LoadFormat;
use crate::train::phase::Schedule;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What `--tune` alone says.
pub const TUNE_SECONDS: &str = "20";

/// Where `mask_only` puts the masks in the run folder.
pub const MASKS_FILE: &str = "masks.safetensors";

/// Declares [`PartialConfig`] and [`TrainConfig`]. An entry is a doc comment (the help text), `#[arg]` settings for clap, and
/// `name: Type`, with `= default` where there is one.
macro_rules! options {
    (
        required { $( $(#[doc = $rdoc:literal])* #[arg($($rarg:tt)*)] $r:ident: $rt:ty, )* }
        with_default { $( $(#[doc = $ddoc:literal])* #[arg($($darg:tt)*)] $d:ident: $dt:ty = $dv:expr, )* }
        optional { $( $(#[doc = $odoc:literal])* #[arg($($oarg:tt)*)] $o:ident: $ot:ty, )* }
    ) => {
        /// Options as one source gives them: those of a file ([`PartialConfig::from_toml`]) or of the command line.
        #[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
        pub struct PartialConfig {
            $( $(#[doc = $rdoc])* #[cfg_attr(feature = "cli", arg(long, $($rarg)*))] pub $r: Option<$rt>, )*
            $( $(#[doc = $ddoc])* #[cfg_attr(feature = "cli", arg(long, $($darg)*))] pub $d: Option<$dt>, )*
            $( $(#[doc = $odoc])* #[cfg_attr(feature = "cli", arg(long, $($oarg)*))] pub $o: Option<$ot>, )*
        }

        /// A checked configuration. Relative paths are relative to the working folder of the process; `config.toml` in a run folder
        /// has absolute ones ([`TrainConfig::located`]).
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct TrainConfig {
            $( $(#[doc = $rdoc])* pub $r: $rt, )*
            $( $(#[doc = $odoc])* #[serde(skip_serializing_if = "Option::is_none")] pub $o: Option<$ot>, )*
            $( $(#[doc = $ddoc])* pub $d: $dt, )*
        }

        /// Every key, in the order of the table.
        const KEYS: &[&str] = &[$( stringify!($r), )* $( stringify!($d), )* $( stringify!($o), )*];

        impl PartialConfig {
            /// Sets `key`; the error is the reason why `value` does not fit it. `key` must be one of [`KEYS`].
            fn set(&mut self, key: &str, value: toml::Value) -> Result<(), toml::de::Error> {
                match key {
                    $( stringify!($r) => self.$r = Some(value.try_into()?), )*
                    $( stringify!($d) => self.$d = Some(value.try_into()?), )*
                    $( stringify!($o) => self.$o = Some(value.try_into()?), )*
                    _ => return Err(serde::de::Error::custom("unknown key")),
                }
                Ok(())
            }

            /// These options, and those of `fallback` where these say nothing.
            pub fn or(self, fallback: PartialConfig) -> PartialConfig {
                PartialConfig {
                    $( $r: self.$r.or(fallback.$r), )*
                    $( $d: self.$d.or(fallback.$d), )*
                    $( $o: self.$o.or(fallback.$o), )*
                }
            }

            /// Fills in the defaults.
            fn over_defaults(self) -> Result<TrainConfig> {
                Ok(TrainConfig {
                    $( $r: self.$r.ok_or_else(|| validate::missing(stringify!($r)))?, )*
                    $( $d: self.$d.unwrap_or_else(default::$d), )*
                    $( $o: self.$o, )*
                })
            }
        }

        /// `(option, default)` of every option that has one, as text for help.
        pub fn defaults() -> Vec<(&'static str, String)> {
            vec![$( (stringify!($d), default_text(default::$d())), )*]
        }

        /// The default of each option that has one, also for other commands that share the option.
        pub mod default {
            use super::*;

            $( $(#[doc = $ddoc])* pub fn $d() -> $dt { $dv } )*
        }
    };
}

options! {
    required {
        /// Model to start from: a Hugging Face folder, a GGUF file, or a name on the Hub as hf:org/name
        #[arg(value_name = "DIR|FILE.gguf|hf:NAME", help_heading = "Run")]
        model: PathBuf,
        /// Training rows: JSON lines, a JSON array, CSV or Parquet; a file, or one on the Hub as hf:org/name/file.jsonl; several are listed,
        /// each with how often an epoch has its rows if not once: a.jsonl,b.csv:0.3
        #[arg(value_name = "FILE[:WEIGHT]|hf:NAME,…", help_heading = "Run")]
        data: PathBuf,
        /// Folder to create for the adapter, metrics.jsonl and config.toml [default: runs/DATE-NAME, by the day and the name of --data]
        #[arg(value_name = "DIR", help_heading = "Run")]
        out: PathBuf,
    }
    with_default {
        // the method. Rank 8 and no dropout are PEFT's defaults; alpha 16 whatever the rank, density 0.6 %, one mask gradient
        // and a restart are the paper's common setting
        /// All that the paper's experiments set, as they set it: rank 16, density 0.006, alpha 16, dropout 0.05, wl64 with a
        /// restart, adapters and moments in bf16, rates that rise over 20 steps, 1 epoch of 32 single rows a step, a mean of the
        /// rows' means, a second BOS, the end of answers that are too long; other flags win
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Method")]
        like_paper: bool = false,
        /// What trains: low-rank and sparse adapters, one of them, or all weights
        #[arg(value_enum, help_heading = "Method")]
        method: Method = Method::Rosa,
        /// Rank of the low-rank adapters
        #[arg(value_name = "R", help_heading = "Method")]
        rank: usize = 8,
        /// Numerator of the low-rank adapters' scale, alpha/rank
        #[arg(value_name = "ALPHA", help_heading = "Method")]
        alpha: f64 = 16.0,
        /// Scale by alpha/sqrt(rank) instead
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Method")]
        rslora: bool = false,
        /// Probability that an input of the low-rank adapters is dropped in training
        #[arg(value_name = "P", help_heading = "Method")]
        dropout: f64 = 0.0,
        /// Share of each weight's entries that get a sparse value, 0 to 1
        #[arg(value_name = "D", help_heading = "Method")]
        density: f64 = 0.006,
        /// Modules that get an adapter: names or ends of names, * within one part of a name, or all-linear
        #[arg(value_name = "NAME,…", help_heading = "Method")]
        target_modules: TargetModules = TargetModules::default(),
        /// Rank of some modules; the longest match wins
        #[arg(value_name = "NAME=R,…", help_heading = "Method")]
        rank_pattern: PerModule<usize> = PerModule::default(),
        /// Alpha of some modules
        #[arg(value_name = "NAME=ALPHA,…", help_heading = "Method")]
        alpha_pattern: PerModule<f64> = PerModule::default(),
        /// Density of some modules
        #[arg(value_name = "NAME=D,…", help_heading = "Method")]
        density_pattern: PerModule<f64> = PerModule::default(),
        /// What adapters and Adam's moments are rounded to after each step; memory holds f32
        #[arg(value_enum, value_name = "TYPE", help_heading = "Method")]
        adapter_dtype: AdapterDtype = AdapterDtype::F32,
        /// How the micro-batches' gradients make the score of an entry
        #[arg(value_enum, help_heading = "Masks")]
        mask_mode: MaskMode = MaskMode::MeanSquared,
        /// Begin again once the masks are built, as the paper does
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Masks")]
        restart: bool = true,
        /// Stop once the masks are saved, to --save-mask or to masks.safetensors in the run folder
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Masks")]
        mask_only: bool = false,

        /// Memory on the device for the scores that choose the masks, at most: where those of all modules do not fit, the
        /// collecting steps are run once for each group of modules whose scores do; the masks are the same
        #[arg(value_name = "SIZE", help_heading = "Masks")]
        mask_workspace: ByteSize = ByteSize(1 << 30),

        // the optimiser: the paper's rates for its 16-bit runs, its warm-up and its betas, no decay, no clipping
        /// Learning rate of the sparse values, or of all weights with --method full
        #[arg(value_name = "LR", help_heading = "Optimiser")]
        lr: f64 = 2e-4,
        /// Learning rate of the low-rank adapters; with --method lora, --lr alone sets it too
        #[arg(value_name = "LR", help_heading = "Optimiser")]
        lora_lr: f64 = 7e-4,
        /// How both rates move over the T steps of a phase, W of them warm-up
        #[arg(value_enum, help_heading = "Optimiser")]
        lr_schedule: LrSchedule = LrSchedule::Linear,
        /// Decoupled weight decay
        #[arg(value_name = "WD", help_heading = "Optimiser")]
        weight_decay: f64 = 0.0,
        /// Decay of Adam's mean
        #[arg(value_name = "BETA", help_heading = "Optimiser")]
        beta1: f64 = 0.9,
        /// Decay of Adam's mean of squares
        #[arg(value_name = "BETA", help_heading = "Optimiser")]
        beta2: f64 = 0.999,
        /// Added to the root of Adam's mean of squares
        #[arg(value_name = "EPS", help_heading = "Optimiser")]
        eps: f64 = 1e-8,
        /// Clip the gradient to this norm; 0: never
        #[arg(value_name = "NORM", help_heading = "Optimiser")]
        max_grad_norm: f64 = 0.0,

        // batches: one sequence a micro-batch, as in the paper, asks for the least memory and the finest mask scores
        /// Sequences in a micro-batch
        #[arg(value_name = "ROWS", help_heading = "Batches")]
        batch_size: usize = 1,
        /// Divide a step's loss by the supervised tokens of the whole step, or average the micro-batches' means
        #[arg(value_enum, help_heading = "Batches")]
        loss_normalisation: LossNormalisation = LossNormalisation::Tokens,
        /// Tokens of a sequence, at most
        #[arg(value_name = "TOKENS", help_heading = "Batches")]
        seq_len: usize = 512,
        /// Pack several rows into a sequence (--no-packing: one row a sequence)
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Batches")]
        packing: bool = true,
        /// Shuffle the rows, anew for each epoch (--no-shuffle: the order of the file)
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Batches")]
        shuffle: bool = true,

        /// What the rows look like
        #[arg(value_enum, help_heading = "Data")]
        data_format: DataFormat = DataFormat::Auto,
        /// Key of the prompt in prompt/response rows
        #[arg(value_name = "KEY", help_heading = "Data")]
        prompt_field: String = "prompt".into(),
        /// Key of the response in prompt/response rows
        #[arg(value_name = "KEY", help_heading = "Data")]
        response_field: String = "response".into(),
        /// How a prompt and its response are put: through the model's chat template, raw, or (auto) by whether there is one
        #[arg(value_enum, help_heading = "Data")]
        prompt_format: PromptFormatOption = PromptFormatOption::Auto,
        /// Text between a raw prompt and its response where the row has no blank there; learnt with the response
        #[arg(value_name = "TEXT", help_heading = "Data")]
        separator: String = " ".into(),
        /// What to do with a row that has no answer
        #[arg(value_enum, help_heading = "Data")]
        empty_rows: EmptyRowsOption = EmptyRowsOption::Error,
        /// Put a BOS before the response of a prompt and response as well, to be learnt, as the original does
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
        bos_before_response: bool = false,
        /// What to do with a row of more than --seq-len tokens
        #[arg(value_enum, help_heading = "Data")]
        too_long: TooLong = TooLong::Truncate,
        /// The assistant's turns of a conversation that are learnt
        #[arg(value_enum, help_heading = "Data")]
        train_on: TrainTurns = TrainTurns::All,

        /// Rows of the evaluation set whose answers are generated and compared too, from the first; 0: the loss alone
        #[arg(value_name = "ROWS", help_heading = "Evaluation")]
        eval_answers: usize = 0,
        /// Tokens of such an answer, and of a sample, at most
        #[arg(value_name = "TOKENS", help_heading = "Evaluation")]
        eval_tokens: usize = 128,
        /// What the run ends with: the values behind its last step, or those with the lowest evaluation loss
        #[arg(value_enum, help_heading = "Evaluation")]
        keep: Keep = Keep::Last,

        /// Seed of initial values, shuffles, dropout and the split of the rows
        #[arg(value_name = "SEED", help_heading = "Run")]
        seed: u64 = 42,
        /// What the operands of products are rounded to: f32, or f16 on the device's matrix units, with dynamic loss scaling
        #[arg(value_enum, help_heading = "Run")]
        precision: PrecisionOption = PrecisionOption::F32,
        /// Keep all activations (off), only each layer's input (layer), or that of every Nth (N); the rest is computed
        /// again: less memory, a third more work. auto: off where the run fits into the device's memory
        #[arg(value_name = "off|layer|auto|N", help_heading = "Run")]
        checkpointing: Checkpointing = Checkpointing::OFF,
        /// Save the state of the run every N steps, for --resume; 0: never
        #[arg(value_name = "STEPS", help_heading = "Run")]
        save_steps: u64 = 0,
        /// Keep the last N of those states
        #[arg(value_name = "N", help_heading = "Run")]
        keep_states: usize = 2,
        /// Write a TensorBoard event file into the run folder too: tensorboard --logdir DIR
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Run")]
        tensorboard: bool = false,
        /// Print a line every N steps where there is no terminal
        #[arg(value_name = "STEPS", help_heading = "Run")]
        log_steps: u64 = 10,
    }
    optional {
        /// wlN (N steps of low-rank warm-up before the masks), default (none), spa_only or lora_only [default: wlN, where N and
        /// --mask-grads are a quarter of the steps, N at most 64; "default" with --mask, --init-adapter or --method full, spa_only
        /// with spa, lora_only with lora]
        #[arg(value_name = "wlN|default|spa_only|lora_only", help_heading = "Method")]
        schedule: Schedule,
        /// Take the masks from this file; nothing is collected then
        #[arg(value_name = "FILE", help_heading = "Masks")]
        mask: PathBuf,
        /// Save the masks to this file
        #[arg(value_name = "FILE", help_heading = "Masks")]
        save_mask: PathBuf,
        /// Start from this adapter: its values, masks if it has them, and unless given its method, modules, rank, alpha, scaling and
        /// density; a line says what of it is not used
        #[arg(value_name = "DIR", help_heading = "Method")]
        init_adapter: PathBuf,
        /// Steps whose gradients choose the masks [default: those of 8 micro-batches, at most a quarter of the
        /// steps; 1 where --schedule is given]
        #[arg(value_name = "STEPS", help_heading = "Masks")]
        mask_grads: u32,
        /// Evaluate on the rows of this file during the run; they are read as those of --data
        #[arg(value_name = "FILE", help_heading = "Evaluation", conflicts_with = "eval_split")]
        eval_data: PathBuf,
        /// Hold this share of the rows of --data out and evaluate on them, 0 to 1; which rows depends on --seed and on the rows
        /// alone, and rows that are alike stay together
        #[arg(value_name = "SHARE", help_heading = "Evaluation")]
        eval_split: f64,
        /// Evaluate every N steps, besides before the first and after the last [default: a tenth of the steps]
        #[arg(value_name = "STEPS", help_heading = "Evaluation")]
        eval_steps: u64,
        /// End the run once so many evaluations of the training phase in a row have not lowered the loss
        #[arg(value_name = "PATIENCE", help_heading = "Evaluation")]
        early_stopping: u64,
        /// Answer the prompts of this file at each evaluation, into samples.jsonl: one a line, those that begin with \" as JSON
        #[arg(value_name = "FILE", help_heading = "Evaluation")]
        sample_prompts: PathBuf,
        /// Take only the first N rows of each file
        #[arg(value_name = "N", help_heading = "Data")]
        limit: usize,
        /// Micro-batches in an optimiser step [default: 8, or fewer where the run has less than 100 steps with them, unless --steps
        /// is given]
        #[arg(value_name = "N", help_heading = "Batches")]
        gradient_accumulation_steps: usize,
        /// Steps over which the rates rise from 0 [default: 20, at most a tenth of the steps]
        #[arg(value_name = "STEPS", help_heading = "Optimiser")]
        warmup_steps: u64,
        /// Quantise the matrices of the layers on their way to the device, one at a time; embedding, head and norms stay as they are,
        /// and what the file has quantised already. Give it to eval, generate and plan too
        #[arg(value_enum, value_name = "FORMAT", help_heading = "Run")]
        quantize: LoadFormat,
        /// Passes over the data [default: 1, or more where they make less than 100 steps, at most 10, unless --steps is given]
        #[arg(value_name = "N", help_heading = "Run", conflicts_with = "steps")]
        epochs: f64,
        /// Optimiser steps (of the training phase; warm-up and masks come on top unless --no-restart)
        #[arg(value_name = "N", help_heading = "Run")]
        steps: u64,
        /// Device to compute on: its index or a part of its name, see `rugosa devices` [default: $RUGOSA_DEVICE, or the best]
        #[arg(value_name = "INDEX|NAME", help_heading = "Run")]
        device: String,
        /// Memory of the device that the run may take; one that takes more is refused before it loads [default: what the driver
        /// says that the device has]
        #[arg(value_name = "SIZE", help_heading = "Run")]
        vram: ByteSize,
        /// Measure which tiles are the fastest on this device for the run's products, for SECONDS at most [default: 20], and
        /// keep them in the cache folder for this run and later ones; what was measured before is not measured again
        #[arg(value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = TUNE_SECONDS, help_heading = "Run")]
        tune: f64,
    }
}

impl PartialConfig {
    /// Reads a file of `key = value` lines, all optional, with the names of the flags written with `_`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Row`] where it is no TOML; [`Error::File`] with the key where a key is unknown (and the
    /// nearest known one) or a value of the wrong type.
    pub fn from_toml(path: &Path) -> Result<PartialConfig> {
        PartialConfig::parse(path, &kind::read_text(path)?)
    }

    /// The options in `text`, which is that of `path`.
    ///
    /// # Errors
    /// As [`PartialConfig::from_toml`].
    pub fn parse(path: &Path, text: &str) -> Result<PartialConfig> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or("");
            Error::row(path, before.matches('\n').count() + 1, one_line(e.message()))
        })?;
        let mut partial = PartialConfig::default();
        for (key, value) in table {
            if !KEYS.contains(&key.as_str()) {
                return Err(Error::file(path, &key, validate::unknown_key(&key)));
            }
            partial.set(&key, value).map_err(|e| Error::file(path, &key, one_line(e.message())))?;
        }
        Ok(partial)
    }
}

impl TrainConfig {
    /// Lays `flags` over `file` over what the adapter of `init_adapter` is over the defaults and checks the result. What belongs
    /// together is overridden together: `--steps` drops the file's `epochs` (and the reverse), another `--method` drops the
    /// file's `schedule`, and `--like-paper` drops of the file what it sets itself. What depends on the data stays open until
    /// [`TrainConfig::for_data`].
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the option, the reason and the way out; those of the adapter's folder.
    pub fn resolve(file: PartialConfig, flags: PartialConfig) -> Result<TrainConfig> {
        let config = derive::lay_over(file, flags)?.over_defaults()?;
        validate::check(&config)?;
        Ok(config)
    }

    /// The text of a file that resolves to this configuration again.
    ///
    /// # Errors
    /// [`Error::Invalid`] where TOML cannot hold a value (a path that is no Unicode).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::invalid("config.toml", one_line(&e.to_string())))
    }

    /// This configuration with absolute paths: it means the same in every working folder. It is what a run folder holds.
    ///
    /// # Errors
    /// [`Error::Io`] where the process has no working folder.
    pub fn located(&self) -> Result<TrainConfig> {
        let at = |path: &PathBuf| std::path::absolute(path).map_err(Error::io(path));
        // a name on the Hub stays one
        let named =
            |path: &PathBuf, kind| Ok(if HubName::of(path, kind)?.is_some() { path.clone() } else { at(path)? });
        let maybe = |path: &Option<PathBuf>| path.as_ref().map(at).transpose();
        Ok(TrainConfig {
            model: named(&self.model, RepoKind::Model)?,
            data: sources::located(&self.data)?,
            out: at(&self.out)?,
            mask: maybe(&self.mask)?,
            save_mask: maybe(&self.save_mask)?,
            init_adapter: maybe(&self.init_adapter)?,
            eval_data: maybe(&self.eval_data)?,
            sample_prompts: maybe(&self.sample_prompts)?,
            ..self.clone()
        })
    }

    /// How rows are read.
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
            packing: self.packing,
            truncate: self.too_long.into(),
            train_on: self.train_on.into(),
            shuffle: self.shuffle,
            seed: self.seed,
            limit: self.limit,
            now: None,
        }
    }

    /// Whether there is anything to evaluate: rows, or prompts to answer.
    pub fn evaluates(&self) -> bool {
        self.has_eval_rows() || self.sample_prompts.is_some()
    }

    /// Whether there are rows to evaluate on.
    pub fn has_eval_rows(&self) -> bool {
        self.eval_data.is_some() || self.eval_split.is_some()
    }

    /// Whether evaluations generate text.
    pub fn generates(&self) -> bool {
        self.eval_answers > 0 || self.sample_prompts.is_some()
    }

    /// How sequences are dealt out.
    pub fn batch_options(&self) -> BatchOptions {
        BatchOptions { batch_size: self.batch_size, gradient_accumulation_steps: self.micro_batches() }
    }

    /// Where the masks go once they are built: `save_mask`, or with `mask_only` `masks.safetensors` in the run folder.
    pub fn mask_file(&self) -> Option<PathBuf> {
        self.save_mask.clone().or_else(|| self.mask_only.then(|| self.out.join(MASKS_FILE)))
    }

    /// What [`crate::adapters::targets::select`] needs: the half that the method has not is 0 everywhere.
    pub fn target_rules(&self) -> TargetRules {
        let mut rules = TargetRules {
            modules: self.target_modules.clone(),
            rank: self.rank,
            rank_pattern: self.rank_pattern.clone(),
            alpha: self.alpha,
            alpha_pattern: self.alpha_pattern.clone(),
            rslora: self.rslora,
            density: self.density,
            density_pattern: self.density_pattern.clone(),
        };
        if matches!(self.method, Method::Spa | Method::Full) {
            (rules.rank, rules.rank_pattern, rules.alpha_pattern) = (0, PerModule::default(), PerModule::default());
        }
        if matches!(self.method, Method::Lora | Method::Full) {
            (rules.density, rules.density_pattern) = (0.0, PerModule::default());
        }
        rules
    }
}

/// A default as it would be typed; nothing for an empty one.
fn default_text<T: Serialize>(value: T) -> String {
    match toml::Value::try_from(value) {
        Ok(toml::Value::String(text)) if text.trim().is_empty() && !text.is_empty() => format!("{text:?}"),
        Ok(toml::Value::String(text)) => text,
        Ok(toml::Value::Array(items)) => items.iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(","),
        Ok(toml::Value::Float(x)) if x != 0.0 && x < 1e-4 => format!("{x:e}"),
        Ok(toml::Value::Float(x)) => x.to_string(),
        Ok(toml::Value::Table(_)) | Err(_) => String::new(),
        Ok(other) => other.to_string(),
    }
}

fn one_line(message: &str) -> String {
    message.trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests;
