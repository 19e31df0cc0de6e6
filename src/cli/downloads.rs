//! What is fetched by name, on standard error: a bar on a terminal, otherwise a line every few seconds.

use super::{chatter, is_quiet, signal};
use crate::io::hub::{self, Event};
use crate::shown;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows later downloads of this process, and ends them once the user asks to stop.
pub fn show() {
    let shown = Mutex::new(Downloads { bar: None, out: chatter(), last: Instant::now(), sum: Sum::default() });
    hub::set_watch(move |event| {
        shown.lock().unwrap_or_else(|e| e.into_inner()).see(event);
        !signal::interrupted()
    });
}

struct Downloads {
    bar: Option<ProgressBar>,
    out: Box<dyn Write + Send>,
    last: Instant,
    sum: Sum,
}

/// How far the files of one name are.
#[derive(Default)]
struct Sum {
    name: String,
    of: u64,
    /// Of files before the one at hand.
    before: u64,
    file: String,
    /// Of the file at hand: what lay there already, and what is there now.
    start: u64,
    now: u64,
}

impl Sum {
    fn bytes(&mut self, file: &str, done: u64) {
        if self.file != file {
            self.before += self.now.saturating_sub(self.start);
            (self.file, self.start) = (file.to_owned(), done);
        }
        // a file that begins again
        self.start = self.start.min(done);
        self.now = done;
    }

    fn done(&self) -> u64 {
        self.before + (self.now - self.start)
    }
}

impl Downloads {
    fn see(&mut self, event: Event<'_>) {
        match event {
            Event::Begin { name, files, bytes } => {
                let plural = if files == 1 { "" } else { "s" };
                self.line(&format!("fetching {files} file{plural} of {name}, {}", size(bytes)));
                self.sum = Sum { name: name.to_owned(), of: bytes, ..Sum::default() };
                self.bar = bar(bytes);
            }
            Event::Bytes { file, done } => {
                self.sum.bytes(file, done);
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(self.sum.done());
                        bar.set_message(shown::one_line(file).into_owned());
                    }
                    None if self.last.elapsed() >= PATIENCE => {
                        let (name, done, of) = (&self.sum.name, size(self.sum.done()), size(self.sum.of));
                        let text = format!("fetching {name}: {done} of {of}, {file}");
                        self.line(&text);
                    }
                    None => {}
                }
            }
            Event::Waiting => {}
            Event::Note(text) => self.line(text),
            Event::End => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
            }
        }
    }

    fn line(&mut self, text: &str) {
        self.last = Instant::now();
        // a closed standard error ends nothing
        let text = super::line(text);
        let _ = match &self.bar {
            Some(bar) => bar.suspend(|| writeln!(std::io::stderr(), "{text}")),
            None => writeln!(self.out, "{text}"),
        };
    }
}

fn bar(bytes: u64) -> Option<ProgressBar> {
    if is_quiet() || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    const STYLE: &str = "{bar:24.cyan/dim} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(STYLE) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    Some(bar)
}

/// `1.5 GB`
pub fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|(n, _)| bytes >= *n) {
        Some((n, unit)) => format!("{:.1} {unit}", bytes as f64 / *n as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lay_there_before_does_not_count_and_files_add_up() {
        let mut sum = Sum { of: 150, ..Sum::default() };
        sum.bytes("a", 60); // 50 of them were there
        sum.bytes("a", 100);
        assert_eq!(sum.done(), 40);
        sum.bytes("b", 30);
        sum.bytes("b", 80);
        assert_eq!(sum.done(), 90);
        sum.bytes("b", 10); // again
        assert_eq!(sum.done(), 40);
    }

    #[test]
    fn sizes_are_short() {
        let all = [12, 1_500, 269_060_552, 15_400_000_000].map(size);
        assert_eq!(all, ["12 bytes", "1.5 kB", "269.1 MB", "15.4 GB"]);
    }
}
