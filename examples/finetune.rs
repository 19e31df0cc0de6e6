//! A whole run, as `rugosa train` does it (what is not said here has the program's defaults), and an answer of what it trained.
//!
//!     cargo run --release --example finetune -- MODEL ROWS.jsonl OUT PROMPT

use rugosa::prelude::*;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let [model, data, out] = [(); 3].map(|()| args.next().map(Into::into));
    let config = PartialConfig { model, data, out, steps: Some(12), ..PartialConfig::default() };
    println!("{}", train(config, &args.next().unwrap_or_default())?.1);
    Ok(())
}

/// Trains RoSA, which leaves the adapter in the run's folder too, and lets the model that it trained go on with `prompt`.
pub fn train(config: PartialConfig, prompt: &str) -> Result<(Trained, String)> {
    let config = TrainConfig::resolve(PartialConfig::default(), config)?;
    let trained = Session::prepare(config, &mut Lines)?.run(&mut Lines)?;
    let tokenizer = trained.tokenizer.clone().ok_or_else(|| Error::invalid("model", "it has no tokenizer"))?;
    let request = Request { max_new_tokens: 32, stop: tokenizer.end_of_turn(), sampling: Sampling::GREEDY };
    let ids = generate(&trained.device, &trained.model, &[tokenizer.encode(prompt, true)?], &request, |_, _| true)?;
    Ok((trained, tokenizer.decode(&ids[0], true)?))
}
