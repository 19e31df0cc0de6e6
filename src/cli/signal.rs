//! How the process ends: interruption by the user, and exit codes.

use crate::error::{Error, Result};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a run that the user interrupted: 128 and the number of SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C (or SIGTERM, SIGHUP) only sets what [`interrupted`] says, so that a run can save what it
/// has, and writes `answer` to standard error; the second ends the process at once with code 130. To be called once.
///
/// # Errors
/// [`Error::Invalid`] where the system refuses a handler, or there is one already.
pub fn install(answer: Option<&'static str>) -> Result<()> {
    ctrlc::set_handler(move || {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED.into());
        }
        if let Some(answer) = answer.filter(|_| !super::is_quiet()) {
            let mut err = std::io::stderr();
            // behind the "^C" of a terminal, or its progress bar
            let start = if err.is_terminal() { "\n" } else { "" };
            let _ = writeln!(err, "{start}{answer}");
        }
    })
    .map_err(|e| Error::invalid("Ctrl-C handler", e.to_string()))
}

/// The next Ctrl-C asks again: what was asked for is done.
pub fn clear() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Whether the user asked to stop. Cheap: a loop may ask at every step.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The exit code for `error`: 2 where the usage was wrong, 130 where the user interrupted, otherwise 1.
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Usage { .. } => 2,
        Error::Interrupted => EXIT_INTERRUPTED,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_scripts_rely_on() {
        assert_eq!(exit_code(&Error::invalid("--rank", "0").as_usage()), 2);
        assert_eq!(exit_code(&Error::invalid("--seq-len", "over the model's")), 1);
        assert_eq!(exit_code(&Error::file("a", "b", "c").as_usage()), 1);
        assert_eq!(exit_code(&Error::Interrupted), 130);
        assert_eq!(exit_code(&Error::file("a", "b", "c")), 1);
        assert_eq!(exit_code(&Error::NoDevice { reason: "none".into() }), 1);
    }

    const CHILD: &str = "RUGOSA_TEST_SIGNAL_CHILD";

    /// The other half of the test below, in a process of its own; without its variable it does nothing.
    #[test]
    fn child_that_waits_for_signals() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        install(Some("an answer")).unwrap();
        assert!(install(None).is_err() && !interrupted());
        println!("\nready");
        while !interrupted() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        println!("\nasked to stop");
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[cfg(unix)]
    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::signal::tests::child_that_waits_for_signals", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for expected in ["ready", "asked to stop"] {
            assert!(lines.any(|l| l.unwrap() == expected), "the child ended before it said \"{expected}\"");
            assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        }
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(130));
        assert_eq!(String::from_utf8_lossy(&ended.stderr).matches("an answer\n").count(), 1);
    }
}
