//! Masks that are scored group by group are those of a run with room for all scores.

use super::resume::{COMMON, assert_same, contents};
use super::{Watcher, config, tiny};
use rugosa::error::Error;
use rugosa::train::Session;

/// A workspace in which each linear's scores are made alone, and one for two groups or so.
const SMALL: [&str; 2] = ["0", "160KiB"];

#[test]
fn masks_do_not_depend_on_the_groups() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    for (name, more) in [
        ("restart", "schedule = 'wl1'\nmask_grads = 2\nsteps = 3"),
        ("goes on", "schedule = 'wl1'\nmask_grads = 2\nrestart = false\nmask_mode = 'mean'\nsteps = 5"),
        ("spa", "method = 'spa'\nmask_grads = 1\nsteps = 2"),
    ] {
        let run = |workspace: &str| {
            let text = format!("{COMMON}{more}\nmask_workspace = '{workspace}'");
            let run = config(dir.path(), &format!("{name} {workspace}"), &text);
            let mut watcher = Watcher::default();
            let outcome = Session::prepare(run.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap().outcome;
            let times = watcher.notes.iter().find_map(|n| n.split("collecting steps are run ").nth(1));
            let times = times.and_then(|n| n.split(' ').next()?.parse().ok()).unwrap_or(1u32);
            (contents(&run.out), times, outcome)
        };
        let (whole, once, all) = run("1GiB");
        assert_eq!(once, 1);
        for workspace in SMALL {
            let (grouped, times, outcome) = run(workspace);
            assert!(times > 1, "{name} {workspace}: {times}");
            assert_same(&whole, &grouped);
            let scores = |rows: &[(&str, u64)]| rows.iter().find(|r| r.0 == "mask scores").map_or(0, |r| r.1);
            let (seen, plan) = (&outcome.seen, &outcome.plan);
            assert!(seen.total <= plan.total && seen.total * 20 >= plan.total * 19, "{name}: {seen:?}, {plan:?}");
            assert!(seen.total <= all.seen.total, "{name}: {} and {}", seen.total, all.seen.total);
            let room = if workspace == "0" { 64 << 10 } else { 160 << 10 };
            assert!(scores(&seen.rows) <= room, "{name} {workspace}: {seen:?}");
        }
    }
}

#[test]
fn an_interruption_amid_the_groups_begins_the_collecting_steps_again() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    // steps 0 and 1 warm up, 2 and 3 collect
    let text = format!("{COMMON}schedule = 'wl2'\nmask_grads = 2\nsteps = 3\nmask_workspace = '0'\nsave_steps = 1");
    let whole = config(dir.path(), "whole", &text);
    Session::prepare(whole.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default()).unwrap();
    // before the second collecting step, and before a step of the third group
    for stop in [3, 7] {
        let parts = config(dir.path(), &format!("parts {stop}"), &text);
        let mut watcher = Watcher { stop_at: Some(stop), ..Watcher::default() };
        let ended = Session::prepare(parts.clone(), &mut watcher).unwrap().run(&mut watcher);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert!(watcher.notes.iter().any(|n| n.contains("that of before step 3")), "{:?}", watcher.notes);
        let mut watcher = Watcher::default();
        Session::resume(parts.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap();
        assert_eq!(watcher.seen.first(), Some(&2));
        assert_same(&contents(&whole.out), &contents(&parts.out));
    }
}
