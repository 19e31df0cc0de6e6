//! `rugosa preview`: rows as the model will see them.

use super::print;
use crate::cli::args::PreviewArgs;
use crate::data::{Dataset, ExampleRef, Tokenizer, preview};
use crate::error::Result;
use crate::io::checkpoint::Checkpoint;
use crate::shown;
use anstream::{AutoStream, ColorChoice};

pub fn run(args: &PreviewArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let tokenizer = Tokenizer::of_model(&checkpoint)?;
    let vocab_size = checkpoint.config.vocab_size;
    let dataset = Dataset::open(&args.rows.data, &args.rows.data_options(), tokenizer.as_ref(), vocab_size)?;
    let colour = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;

    let mut text = String::new();
    for example in dataset.examples().take(args.count) {
        text += &if args.json {
            json(tokenizer.as_ref(), example)?
        } else {
            preview::render(tokenizer.as_ref(), example, colour)?
        };
        text.push('\n');
    }
    print(&text)?;
    let all = dataset.report();
    super::tell(&format!(
        "{} rows, {} truncated and {} dropped at --seq-len {}; {} tokens, {} of them learnt",
        all.rows,
        all.truncated,
        all.dropped,
        dataset.seq_len(),
        all.tokens,
        all.supervised
    ));
    dataset.notes().iter().for_each(|note| super::tell(note));
    Ok(())
}

/// One object: `text` is what the ids stand for, special tokens spelled out; it is missing without a tokenizer.
fn json(tokenizer: Option<&Tokenizer>, example: ExampleRef<'_>) -> Result<String> {
    let text = tokenizer.map(|t| t.decode(example.ids, false)).transpose()?;
    let (ids, labels) = (example.ids, example.labels);
    let line = serde_json::json!({ "line": example.line, "text": text, "input_ids": ids, "labels": labels });
    Ok(shown::json(&line.to_string()))
}
