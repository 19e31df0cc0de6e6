//! The `rugosa` program: arguments in, one line and an exit code out.

use rugosa::cli::args::Cli;
use rugosa::cli::{self, signal};
use rugosa::env;
use rugosa::error::{Error, Result};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::debug_fn;

/// Without [`env::LOG`]: what a user should know, a fast path that is not taken because its self-test failed, say.
const DEFAULT_LOG: &str = "rugosa=warn";
/// The same with `--quiet`.
const QUIET_LOG: &str = "rugosa=error";

fn main() -> ExitCode {
    quiet_mesa();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nothing is left to tell it to where standard error is gone
            let _ = writeln!(std::io::stderr(), "error: {}", cli::line(&error.to_string()));
            ExitCode::from(signal::exit_code(&error))
        }
    }
}

/// Arguments, environment and log are checked before anything runs.
fn run() -> Result<()> {
    let cli = Cli::from_env()?;
    env::check()?;
    start_log(cli.quiet)?;
    cli::run(cli)
}

/// Keeps Mesa's layer that asks the desktop for its GPU from printing "error: XDG_RUNTIME_DIR is invalid" where there is
/// no desktop to ask.
fn quiet_mesa() {
    let unset = |name: &str| env::system(name).is_none();
    if cfg!(target_os = "linux") && unset("XDG_RUNTIME_DIR") && unset("NODEVICE_SELECT") {
        // SAFETY: the first thing that the process does; no other thread runs that could read the environment
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Logs to standard error. Without [`env::LOG`] only our own warnings: drivers complain about much that is no concern of the user's, and
/// what is one arrives as an [`Error`].
fn start_log(quiet: bool) -> Result<()> {
    let filter = match &env::settings().log {
        Some(text) => EnvFilter::try_new(text).map_err(|e| Error::invalid(env::LOG, e.to_string()).as_usage())?,
        None => EnvFilter::new(if quiet { QUIET_LOG } else { DEFAULT_LOG }),
    };
    let coloured = std::io::stderr().is_terminal() && env::system("NO_COLOR").is_none();
    // what is logged may quote files
    let fields = debug_fn(|out, field, value| match field.name() {
        "message" => write!(out, "{}", cli::line(&format!("{value:?}"))),
        name => write!(out, "{name}={}", cli::line(&format!("{value:?}"))),
    });
    let log = tracing_subscriber::fmt().with_env_filter(filter).fmt_fields(fields.delimited(" "));
    log.with_writer(std::io::stderr).with_ansi(coloured).init();
    Ok(())
}
