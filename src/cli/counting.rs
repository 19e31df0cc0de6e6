//! How far work is that goes through a known number of things: one line that is gone at the end on a terminal, otherwise a line
//! every few seconds.

use super::progress::span;
use super::{chatter, is_quiet};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks of the line on a terminal.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows the progress of one stretch of work.
pub struct Counting {
    what: &'static str,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
    out: Box<dyn Write + Send>,
}

impl Counting {
    /// Of work that is called `what`.
    pub fn new(what: &'static str) -> Self {
        let terminal = !is_quiet() && std::io::stderr().is_terminal();
        Counting { what, began: Instant::now(), shown: None, terminal, out: chatter() }
    }

    /// `done` of `of` are done.
    pub fn show(&mut self, done: usize, of: usize) {
        let last = self.shown.unwrap_or(self.began);
        let wait = if self.terminal { REDRAW } else { PATIENCE };
        let is_over = done >= of;
        if is_over || last.elapsed() < wait {
            if is_over {
                self.finish();
            }
            return;
        }
        self.shown = Some(Instant::now());
        let elapsed = self.began.elapsed().as_secs_f64();
        let left = match done {
            0 => String::new(),
            _ => format!(", {} left", span(elapsed * (of - done) as f64 / done as f64)),
        };
        let line = format!("{}: {done} of {of} ({} %{left})", self.what, 100 * done / of.max(1));
        // a closed standard error must not end the work
        let _ = match self.terminal {
            true => write!(self.out, "\r{line}\x1b[K"),
            false => writeln!(self.out, "{line}"),
        };
        let _ = self.out.flush();
    }

    /// Takes the line away, if there is one.
    pub fn finish(&mut self) {
        if self.terminal && self.shown.take().is_some() {
            let _ = write!(self.out, "\r\x1b[K");
            let _ = self.out.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::shared::Shared;

    #[test]
    fn a_line_comes_every_few_seconds_and_one_on_a_terminal_goes_again() {
        let shown = |terminal: bool, ago: u64| {
            let out = Shared::default();
            let began = Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
            let mut counting = Counting { what: "loss", began, shown: None, terminal, out: Box::new(out.clone()) };
            [2, 3, 4].into_iter().for_each(|done| counting.show(done, 4));
            out.text()
        };
        assert_eq!(shown(false, 10), "loss: 2 of 4 (50 %, 10s left)\n");
        assert_eq!(shown(false, 1), "");
        assert_eq!(shown(true, 10), "\rloss: 2 of 4 (50 %, 10s left)\x1b[K\r\x1b[K");
    }
}
