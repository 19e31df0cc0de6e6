//! A device that is lost under a run (a driver's reset, a watchdog, a GPU that was unplugged for a moment) is opened again, and
//! the run goes on from its last state, or from its start where it has none: the bytes at its end are those of a run that
//! was never disturbed. Each time submissions are shorter, for it may be the watchdog that found them too long.

use super::config::TrainConfig;
use super::metrics::{EvalMetrics, StepMetrics};
use super::observer::Observer;
use super::resume;
use super::session::Session;
use super::state::{self, SavedTiles};
use super::warm::Compiled;
use crate::device::Device;
use crate::dist::Ranks;
use crate::error::{Error, Result};
use std::time::Duration;

/// Losses after which a run ends, if none of them came behind a newer state than the one before.
const MOST: u32 = 4;
/// Before the second try and each further one, longer by as much each time.
const PAUSE: Duration = Duration::from_secs(1);

/// What a run that is opened again must find as it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Again {
    /// It had begun, and its folder is there.
    pub under_way: bool,
    /// [`Caps::identity`](crate::device::Caps::identity) of the device; any where there is none.
    pub identity: Option<String>,
    pub tiles: Option<SavedTiles>,
    /// What chat templates saw as the time.
    pub clock: Option<i64>,
    /// Of the time of submissions, see [`DeviceOptions`](crate::device::DeviceOptions).
    pub quarterings: u32,
}

/// The losses so far.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Since a state was reached that was newer than that at the loss before.
    in_a_row: u32,
    /// The step from which the run goes on.
    from: u64,
    /// How often the time of submissions was quartered; it is not made longer again.
    quarterings: u32,
}

impl Losses {
    /// Notes one behind which the run would go on from step `from`; whether it still may.
    fn note(&mut self, from: u64) -> bool {
        if from > self.from {
            (self.in_a_row, self.from) = (0, from);
        }
        self.in_a_row += 1;
        self.quarterings = (self.quarterings + 1).min(MOST - 1);
        self.in_a_row < MOST
    }
}

/// Opens a run of this process for the first time with `open`, and again where its device is lost meanwhile.
///
/// # Errors
/// [`Error::DeviceLost`] where that has failed too often; [`Error::Interrupted`]; those of `open`.
pub(super) fn first(
    observer: &mut dyn Observer,
    mut open: impl FnMut(Option<Again>, &mut dyn Observer) -> Result<Session>,
) -> Result<Session> {
    let mut losses = Losses::default();
    let mut opened = open(None, observer);
    let mut device = String::new();
    loop {
        let reason = match opened {
            Err(Error::DeviceLost { device: name, reason }) if Ranks::current().is_alone() => {
                device = name;
                reason
            }
            Err(Error::NoDevice { reason }) if losses.in_a_row > 0 => reason,
            other => return other,
        };
        if !losses.note(0) {
            let reason =
                format!("{reason} ({MOST} times before the first step, though submissions were shorter each time)");
            return Err(Error::DeviceLost { device, reason });
        }
        let quarterings = losses.quarterings;
        observer.note(&format!(
            "{device}: the device was lost before the first step ({reason}); it is opened again, with submissions of a {}th of the \
             usual time",
            4u64.pow(quarterings)
        ));
        std::thread::sleep(PAUSE * (losses.in_a_row - 1));
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        opened = open(Some(Again { quarterings, ..Again::default() }), &mut Silent(observer));
    }
}

/// The run in the folder of `config`, opened again on the device of `again`, which was lost for `reason`.
///
/// # Errors
/// [`Error::DeviceLost`] where that has failed too often; [`Error::Interrupted`]; those of [`Session::resume`].
pub(super) fn reopen(
    config: &TrainConfig,
    mut again: Again,
    name: &str,
    mut reason: String,
    losses: &mut Losses,
    observer: &mut dyn Observer,
) -> Result<Session> {
    loop {
        let is_saved = state::find(&config.out)
            .inspect_err(|_| observer.note(&format!("{name}: the device was lost ({reason})")))?;
        let from = is_saved.as_ref().map_or(0, |saved| saved.header.step);
        if !losses.note(from) {
            let out = config.out.display();
            let kept = match is_saved {
                Some(_) => format!("; its state of before step {} stays: rugosa train ⟨resume⟩ ⟨out⟩ {out}", from + 1),
                None => String::new(),
            };
            let reason = format!("{reason} ({MOST} times, though submissions were shorter each time{kept})");
            return Err(Error::DeviceLost { device: name.to_owned(), reason });
        }
        is_saved.iter().flat_map(|saved| &saved.damaged).for_each(|line| observer.note(line));
        again.quarterings = losses.quarterings;
        observer.note(&format!(
            "{name}: the device was lost ({reason}); it is opened again, with submissions of a {}th of the usual time, and the \
             run goes on from step {}",
            4u64.pow(again.quarterings),
            from + 1
        ));
        std::thread::sleep(PAUSE * (losses.in_a_row - 1));
        if observer.interrupted() {
            observer.note(&format!("go on with: rugosa train ⟨resume⟩ ⟨out⟩ {}", config.out.display()));
            return Err(Error::Interrupted);
        }
        let (config, saved) = match is_saved {
            Some(_) => resume::find(config.clone())?,
            None => (config.clone(), None),
        };
        match Session::open(config, saved, Some(again.clone()), &mut Silent(observer)) {
            Err(Error::DeviceLost { reason: next, .. } | Error::NoDevice { reason: next }) => reason = next,
            opened => return opened,
        }
    }
}

/// Says nothing of what was said when the run was opened first.
struct Silent<'a>(&'a mut dyn Observer);

impl Observer for Silent<'_> {
    fn note(&mut self, _: &str) {}

    fn begin(&mut self, steps: u64, done: u64) {
        self.0.begin(steps, done);
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.0.step(metrics);
    }

    fn evaluating(&mut self, done: usize, of: usize) {
        self.0.evaluating(done, of);
    }

    fn evaluated(&mut self, metrics: &EvalMetrics) {
        self.0.evaluated(metrics);
    }

    fn compiled(&mut self, at: Compiled) {
        self.0.compiled(at);
    }

    fn opened(&mut self, device: &Device) {
        self.0.opened(device);
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_end_a_run_unless_it_comes_further_between_them() {
        let mut losses = Losses::default();
        let again = [0, 0, 0, 0].map(|from| losses.note(from));
        assert_eq!(again, [true, true, true, false]);
        let mut losses = Losses::default();
        assert!((0..100).all(|from| losses.note(from)));
        assert_eq!([99, 99, 99].map(|from| losses.note(from)), [true, true, false]);
        assert_eq!(losses.in_a_row, MOST);
    }

    #[test]
    fn submissions_never_get_longer_again() {
        let mut losses = Losses::default();
        let quarterings = [0, 0, 5, 9, 9].map(|from| {
            losses.note(from);
            losses.quarterings
        });
        assert_eq!(quarterings, [1, 2, 3, 3, 3]);
    }
}
