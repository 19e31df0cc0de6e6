//! `rugosa demo`: the built-in model learns a task before the user's eyes.

use super::model::{self, REHEARSED, Ready, Source};
use super::train::Watch;
use crate::adapters::module_shapes;
use crate::cli::args::{DemoArgs, ModelArgs};
use crate::cli::demo::records::{KNOWN, Names, Row, TAUGHT, rows, to_jsonl};
use crate::cli::demo::unpack;
use crate::cli::plot::curve;
use crate::cli::signal;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::generate::{Request, Sampling, generate};
use crate::io::atomic::write_atomic;
use crate::train::config::{Method, PartialConfig, PrecisionOption, TrainConfig};
use crate::train::metrics::StepMetrics;
use crate::train::phase::Schedule;
use crate::train::warm::Compiled;
use crate::train::{Observer, Session};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// Rows to learn from.
const TRAIN_ROWS: usize = 2000;
/// Rows that are scored, before and after.
const HELD_OUT_ROWS: usize = 128;
/// Rows that are generated together.
const BATCH: usize = 64;
/// The longest answer has 23 tokens and one that ends it.
const MAX_NEW_TOKENS: usize = 32;
/// Rows that are shown.
const SAMPLES: usize = 5;
/// Prompt and answer have 46 tokens at most.
const SEQ_LEN: usize = 192;
/// Characters of the loss curve.
const CURVE: (usize, usize) = (64, 8);

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    examples: usize,
    matched_before: usize,
    matched_after: usize,
    exact_match_before: f64,
    exact_match_after: f64,
    /// Of the training phase and what comes before it.
    steps: usize,
    losses: Vec<f64>,
    trainable_parameters: usize,
    model_parameters: usize,
    samples: Vec<Sample>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Sample {
    prompt: String,
    before: String,
    after: String,
    expected: String,
}

pub fn run(args: &DemoArgs) -> Result<()> {
    signal::install(None)?;
    match &args.out {
        Some(out) => {
            if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(Error::file(out, "--out", "is not empty; choose another folder"));
            }
            run_in(out, args)
        }
        // gone with the value, whatever happens
        None => {
            let temporary = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
            run_in(temporary.path(), args)
        }
    }
}

