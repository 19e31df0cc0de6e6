//! The commands, one a file. Each takes its arguments and prints its result.
mod bench;
mod chat;
mod completions;
mod demo;
mod devices;
mod doctor;
mod eval;
mod export;
mod generate;
mod merge;
mod model;
mod plan;
mod preview;
mod report;
mod runs;
mod selftest;
mod train;

use super::args::Command;
use crate::error::{Error, Result};
use crate::shown;
use std::io::{ErrorKind, Write};

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Train(args) => train::run(*args),
        Command::Plan(args) => plan::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::Report(args) => report::run(args),
        Command::Runs(args) => runs::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(&args),
        Command::Merge(args) => merge::merge(*args),
        Command::Quantize(args) => merge::quantize(&args),
        Command::Export(args) => export::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(args),
        Command::Man => completions::man(),
    }
}

/// Writes a line to standard error, unless the user wants none. A closed one ends nothing; `eprintln!` would panic there.
fn tell(line: &str) {
    let _ = writeln!(super::chatter(), "{}", crate::cli::line(line));
}

/// The same for what must be known whatever the user wants to hear: an error that does not end the command.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", crate::cli::line(line));
}

/// Writes a result as one line of JSON.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&(shown::json(&value.to_string()) + "\n"))
}

/// Writes a result to standard output, without colours where they are not wanted. A reader that has seen enough
/// (`rugosa … | head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output")(e)),
        _ => Ok(()),
    }
}
