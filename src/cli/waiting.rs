//! What is being prepared, and for how long already, where it takes long: on a terminal a line that is gone at the end, otherwise
//! a line every so often.

use super::{chatter, is_quiet};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What takes less is not talked about.
const SHORT: Duration = Duration::from_secs(2);
/// Between two lines where there is no terminal.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(500);

/// Shows one phase of a preparation after the other.
pub struct Waiting {
    shared: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    phase: Option<(String, Instant)>,
    /// When a line was last written about the phase.
    said: Option<Instant>,
    ended: bool,
    terminal: bool,
    out: Box<dyn Write + Send>,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting::on(chatter(), !is_quiet() && std::io::stderr().is_terminal(), TICK)
    }
}

impl Waiting {
    fn on(out: Box<dyn Write + Send>, terminal: bool, tick: Duration) -> Waiting {
        let state = State { phase: None, said: None, ended: false, terminal, out };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let theirs = shared.clone();
        // without a thread there are no lines, and nothing else is lost
        let _ = std::thread::Builder::new().name("waiting".into()).spawn(move || {
            let (state, changed) = &*theirs;
            let mut state = state.lock().unwrap_or_else(|e| e.into_inner());
            while !state.ended {
                state.show(Instant::now());
                state = changed.wait_timeout(state, tick).unwrap_or_else(|e| e.into_inner()).0;
            }
        });
        Waiting { shared }
    }

    /// Now this is being done.
    pub fn begin(&self, phase: &str) {
        self.change(|state| state.phase = Some((phase.to_owned(), Instant::now())));
    }

    /// A line of something else is about to be written; the phase goes on.
    pub fn pause(&self) {
        self.change(|_| {});
    }

    /// Something else is shown now.
    pub fn end(&self) {
        self.change(|state| state.phase = None);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.0.lock().unwrap_or_else(|e| e.into_inner());
        state.clear();
        change(&mut state);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.change(|state| state.ended = true);
        self.shared.1.notify_all();
    }
}

impl State {
    fn show(&mut self, now: Instant) {
        let Some((phase, start)) = &self.phase else { return };
        let seconds = (now - *start).as_secs();
        let pause = if self.terminal { Duration::from_secs(1) } else { PATIENCE };
        let due = self.said.map_or(now - *start >= if self.terminal { SHORT } else { PATIENCE }, |s| now - s >= pause);
        if due {
            let line = format!("{phase}: {seconds} s …");
            // a closed standard error ends nothing
            let _ = if self.terminal { write!(self.out, "\r{line}\x1b[K") } else { writeln!(self.out, "{line}") };
            let _ = self.out.flush();
            self.said = Some(now);
        }
    }

    fn clear(&mut self) {
        if self.said.take().is_some() && self.terminal {
            let _ = write!(self.out, "\r\x1b[K").and_then(|()| self.out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::shared::Shared;

    #[test]
    fn a_phase_is_named_once_it_takes_long_and_gone_when_it_ends() {
        let show = |terminal: bool, seconds: &[u64]| {
            let out = Shared::default();
            let start = Instant::now();
            let phase = Some(("planning".to_owned(), start));
            let mut state = State { phase, said: None, ended: false, terminal, out: Box::new(out.clone()) };
            seconds.iter().for_each(|s| state.show(start + Duration::from_secs(*s)));
            state.clear();
            out.text()
        };
        assert_eq!(show(false, &[1, 14]), "");
        assert_eq!(show(false, &[15, 16, 30]), "planning: 15 s …\nplanning: 30 s …\n");
        assert_eq!(show(true, &[1]), "");
        assert_eq!(show(true, &[2]), "\rplanning: 2 s …\x1b[K\r\x1b[K");
    }

    #[test]
    fn its_thread_ends_with_it() {
        let out = Shared::default();
        let waiting = Waiting::on(Box::new(out.clone()), true, Duration::from_millis(1));
        waiting.begin("reading");
        let weak = Arc::downgrade(&waiting.shared);
        drop(waiting);
        let end = Instant::now() + Duration::from_secs(20);
        while weak.upgrade().is_some() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(weak.upgrade().is_none());
    }
}
