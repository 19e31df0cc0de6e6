//! `rugosa generate`.

use super::model::{LONGEST_CONTEXT, REHEARSED, Source};
use crate::cli::args::GenerateArgs;
use crate::cli::signal;
use crate::data::{ChatTemplate, Message};
use crate::error::{Error, Result};
use crate::generate::{Request, generate};
use crate::shown;
use std::io::IsTerminal;

pub fn run(args: GenerateArgs) -> Result<()> {
    signal::install(None)?;
    let source = Source::open(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let prompt = match (&args.input.prompt, &args.input.chat) {
        (Some(text), _) => tokenizer.encode(text, true)?,
        (None, Some(text)) => {
            let turn = Message { role: "user".into(), content: text.clone() };
            tokenizer.encode(&ChatTemplate::new(tokenizer)?.render(&[turn], true)?, false)?
        }
        (None, None) => return Err(Error::invalid("--prompt", "give --prompt or --chat")),
    };
    let option = if args.input.chat.is_some() { "--chat" } else { "--prompt" };
    tokenizer.check_ids(&prompt, source.config().vocab_size).map_err(|reason| Error::invalid(option, reason))?;
    let (sampling, max_new_tokens) = (args.sampling.sampling(), args.sampling.max_new_tokens);
    let prompts = [prompt];
    let ready = source.ready(LONGEST_CONTEXT.max(max_new_tokens), |ready| {
        let request = Request { max_new_tokens: REHEARSED, stop: &[], sampling };
        generate(&ready.device, &ready.model, &prompts, &request, |_, _| true).map(drop)
    })?;
    let tokenizer = ready.tokenizer(&args.model)?;
    let stop = ready.stop_tokens()?;
    if args.input.prompt.is_some() && !tokenizer.chat_templates().is_empty() {
        super::tell("continuing the text as it is; --chat asks through the model's chat template");
    }
    let request = Request { max_new_tokens, stop: &stop, sampling };
    let mut stream = tokenizer.stream(true);
    let mut failed = None;
    let to_terminal = std::io::stdout().is_terminal();
    let mut show = |text: Result<String>| match text {
        Ok(text) if !args.json => {
            // a file or a pipe gets the model's own words; a terminal would obey them
            let text = if to_terminal { shown::lines(&text) } else { text.into() };
            failed = super::print(&text).err().or(failed.take());
        }
        Ok(_) => {}
        Err(e) => failed = Some(e),
    };
    let ids = generate(&ready.device, &ready.model, &prompts, &request, |_, token| {
        show(stream.push(token));
        !signal::interrupted()
    })?
    .swap_remove(0);
    show(stream.finish());
    if let Some(e) = failed {
        return Err(e);
    }
    if args.json {
        let text = tokenizer.decode(&ids, true)?;
        super::print_json(&serde_json::json!({ "text": text, "token_ids": ids }))?;
    } else {
        super::print("\n")?;
    }
    if signal::interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}
