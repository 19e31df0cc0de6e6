//! Progress of a run on standard error: a bar on a terminal, otherwise a line every so often.

use super::{chatter, is_quiet};
use crate::train::metrics::{EvalMetrics, StepMetrics};
use crate::train::phase::Phase;
use crate::train::warm::Compiled;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Weight of the newest step in the running mean of seconds a step.
const NEWEST: f64 = 0.1;

/// Shows a run's steps.
pub struct Progress {
    sink: Sink,
    /// Steps of the whole run.
    total: u64,
    last: Instant,
    pace: Pace,
    phase: Option<Phase>,
}

enum Sink {
    Bar(ProgressBar),
    Lines { out: Box<dyn Write + Send>, every: u64 },
}

impl Progress {
    /// For a run of `total` steps of which `done` lie behind it. Without a terminal, a line every `every` steps.
    pub fn new(total: u64, done: u64, every: u64) -> Self {
        if is_quiet() || !std::io::stderr().is_terminal() {
            return Progress::lines(total, every, chatter());
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_position(done);
        if let Ok(style) = ProgressStyle::with_template("{bar:24.cyan/dim} {pos}/{len} {wide_msg}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Progress::over(Sink::Bar(bar), total)
    }

    fn lines(total: u64, every: u64, out: Box<dyn Write + Send>) -> Self {
        Progress::over(Sink::Lines { out, every: every.max(1) }, total)
    }

    fn over(sink: Sink, total: u64) -> Self {
        Progress { sink, total, last: Instant::now(), pace: Pace::default(), phase: None }
    }

    /// A step is done.
    pub fn step(&mut self, metrics: &StepMetrics) {
        let now = Instant::now();
        self.pace.add((now - self.last).as_secs_f64());
        self.last = now;
        let done = metrics.step + 1;
        let left = self.pace.seconds() * self.total.saturating_sub(done) as f64;
        let text = describe(metrics, left);
        let turned = self.phase.replace(metrics.phase) != Some(metrics.phase);
        match &mut self.sink {
            Sink::Bar(bar) => {
                bar.set_message(text);
                bar.set_position(done);
            }
            Sink::Lines { out, every } => {
                if turned || metrics.skipped || done == self.total || done.is_multiple_of(*every) {
                    // a closed standard error must not end the run
                    let _ = writeln!(out, "step {done}/{} {text}", self.total);
                }
            }
        }
    }

    /// An evaluation is done.
    pub fn evaluated(&mut self, metrics: &EvalMetrics) {
        // the next step's time begins now
        self.last = Instant::now();
        self.note(&described(metrics));
    }

    /// How far an evaluation is; shown on a terminal alone.
    pub fn evaluating(&mut self, done: usize, of: usize) {
        if let Sink::Bar(bar) = &self.sink {
            bar.set_message(format!("evaluation {done} of {of}"));
        }
    }

    /// A line of its own, above the bar.
    pub fn note(&mut self, line: &str) {
        // as above; `eprintln!` would panic there
        let line = super::line(line);
        let _ = match &mut self.sink {
            Sink::Bar(bar) => bar.suspend(|| writeln!(std::io::stderr(), "{line}")),
            Sink::Lines { out, .. } => writeln!(out, "{line}"),
        };
    }

    /// Leaves the bar as it stands; for the end of a run, also an early one.
    pub fn finish(&mut self) {
        if let Sink::Bar(bar) = &self.sink {
            bar.abandon();
        }
    }
}

/// Seconds between two lines about compilation where there is no terminal.
const PATIENCE: f64 = 2.0;

/// How far compilation is: on a terminal one line that is gone at the end, otherwise a line every few seconds.
pub struct Compiling {
    last: Instant,
    out: Box<dyn Write + Send>,
    terminal: bool,
}

impl Default for Compiling {
    fn default() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Compiling { last: Instant::now(), terminal, out: chatter() }
    }
}

impl Compiling {
    pub fn show(&mut self, at: Compiled) {
        // a closed standard error must not end the run
        let _ = match (self.terminal, at.done == at.of) {
            (true, true) => write!(self.out, "\r\x1b[K"),
            (true, false) => write!(self.out, "\r{}\x1b[K", at.line()),
            (false, false) if self.last.elapsed().as_secs_f64() >= PATIENCE => {
                self.last = Instant::now();
                writeln!(self.out, "{}", at.line())
            }
            (false, _) => Ok(()),
        };
        let _ = self.out.flush();
    }
}

/// A running mean of seconds a step. The first step, which compiles the kernels, counts only until there is a second.
#[derive(Default)]
struct Pace {
    steps: u64,
    mean: f64,
}

impl Pace {
    fn add(&mut self, seconds: f64) {
        self.mean = if self.steps < 2 { seconds } else { self.mean + NEWEST * (seconds - self.mean) };
        self.steps += 1;
    }