fn run_in(folder: &Path, args: &DemoArgs) -> Result<()> {
    let start = Instant::now();
    let (model, data, adapter) = (folder.join("model"), folder.join("train.jsonl"), folder.join("adapter"));
    unpack(&model)?;
    let train_rows = rows(args.seed, TAUGHT, Names::Train, TRAIN_ROWS);
    let held_out = rows(args.seed, TAUGHT, Names::HeldOut, HELD_OUT_ROWS);
    for (path, rows) in [(&data, &train_rows), (&folder.join("held-out.jsonl"), &held_out)] {
        write_atomic(path, |w| w.write_all(to_jsonl(rows).as_bytes()))?;
    }

    let config = config(args, &model, &data, &adapter)?;
    let model_args = ModelArgs {
        model,
        adapter: None,
        quantize: None,
        precision: PrecisionOption::F32,
        device: args.device.clone(),
    };
    let source = Source::open(&model_args)?;
    let prompts = prompts(source.tokenizer()?, &held_out)?;
    let ready = source.ready(SEQ_LEN, |ready| {
        let request = Request { max_new_tokens: REHEARSED, stop: &[], sampling: Sampling::GREEDY };
        let some = prompts.chunks(BATCH).next().unwrap_or_default();
        generate(&ready.device, &ready.model, some, &request, |_, _| true).map(drop)
    })?;
    let parameters = parameters(&ready);
    super::tell(&plan(&config, parameters, ready.device.caps().name.as_str()));
    let before = answers(&ready, &model_args, &held_out)?;
    super::tell(&format!("before: {}", score(matched(&before, &held_out), held_out.len())));

    let mut watch = Recorder { watch: Watch::new(config.log_steps), losses: Vec::new() };
    let outcome = Session::prepare(config, &mut watch).and_then(|s| s.run(&mut watch)).map(drop);
    watch.watch.finish();
    outcome?;

    let trained = attach(&ready, &adapter)?;
    let after = answers(&ready, &model_args, &held_out)?;
    let shown = || held_out.iter().zip(before.iter().zip(&after)).take(SAMPLES);
    let (matched_before, matched_after) = (matched(&before, &held_out), matched(&after, &held_out));
    let report = Report {
        device: ready.device.caps().name.clone(),
        examples: held_out.len(),
        matched_before,
        matched_after,
        exact_match_before: matched_before as f64 / held_out.len() as f64,
        exact_match_after: matched_after as f64 / held_out.len() as f64,
        steps: watch.losses.len(),
        losses: watch.losses,
        trainable_parameters: trained,
        model_parameters: parameters,
        samples: shown()
            .map(|(row, (before, after))| Sample {
                prompt: row.prompt.clone(),
                before: before.clone(),
                after: after.clone(),
                expected: row.response.clone(),
            })
            .collect(),
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json {
        let line = serde_json::to_string(&report).map_err(|e| Error::invalid("--json", e.to_string()))?;
        super::print(&format!("{line}\n"))?;
    } else {
        super::print(&text(&report, args.out.as_deref()))?;
    }
    if matched_after > matched_before {
        return Ok(());
    }
    let reason = format!(
        "did not rise: {matched_before} of {} before and {matched_after} after; try another --device, see rugosa devices",
        held_out.len()
    );
    Err(Error::file("built-in model", "exact match", reason))
}

fn config(args: &DemoArgs, model: &Path, data: &Path, out: &Path) -> Result<TrainConfig> {
    let flags = PartialConfig {
        model: Some(model.to_path_buf()),
        data: Some(data.to_path_buf()),
        out: Some(out.to_path_buf()),
        method: Some(Method::Rosa),
        rank: Some(4),
        alpha: Some(8.0),
        density: Some(0.01),
        schedule: Some(Schedule::WarmLora(16)),
        steps: Some(args.steps),
        warmup_steps: Some(args.steps / 10),
        lr: Some(2e-3),
        lora_lr: Some(5e-3),
        max_grad_norm: Some(1.0),
        batch_size: Some(4),
        gradient_accumulation_steps: Some(1),
        seq_len: Some(SEQ_LEN),
        // its prompts end where the answer's first letter stands
        separator: Some(String::new()),
        seed: Some(args.seed),
        device: args.device.device.clone(),
        ..PartialConfig::default()
    };
    TrainConfig::resolve(PartialConfig::default(), flags)
}

fn plan(config: &TrainConfig, parameters: usize, device: &str) -> String {
    format!(
        "the model: {parameters} parameters, writes a record in {} styles\n\
         the task: write it in a style that the model has never seen, as in\n  {TASK}\n\
         the method: RoSA, rank {} and density {} %, {} steps on {TRAIN_ROWS} rows; scored on {HELD_OUT_ROWS} others, whose \
         family names the model has never seen\n\
         the device: {device}",
        KNOWN.len(),
        config.rank,
        100.0 * config.density,
        config.steps.unwrap_or_default(),
    )
}

/// As [`TAUGHT`] writes it.
const TASK: &str = "ada lovelace 1843-09-05 cite=LOVELACE, A. (Sep 1843)";

/// What the model answers to each row's prompt.
fn answers(ready: &Ready, args: &ModelArgs, rows: &[Row]) -> Result<Vec<String>> {
    let tokenizer = ready.tokenizer(args)?;
    let stop = ready.stop_tokens()?;
    let request = Request { max_new_tokens: MAX_NEW_TOKENS, stop: &stop, sampling: Sampling::GREEDY };
    let mut answers = Vec::with_capacity(rows.len());
    for prompts in prompts(tokenizer, rows)?.chunks(BATCH) {
        let ids = generate(&ready.device, &ready.model, prompts, &request, |_, _| !signal::interrupted())?;
        if signal::interrupted() {
            return Err(Error::Interrupted);
        }
        for ids in ids {
            answers.push(tokenizer.decode(&ids, true)?);
        }
    }
    Ok(answers)
}

fn prompts(tokenizer: &Tokenizer, rows: &[Row]) -> Result<Vec<Vec<u32>>> {
    rows.iter().map(|r| tokenizer.encode(&r.prompt, true)).collect()
}

fn matched(answers: &[String], rows: &[Row]) -> usize {
    answers.iter().zip(rows).filter(|(answer, row)| **answer == row.response).count()
}

/// Puts the trained adapter on the model; the number of its values.
fn attach(ready: &Ready, adapter: &Path) -> Result<usize> {
    let folder = model::read_adapter(adapter, &ready.model)?;
    model::attach(&ready.device, &ready.model, &folder)?;
    let dense = |m: &Option<crate::io::adapter::Matrix>| m.as_ref().map_or(0, |m| m.data.len());
    let sparse = |m: &crate::io::adapter::ModuleTensors| m.sparse.as_ref().map_or(0, |s| s.pattern.nnz());
    Ok(folder.modules.values().map(|m| dense(&m.a) + dense(&m.b) + sparse(m)).sum())
}

/// Values of the model, norms aside.
fn parameters(ready: &Ready) -> usize {
    let linears: usize = module_shapes(&ready.model).iter().map(|m| m.out_features * m.in_features).sum();
    let c = &ready.model.config;
    linears + c.vocab_size * c.hidden_size * if c.tie_word_embeddings { 1 } else { 2 }
}

fn score(matched: usize, of: usize) -> String {
    format!("{:.1} % ({matched} of {of})", 100.0 * matched as f64 / of.max(1) as f64)
}

fn text(r: &Report, out: Option<&Path>) -> String {
    let mut t = String::new();
    // writing to a String cannot fail
    let _ = writeln!(t, "\nloss over {} steps (with the masks chosen, RoSA begins again)", r.steps);
    for line in curve(&r.losses, CURVE.0, CURVE.1) {
        let _ = writeln!(t, "  {line}");
    }
    let _ = writeln!(t, "\nexact match on {} held-out rows", r.examples);
    let _ = writeln!(t, "  before  {}", score(r.matched_before, r.examples));
    let _ = writeln!(t, "  after   {}", score(r.matched_after, r.examples));
    let _ = writeln!(t, "\nsamples of them");
    for s in &r.samples {
        let _ = writeln!(t, "  {}", s.prompt);
        let _ = writeln!(t, "    before    {}", s.before);
        let _ = writeln!(t, "    after     {}{}", s.after, if s.after == s.expected { "" } else { "   ✗" });
        let _ = writeln!(t, "    expected  {}", s.expected);
    }
    let _ = writeln!(
        t,
        "\n{} trained values beside {} frozen ones, {:.0} s on {}",
        r.trainable_parameters, r.model_parameters, r.seconds, r.device
    );
    let _ = match out {
        Some(out) => {
            let at = |name: &str| out.join(name).display().to_string();
            let ask = "zora pelin 1912-06-17 cite=";
            writeln!(t, "use it: rugosa generate --model {} --adapter {} --prompt '{ask}'", at("model"), at("adapter"))
        }
        None => writeln!(
            t,
            "keep model, data and adapter: rugosa demo --out DIR\nyour own: rugosa train --model DIR|FILE.gguf --data FILE.jsonl --out DIR"
        ),
    };
    t
}

/// Keeps the losses of a run that is shown.
struct Recorder {
    watch: Watch,
    losses: Vec<f64>,
}

impl Observer for Recorder {
    fn note(&mut self, line: &str) {
        self.watch.note(line);
    }

    fn preparing(&mut self, phase: &str) {
        self.watch.preparing(phase);
    }

    fn begin(&mut self, steps: u64, done: u64) {
        self.watch.begin(steps, done);
    }

    fn compiled(&mut self, at: Compiled) {
        self.watch.compiled(at);
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.losses.push(metrics.loss);
        self.watch.step(metrics);
    }

    fn interrupted(&self) -> bool {
        self.watch.interrupted()
    }
}
