//! `rugosa merge` and `rugosa quantize`.

use super::model::Source as Loadable;
use super::{print, print_json, tell};
use crate::cli::args::{MergeArgs, ModelArgs, QuantizeArgs, RowArgs};
use crate::cli::signal;
use crate::data::{Dataset, ExampleRef, Tokenizer};
use crate::error::{Error, Result};
use crate::io::checkpoint::Checkpoint;
use crate::merge::{Comparison, OutType, Source, Written, combine, compare, is_gguf, write, write_modelfile};
use crate::train::config::default;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

pub fn merge(args: MergeArgs) -> Result<()> {
    signal::install(None)?;
    let rows = args.data.as_deref().map(|data| Rows::open(data, &args)).transpose()?;
    let source = Source::open(&args.model, &args.adapters)?;
    let mut result = write_and_tell(&source, &args.out, args.to, args.shard_size.0)?;
    if let Some(rows) = rows {
        let measured = measure(&args, &source, &rows)?;
        if !args.json {
            return print(&table(&measured));
        }
        result.extend(numbers(&measured));
    }
    if args.json { print_json(&Value::Object(result)) } else { Ok(()) }
}

pub fn quantize(args: &QuantizeArgs) -> Result<()> {
    signal::install(None)?;
    let source = Source::open(&args.model, &[])?;
    let result = write_and_tell(&source, &args.out, Some(args.to), args.shard_size.0).map_err(named_to)?;
    if args.json { print_json(&Value::Object(result)) } else { Ok(()) }
}

/// What `merge` calls type is `to` here.
fn named_to(error: Error) -> Error {
    let renamed = |text: String| text.replace("⟨type⟩", "⟨to⟩");
    match error {
        Error::Invalid { what, reason } => Error::Invalid { what: renamed(what), reason: renamed(reason) },
        other => other,
    }
}

/// Writes the model, and a Modelfile beside a GGUF file; what was written as JSON.
fn write_and_tell(source: &Source, out: &Path, to: Option<OutType>, shard_bytes: u64) -> Result<Map<String, Value>> {
    source.notes.iter().for_each(|note| tell(note));
    let written = write(source, out, to, shard_bytes, &|| !signal::interrupted())?;
    written.notes.iter().for_each(|note| tell(note));
    tell(&format!("written: {}: {}", out.display(), written.summary()));
    let mut modelfile = None;
    if is_gguf(out) && !source.adapters.is_empty() {
        modelfile = write_modelfile(out, Tokenizer::of_model(&Checkpoint::open(out)?)?.as_ref())?;
    }
    tell(&match &modelfile {
        Some(path) => {
            format!("use it: llama-cli -m {}, or ollama create my-model -f {}", out.display(), path.display())
        }
        None => format!("use it: rugosa generate --model {} --prompt …", out.display()),
    });
    Ok(as_json(out, &written, modelfile))
}

fn as_json(out: &Path, written: &Written, modelfile: Option<PathBuf>) -> Map<String, Value> {
    let matrices: Map<String, Value> = written.matrices.iter().map(|(d, n)| (d.to_string(), json!(n))).collect();
    let mut map = Map::new();
    map.insert("out".into(), json!(out.display().to_string()));
    map.insert("bytes".into(), json!(written.bytes));
    map.insert("matrices".into(), Value::Object(matrices));
    if let Some(path) = modelfile {
        map.insert("modelfile".into(), json!(path.display().to_string()));
    }
    map
}

/// The rows on which a merge is measured.
struct Rows {
    dataset: Dataset,
    limit: usize,
}

impl Rows {
    /// Read before anything is written: what is wrong with them is told at once.
    fn open(data: &Path, args: &MergeArgs) -> Result<Rows> {
        let checkpoint = Checkpoint::open(&args.model)?;
        let tokenizer = Tokenizer::of_model(&checkpoint)?;
        let rows = RowArgs {
            data: data.to_path_buf(),
            data_format: default::data_format(),
            prompt_field: default::prompt_field(),
            response_field: default::response_field(),
            prompt_format: default::prompt_format(),
            separator: default::separator(),
            empty_rows: default::empty_rows(),
            seq_len: args.seq_len,
            bos_before_response: false,
            too_long: default::too_long(),
            train_on: default::train_on(),
        };
        let vocab = checkpoint.config.vocab_size;
        let ends = &checkpoint.config.eos_token_ids;
        let dataset = Dataset::open_with_stop(data, &rows.data_options(), tokenizer.as_ref(), vocab, ends)?;
        dataset.notes().iter().for_each(|note| tell(note));
        Ok(Rows { dataset, limit: args.limit.unwrap_or(usize::MAX) })
    }

    fn examples(&self) -> Vec<ExampleRef<'_>> {
        self.dataset.examples().take(self.limit).collect()
    }
}

/// The adapter on the model, and the merged model, on the same rows.
fn measure(args: &MergeArgs, source: &Source, rows: &Rows) -> Result<Comparison> {
    let examples = rows.examples();
    let adapter = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    combine(&source.adapters)?.write(adapter.path())?;
    let model = |model: &Path, adapter: Option<&Path>| ModelArgs {
        model: model.to_path_buf(),
        adapter: adapter.map(Path::to_path_buf),
        quantize: None,
        precision: args.precision,
        device: args.device.clone(),
    };
    let (before, after) = (model(&args.model, Some(adapter.path())), model(&args.out, None));
    let load = |args: &ModelArgs, batch: usize| {
        Loadable::open(args)?.ready(longest(&examples), |ready| {
            // one model against itself has all kernels
            compare(&ready.model, &ready.model, &examples[..batch.min(examples.len())], batch, || true).map(drop)
        })
    };
    let (before, after) = (load(&before, args.batch_size)?, load(&after, args.batch_size)?);
    compare(&before.model, &after.model, &examples, args.batch_size, || !signal::interrupted())
}

/// Positions that the longest row takes.
fn longest(examples: &[ExampleRef<'_>]) -> usize {
    examples.iter().map(|e| e.ids.len()).max().unwrap_or(1)
}

fn table(c: &Comparison) -> String {
    format!(
        "supervised tokens      {}\nnll, adapter on model  {:.6}\nnll, merged            {:.6}\nchange                 {:+.6}\n\
         KL(adapter || merged)  {:.3e} a token, {:.3e} at most\nsame likeliest token   {:.2} %\n",
        c.tokens,
        c.nll_before,
        c.nll_after,
        c.nll_after - c.nll_before,
        c.kl,
        c.kl_most,
        100.0 * c.same_top
    )
}

fn numbers(c: &Comparison) -> Map<String, Value> {
    let all = json!({
        "supervised_tokens": c.tokens, "nll_before": c.nll_before, "nll_after": c.nll_after,
        "kl": c.kl, "kl_most": c.kl_most, "same_top": c.same_top,
    });
    all.as_object().cloned().unwrap_or_default()
}