    fn seconds(&self) -> f64 {
        self.mean
    }
}

/// `train  loss 1.2345  830 tokens/s  2m05s left`
fn describe(metrics: &StepMetrics, seconds_left: f64) -> String {
    let skipped = if metrics.skipped { "  skipped, gradient not finite" } else { "" };
    format!(
        "{}  loss {:.4}  {} tokens/s  {} left{skipped}",
        metrics.phase,
        metrics.loss,
        three_digits(metrics.tokens_per_second),
        span(seconds_left)
    )
}

/// `evaluation after step 20: loss 1.2345, exact match 40.00 % of 50, the best so far`
fn described(m: &EvalMetrics) -> String {
    let mut parts = vec![format!("evaluation after step {}", m.after)];
    if m.eval_tokens > 0 {
        parts[0] += &m.eval_loss.map_or(": loss not finite".to_owned(), |loss| format!(": loss {loss:.4}"));
    }
    parts.extend(m.exact_match.map(|share| format!("exact match {:.2} % of {}", 100.0 * share, m.answers)));
    if m.best {
        parts.push("the best so far".to_owned());
    }
    parts.join(", ")
}

/// A rate with three digits where it is small, whole where it is not.
fn three_digits(x: f64) -> String {
    let decimals = match x {
        _ if x < 9.995 => 2,
        _ if x < 99.95 => 1,
        _ => 0,
    };
    format!("{x:.decimals$}")
}

/// `42s`, `2m05s`, `3h07m`, `2d04h`
pub(super) fn span(seconds: f64) -> String {
    let s = seconds.round() as u64; // saturates
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::shared::Shared;

    fn metrics(step: u64, phase: Phase) -> StepMetrics {
        StepMetrics {
            step,
            phase,
            schedule_step: step,
            loss: 1.234_56,
            lr: 0.0,
            lora_lr: None,
            grad_norm: 1.0,
            supervised_tokens: 1,
            tokens: 1,
            tokens_per_second: 12.345,
            epoch: 0.0,
            skipped: false,
        }
    }

    #[test]
    fn lines_come_every_so_often_and_when_something_happens() {
        let out = Shared::default();
        let mut progress = Progress::lines(23, 10, Box::new(out.clone()));
        for step in 0..23 {
            let phase = if step < 4 { Phase::Warmup } else { Phase::Train };
            progress.step(&StepMetrics { skipped: step == 6, ..metrics(step, phase) });
        }
        progress.note("saved");
        progress.finish();
        let text = out.text();
        let steps: Vec<_> = text.lines().map(|l| l.split("  ").next().unwrap()).collect();
        assert_eq!(
            steps,
            [
                "step 1/23 warmup",
                "step 5/23 train",
                "step 7/23 train",
                "step 10/23 train",
                "step 20/23 train",
                "step 23/23 train",
                "saved"
            ]
        );
        assert!(text.lines().nth(2).unwrap().ends_with("skipped, gradient not finite"));
        assert!(text.contains("loss 1.2346  12.3 tokens/s  "), "{text}");
    }

    #[test]
    fn compilation_shows_one_line_on_a_terminal_and_few_elsewhere() {
        let shown = |terminal: bool, last: Instant| {
            let out = Shared::default();
            let mut compiling = Compiling { last, out: Box::new(out.clone()), terminal };
            (1..=4).for_each(|done| compiling.show(Compiled { done, of: 4 }));
            out.text()
        };
        let now = Instant::now();
        let text = shown(true, now);
        assert!(text.starts_with("\rcompiling 4 kernels: 25 %") && text.ends_with("\r\x1b[K"), "{text:?}");
        assert_eq!(shown(false, now), "");
        let before = now.checked_sub(std::time::Duration::from_secs(3)).unwrap();
        assert_eq!(shown(false, before), "compiling 4 kernels: 25 %\n");
    }

    #[test]
    fn the_first_step_does_not_spoil_the_forecast() {
        let mut pace = Pace::default();
        pace.add(60.0);
        assert_eq!(pace.seconds(), 60.0);
        pace.add(1.0);
        assert_eq!(pace.seconds(), 1.0);
        pace.add(2.0);
        assert!((pace.seconds() - 1.1).abs() < 1e-12);
    }

    #[test]
    fn spans_and_rates_are_short() {
        assert_eq!([0.4, 59.6, 125.0, 11_220.0, 187_200.0].map(span), ["0s", "1m00s", "2m05s", "3h07m", "2d04h"]);
        assert_eq!([0.961, 9.999, 53.21, 4012.7].map(three_digits), ["0.96", "10.0", "53.2", "4013"]);
    }
}
