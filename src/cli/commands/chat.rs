//! `rugosa chat`: turns with a model, from a terminal or a pipe.

use super::model::{LONGEST_CONTEXT, Ready, Source, swap_adapter};
use super::{complain, print, tell};
use crate::cli::args::ChatArgs;
use crate::cli::{chatter, signal};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::generate::{Answer, Conversation, Ended, Request, Sampling, Session};
use crate::shown;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

/// What Ctrl-C is answered with.
const STOPPING: &str = "stopped; Ctrl-C again, or /quit, ends the program";
/// Bytes of one line, at most.
const LONGEST_LINE: u64 = 1 << 20;
/// Tokens of prompts and of what is added to them that are rehearsed: others of these sizes launch the same kernels, mostly.
const SIZES: [usize; 4] = [1, 16, 64, 512];

const HELP: &str = "\
Every line is a message, and what begins with / a command:
  /reset          begin again; what /system says stays
  /system TEXT    tell the model this first; without TEXT nothing
  /adapter PATH   put this adapter on the model instead; none: the model alone
  /help           this
  /quit           end, as Ctrl-D does
Ctrl-C stops an answer. A message that begins with / is written with two: //";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Say(&'a str),
    Reset,
    System(&'a str),
    Adapter(Option<&'a Path>),
    Help,
    Quit,
    Unknown(&'a str),
    Nothing,
}

impl Line<'_> {
    fn of(line: &str) -> Line<'_> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Line::Nothing } else { Line::Say(line) };
        };
        if command.starts_with('/') {
            return Line::Say(command);
        }
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("reset", "") => Line::Reset,
            ("system", text) => Line::System(text),
            ("adapter", "none") => Line::Adapter(None),
            ("adapter", path) if !path.is_empty() => Line::Adapter(Some(Path::new(path))),
            ("help" | "?", "") => Line::Help,
            ("quit" | "exit" | "bye", "") => Line::Quit,
            _ => Line::Unknown(line),
        }
    }
}

pub fn run(args: &ChatArgs) -> Result<()> {
    signal::install(Some(STOPPING))?;
    let source = Source::open(&args.model)?;
    let mut conversation = Conversation::new(source.tokenizer()?)?;
    conversation.set_system(args.system.as_deref().unwrap_or_default());
    let ready = source.ready(LONGEST_CONTEXT, rehearse)?;
    let tokenizer = ready.tokenizer(&args.model)?;
    if !conversation.has_template() {
        tell("the model has no chat template: it continues what you write, and has been told nothing of turns");
    }
    let mut chat =
        Chat { args, tokenizer, stop: ready.stop_tokens()?, session: Session::new(&ready.device), conversation };
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        tell("/help shows the commands, Ctrl-D ends");
    }
    let mut input = std::io::stdin().lock();
    loop {
        if terminal {
            let mut err = chatter();
            let _ = write!(err, "> ").and_then(|()| err.flush());
        }
        let Some(line) = read_line(&mut input)? else { break };
        signal::clear();
        match Line::of(&line) {
            Line::Nothing => {}
            Line::Quit => break,
            line => match chat.obey(&ready, line) {
                Err(e @ (Error::Invalid { .. } | Error::File { .. } | Error::Io { .. })) if !is_output(&e) => {
                    complain(&e.to_string());
                }
                other => other?,
            },
        }
    }
    Ok(())
}

/// Whether nobody takes what is said any more.
fn is_output(error: &Error) -> bool {
    matches!(error, Error::Io { path, .. } if path == Path::new("standard output"))
}

/// The next line; none at the end. What is no UTF-8 is shown as such.
fn read_line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = input.take(LONGEST_LINE).read_until(b'\n', &mut bytes).map_err(Error::io("standard input"))?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Runs what a conversation runs, in some sizes.
fn rehearse(ready: &Ready) -> Result<()> {
    let request = Request { max_new_tokens: 2, stop: &[], sampling: Sampling::GREEDY };
    for size in SIZES.into_iter().filter(|size| 3 * size + 4 < ready.model.rope.positions()) {
        let mut session = Session::new(&ready.device);
        session.answer(&ready.model, &vec![0; size + 1], &request, |_| true)?;
        session.answer(&ready.model, &vec![0; 2 * size], &request, |_| true)?;
    }
    Ok(())
}

