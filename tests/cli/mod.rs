//! The program as scripts see it: exit codes, what goes to standard output and what to standard error.

mod bad_input;
mod bench;
mod chat;
mod demo;
mod devices;
mod eval;
mod export;
#[cfg(feature = "hub")]
mod hub;
mod kills;
mod merge;
mod messages;
mod model;
mod plan;
mod preview;
mod resume;
mod run_folder;
mod selftest;
mod sparse;
mod tools;
mod tune;
mod usage;
mod watching;

use crate::common::tiny;
use std::process::{Command, Output};

/// `rugosa` with these arguments, split at spaces, in an environment without its own variables.
fn rugosa(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rugosa"));
    command.args(args.split_whitespace());
    for name in
        ["RUGOSA_LOG", "RUGOSA_DEVICE", "RUGOSA_DISABLE", "RUGOSA_LIMITS", "SOURCE_DATE_EPOCH", "CLICOLOR_FORCE"]
    {
        command.env_remove(name);
    }
    command
}

/// Hides every device from it, on Linux.
fn without_devices(command: &mut Command) -> &mut Command {
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(name, "/nonexistent/driver.json");
    }
    command.env("CUDA_VISIBLE_DEVICES", "")
}

/// Runs it; standard output and standard error as text.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// Runs it and expects it to fail with `code` and one line that starts with "error: " and holds all of `parts`.
#[track_caller]
fn fails(command: &mut Command, code: i32, parts: &[&str]) {
    let (got, stdout, stderr) = run(command);
    assert_eq!((got, stdout.as_str()), (Some(code), ""), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}
