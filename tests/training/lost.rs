//! A run whose device is lost goes on, and leaves the bytes of one whose device never was.

use super::resume::{COMMON, assert_same, contents};
use super::{Watcher, config, tiny};
use rugosa::device::Device;
use rugosa::error::Error;
use rugosa::train::metrics::StepMetrics;
use rugosa::train::{Observer, Session};
use std::cell::Cell;

/// Destroys the device behind some steps: each once, or whenever it comes there.
#[derive(Default)]
struct Losing {
    device: Option<Device>,
    behind: Vec<u64>,
    always: bool,
    /// Where it is asked this often whether to go on, once.
    at_question: u64,
    asked: Cell<u64>,
    /// It is destroyed as soon as it is opened, so many times.
    unborn: usize,
    opened: usize,
    notes: Vec<String>,
}

impl Observer for Losing {
    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }

    fn begin(&mut self, _: u64, _: u64) {}

    fn opened(&mut self, device: &Device) {
        self.device = Some(device.clone());
        self.opened += 1;
        if self.opened <= self.unborn {
            device.destroy();
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        if let Some(i) = self.behind.iter().position(|step| *step == metrics.step) {
            if !self.always {
                self.behind.remove(i);
            }
            self.device.as_ref().unwrap().destroy();
        }
    }

    fn interrupted(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        if self.asked.get() == self.at_question {
            self.device.as_ref().unwrap().destroy();
        }
        false
    }
}

#[test]
fn a_device_that_is_lost_in_every_phase_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    // steps 0 and 1 warm up, 2 and 3 collect: in groups, so that the state of before them is the one to go on from
    let text = format!("{COMMON}schedule = 'wl2'\nmask_grads = 2\nsteps = 5\nsave_steps = 2\nmask_workspace = '64KiB'");
    let whole = config(dir.path(), "whole", &text);
    Session::prepare(whole.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default()).unwrap();
    let broken = config(dir.path(), "broken", &text);
    // the first before there is a state
    let mut losing = Losing { behind: vec![0, 2, 6], ..Losing::default() };
    Session::prepare(broken.clone(), &mut losing).unwrap().run(&mut losing).unwrap();
    assert_eq!((losing.opened, losing.behind.len()), (4, 0));
    let amid = config(dir.path(), "amid", &text);
    // the questions before steps 0 to 3, then those of the second group's turn
    let mut repeated = Losing { at_question: 6, ..Losing::default() };
    Session::prepare(amid.clone(), &mut repeated).unwrap().run(&mut repeated).unwrap();
    assert!(repeated.notes.iter().any(|n| n.ends_with("goes on from step 3")), "{:?}", repeated.notes);
    assert_eq!(repeated.opened, 2);
    assert_same(&contents(&whole.out), &contents(&amid.out));
    let steps: Vec<&str> = losing.notes.iter().filter_map(|n| n.split("goes on from step ").nth(1)).collect();
    assert_eq!(steps, ["1", "3", "7"], "{:?}", losing.notes);
    assert_same(&contents(&whole.out), &contents(&broken.out));
}

#[test]
fn a_device_that_is_lost_while_a_run_is_loading_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    let text = format!("{COMMON}method = 'lora'\nsteps = 2\nsave_steps = 1");
    let [whole, broken, never] = ["whole", "broken", "never"].map(|out| config(dir.path(), out, &text));
    Session::prepare(whole.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default()).unwrap();
    let mut losing = Losing { unborn: 2, ..Losing::default() };
    Session::prepare(broken.clone(), &mut losing).unwrap().run(&mut losing).unwrap();
    let said = losing.notes.iter().filter(|n| n.contains("lost before the first step")).count();
    assert_eq!((losing.opened, said), (3, 2), "{:?}", losing.notes);
    assert_same(&contents(&whole.out), &contents(&broken.out));

    let mut losing = Losing { unborn: usize::MAX, ..Losing::default() };
    let error = Session::prepare(never.clone(), &mut losing).err().unwrap();
    assert!(
        matches!(error, Error::DeviceLost { .. }) && error.to_string().contains("4 times before the first step"),
        "{error}"
    );
    assert!(losing.opened == 4 && !never.out.exists());
}

#[test]
fn a_device_that_is_lost_again_and_again_ends_the_run_and_leaves_its_state() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    let text = format!("{COMMON}method = 'lora'\nsteps = 4\nsave_steps = 1");
    let run = config(dir.path(), "out", &text);
    let mut losing = Losing { behind: vec![1], always: true, ..Losing::default() };
    let error = Session::prepare(run.clone(), &mut losing).unwrap().run(&mut losing).unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    let text = error.to_string();
    for part in ["4 times", "⟨resume⟩ ⟨out⟩", "device lost"] {
        assert!(text.contains(part) && !text.contains('\n'), "{text}");
    }
    let shorter: Vec<bool> = ["a 4th", "a 16th", "a 64th"].map(|s| losing.notes.iter().any(|n| n.contains(s))).into();
    assert_eq!((losing.opened, shorter), (4, vec![true; 3]), "{:?}", losing.notes);
    // once it is sound again
    Session::resume(run.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default()).unwrap();
    assert!(run.out.join("adapter_config.json").exists() && !run.out.join("state").exists());
}