struct Chat<'a> {
    args: &'a ChatArgs,
    tokenizer: &'a Tokenizer,
    stop: Vec<u32>,
    session: Session,
    conversation: Conversation,
}

impl Chat<'_> {
    fn obey(&mut self, ready: &Ready, line: Line<'_>) -> Result<()> {
        match line {
            Line::Say(text) => return self.say(ready, text),
            Line::Reset => {
                self.conversation.reset();
                tell("begun again");
            }
            Line::System(text) => {
                self.conversation.set_system(text);
                tell(if text.is_empty() { "no system message" } else { "system message set" });
            }
            Line::Adapter(folder) => {
                swap_adapter(ready, &self.args.model, folder, rehearse)?;
                // what it makes of the tokens so far is something else
                self.session.forget();
                tell(&match folder {
                    Some(folder) => format!("adapter: {}", folder.display()),
                    None => "adapter: none".to_owned(),
                });
            }
            Line::Help => HELP.lines().for_each(complain),
            Line::Unknown(line) => complain(&format!("{line}: is no command here; /help shows them")),
            Line::Quit | Line::Nothing => {}
        }
        Ok(())
    }

    /// Asks the model, shows its answer as it comes, and takes both into the conversation.
    fn say(&mut self, ready: &Ready, text: &str) -> Result<()> {
        let prompt = self.conversation.ask(self.tokenizer, text)?;
        let positions = ready.model.rope.positions();
        if prompt.len() >= positions {
            complain(&format!(
                "this is not asked: with what was said so far it takes {} tokens, and the model has {positions} positions; /reset \
                 begins again",
                prompt.len()
            ));
            return Ok(());
        }
        self.tokenizer
            .check_ids(&prompt, ready.model.config.vocab_size)
            .map_err(|reason| Error::invalid("message", reason))?;
        let sampling = &self.args.sampling;
        let request =
            Request { max_new_tokens: sampling.max_new_tokens, stop: &self.stop, sampling: sampling.sampling() };
        let mut stream = self.tokenizer.stream(true);
        let mut failed = None;
        let to_terminal = std::io::stdout().is_terminal();
        let mut show = |text: Result<String>| {
            let shown = text.and_then(|text| if to_terminal { print(&shown::lines(&text)) } else { print(&text) });
            failed = shown.err().or(failed.take());
            failed.is_none()
        };
        let answer = self
            .session
            .answer(&ready.model, &prompt, &request, |token| show(stream.push(token)) && !signal::interrupted())?;
        show(stream.finish());
        failed.map_or(Ok(()), Err)?;
        print("\n")?;
        tracing::debug!("{} of {} tokens were kept from before", answer.kept, prompt.len());
        self.note(&answer, positions);
        self.conversation.add(text, &self.tokenizer.decode(&answer.ids, true)?);
        Ok(())
    }

    /// Says how an answer ended, where it did not end by itself.
    fn note(&self, answer: &Answer, positions: usize) {
        match answer.ended {
            Ended::Length => tell(&format!("(cut after {} tokens; --max-new-tokens has more)", answer.ids.len())),
            Ended::Context => {
                tell(&format!(
                    "(the model's {positions} positions are full, the answer ends here; /reset begins again)"
                ));
            }
            Ended::Stop | Ended::Interrupted => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let path = std::path::PathBuf::from("a b");
        for (line, want) in [
            (" hello \n", Line::Say("hello")),
            ("//etc", Line::Say("/etc")),
            ("", Line::Nothing),
            ("/reset", Line::Reset),
            ("/system  be brief ", Line::System("be brief")),
            ("/system", Line::System("")),
            ("/adapter a b\n", Line::Adapter(Some(&path))),
            ("/adapter none", Line::Adapter(None)),
            ("/adapter", Line::Unknown("/adapter")),
            ("/rest", Line::Unknown("/rest")),
            ("/quit", Line::Quit),
        ] {
            assert_eq!(Line::of(line), want, "{line}");
        }
    }
}
