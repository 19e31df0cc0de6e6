//! Each command's examples, as its help and the manual page show them.

use clap::Command;

/// Command, and lines of its examples.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "train",
        "rugosa train --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --data rows.jsonl --out run
  rugosa train --model SmolLM2-135M-Instruct --data rows.jsonl --out run --epochs 2 --rank 16
  rugosa train --resume --out run",
    ),
    (
        "plan",
        "rugosa plan --model SmolLM2-135M-Instruct --data rows.jsonl --vram 8GiB",
    ),
    (
        "eval",
        "rugosa eval --model SmolLM2-135M-Instruct --adapter run --data held-out.jsonl --metric loss,exact-match
  rugosa eval --model SmolLM2-135M-Instruct --data gsm8k.jsonl --metric exact-match --answer-regex \"#### (.+)\" --output answers.jsonl",
    ),
    (
        "generate",
        "rugosa generate --model SmolLM2-135M-Instruct --adapter run --chat \"What is a rose?\"
  rugosa generate --model hf:bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q8_0.gguf --prompt \"A rose is\"",
    ),
    (
        "chat",
        "rugosa chat --model SmolLM2-135M-Instruct --adapter run
  rugosa chat --model SmolLM2-135M-Instruct --temperature 0.7 --top-p 0.9 --system \"Answer in one sentence.\"",
    ),
    (
        "merge",
        "rugosa merge --model SmolLM2-135M-Instruct --adapter run --out merged
  rugosa merge --model SmolLM2-135M-Instruct --adapter run --out merged.gguf --type q4_k_m
  rugosa merge --model m.gguf --adapter a:0.7 --adapter b:0.3 --out ab.gguf
  rugosa merge --model m.gguf --adapter run --out q8.gguf --type q8_0 --data held-out.jsonl",
    ),
    (
        "quantize",
        "rugosa quantize --model SmolLM2-135M-Instruct --to q4_k_m --out SmolLM2-Q4_K_M.gguf
  rugosa quantize --model SmolLM2-135M-Instruct --to nf4-double --out SmolLM2-nf4",
    ),
    (
        "report",
        "rugosa report --out run
  rugosa report --out run --compare other third --html compared.html",
    ),
    (
        "export",
        "rugosa export --adapter run --to peft --out run-peft --verify
  rugosa export --adapter run --to peft-rosa --out run-rosa",
    ),
    ("runs", "rugosa runs runs --json"),
    ("preview", "rugosa preview --model SmolLM2-135M-Instruct --data rows.jsonl --rows 2"),
    ("devices", "rugosa devices"),
    ("selftest", "rugosa selftest --quick"),
    ("bench", "rugosa bench step --shape smollm2-135m --method lora,rosa --precision f16"),
    ("bench step", "rugosa bench step --shape smollm2-135m --method lora,rosa --precision f16 --profile"),
    ("bench kernels", "rugosa bench kernels --json kernels.json"),
    ("demo", "rugosa demo --out demo"),
    ("doctor", "rugosa doctor"),
    (
        "completions",
        "rugosa completions bash > ~/.local/share/bash-completion/completions/rugosa
  rugosa completions zsh > \"${fpath[1]}/_rugosa\"
  rugosa completions fish > ~/.config/fish/completions/rugosa.fish",
    ),
    ("man", "rugosa man > ~/.local/share/man/man1/rugosa.1"),
];

/// Adds each command's examples to its help.
pub(super) fn add(root: Command) -> Command {
    EXAMPLES.iter().fold(root, |root, (path, lines)| {
        let mut words = path.split(' ').map(str::to_owned);
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        let with = |command: Command| {
            let before = command.get_after_help().map(ToString::to_string);
            let own = format!("Examples:\n  {lines}");
            command.after_help(before.map_or(own.clone(), |before| format!("{own}\n\n{before}")))
        };
        root.mut_subcommand(first, |command| match second {
            Some(name) => command.mut_subcommand(name, with),
            None => with(command),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, command};
    use std::ffi::OsString;

    /// Every command, by the words behind the program's name.
    fn walk(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((path.clone(), help));
            walk(sub, &path, found);
        }
    }

    #[test]
    fn every_command_has_an_example_and_every_example_parses() {
        let mut commands = Vec::new();
        walk(&command(), "", &mut commands);
        assert!(commands.len() >= 15, "{commands:?}");
        for (path, help) in commands.iter().filter(|(path, _)| !path.ends_with("help")) {
            let start = format!("rugosa {path}");
            let lines: Vec<&str> = help.lines().map(str::trim).filter(|l| l.starts_with("rugosa ")).collect();
            assert!(lines.iter().any(|l| l.starts_with(&start)), "{path} has no example: {help}");
            for line in lines {
                let line = line.split(" > ").next().unwrap_or_default();
                let words: Vec<OsString> = split(line).into_iter().map(OsString::from).collect();
                Cli::of(words).unwrap_or_else(|e| panic!("{line}: {e}"));
            }
        }
    }

    /// Words as a shell parts them.
    fn split(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words
    }
}
