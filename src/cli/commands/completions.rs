//! `rugosa completions` and `rugosa man`: made of the same description of the arguments as the help.

use super::print;
use crate::cli::args::{self, CompletionsArgs, Shell};
use crate::error::{Error, Result};
use clap_complete::{generate, shells};

const NAME: &str = "rugosa";

pub fn run(args: CompletionsArgs) -> Result<()> {
    let (mut command, mut text) = (args::command(), Vec::new());
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, NAME, &mut text),
        Shell::Zsh => generate(shells::Zsh, &mut command, NAME, &mut text),
        Shell::Fish => generate(shells::Fish, &mut command, NAME, &mut text),
        Shell::Powershell => generate(shells::PowerShell, &mut command, NAME, &mut text),
        Shell::Elvish => generate(shells::Elvish, &mut command, NAME, &mut text),
    }
    print(&String::from_utf8_lossy(&text))
}

/// One page: the program, and each command with its options.
pub fn man() -> Result<()> {
    let mut command = args::command();
    command.build();
    let mut text = Vec::new();
    let page = |command: &clap::Command| clap_mangen::Man::new(command.clone());
    let mut write = |command: &clap::Command, whole: bool| -> std::io::Result<()> {
        let page = page(command);
        if whole {
            return page.render(&mut text);
        }
        let mut part = Vec::new();
        page.render_synopsis_section(&mut part)?;
        page.render_description_section(&mut part)?;
        page.render_options_section(&mut part)?;
        page.render_extra_section(&mut part)?;
        let name = command.get_bin_name().unwrap_or(NAME).to_uppercase();
        text.extend_from_slice(format!(".SH \"{name}\"\n").as_bytes());
        // its sections are parts of this one
        text.extend_from_slice(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes());
        Ok(())
    };
    let failed = Error::io("standard output");
    let mut all = || {
        write(&command, true)?;
        commands(&command).into_iter().try_for_each(|sub| write(sub, false))
    };
    all().map_err(failed)?;
    print(&String::from_utf8_lossy(&text))
}

/// Every command below `command` that does something.
fn commands(command: &clap::Command) -> Vec<&clap::Command> {
    let subs = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    subs.flat_map(|sub| std::iter::once(sub).chain(commands(sub))).collect()
}
