use super::*;
use crate::train::config::PartialConfig;
use proptest::prelude::*;

/// The agenda of a run given by a method, a schedule and changes to its configuration.
fn agenda(method: Method, schedule: &str, steps: u64, masks: bool, edit: fn(&mut TrainConfig)) -> Result<Agenda> {
    let flags = PartialConfig {
        model: Some("m".into()),
        data: Some("d".into()),
        out: Some("o".into()),
        method: Some(method),
        ..PartialConfig::default()
    };
    let mut config = TrainConfig::resolve(PartialConfig::default(), flags).unwrap();
    config.schedule = Some(schedule.parse().unwrap());
    edit(&mut config);
    Agenda::new(&config, masks, steps)
}

/// One word a step: phase initial, then what trains (`l`, `s`, `f`), `c` collects, `!` masks are built after it; `|` stands
/// before a restart.
fn script(agenda: &Agenda) -> String {
    let word = |p: StepPlan| {
        let mut w = String::new();
        let marks = [
            (p.restart_before, "|"),
            (p.phase == Phase::Warmup, "W"),
            (p.phase == Phase::Collect, "C"),
            (p.phase == Phase::Train, "T"),
            (p.trains.has(Group::LowRank), "l"),
            (p.trains.has(Group::Sparse), "s"),
            (p.trains.has(Group::Weights), "f"),
            (p.collect, "c"),
            (p.build_masks_after, "!"),
        ];
        marks.iter().filter(|(on, _)| *on).for_each(|(_, mark)| w.push_str(mark));
        w
    };
    (0..).map_while(|t| agenda.plan(t)).map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_row_of_the_schedule_table() {
    use Method::*;
    let two: fn(&mut TrainConfig) = |c| c.mask_grads = Some(2);
    let go_on: fn(&mut TrainConfig) = |c| (c.mask_grads, c.restart) = (Some(2), false);
    let stop: fn(&mut TrainConfig) = |c| (c.mask_grads, c.mask_only) = (Some(2), true);
    #[rustfmt::skip]
    let table = [
        // method, schedule, steps, masks given, changes, expected
        (Rosa, "wl3", 2, false, two, "Wl Wl Wl Clc Clc! |Tls Tls"),
        (Rosa, "wl3", 7, false, go_on, "Wl Wl Wl Clc Clc! Tls Tls"),
        (Rosa, "wl3", 7, false, stop, "Wl Wl Wl Clc Clc!"),
        (Rosa, "wl3", 5, true, two, "Wl Wl Wl Tls Tls"),
        (Rosa, "wl3", 5, true, go_on, "Wl Wl Wl Tls Tls"),
        (Rosa, "default", 2, false, two, "Clc Clc! |Tls Tls"),
        (Rosa, "df", 4, false, go_on, "Clc Clc! Tls Tls"),
        (Rosa, "wl0", 4, false, go_on, "Clc Clc! Tls Tls"),
        (Rosa, "default", 2, true, two, "Tls Tls"),
        (Rosa, "spa_only", 2, false, two, "Cc Cc! |Ts Ts"),
        (Spa, "spa_only", 2, false, two, "Cc Cc! |Ts Ts"),
        (Spa, "spa_only", 4, false, go_on, "Cc Cc! Ts Ts"),
        (Spa, "spa_only", 2, false, stop, "Cc Cc!"),
        (Spa, "default", 2, false, two, "Cc Cc! |Ts Ts"),
        (Spa, "spa_only", 2, true, two, "Ts Ts"),
        (Lora, "lora_only", 2, false, two, "Tl Tl"),
        (Full, "default", 2, false, two, "Tf Tf"),
    ];
    for (method, schedule, steps, masks, edit, expected) in table {
        let agenda = agenda(method, schedule, steps, masks, edit).unwrap();
        assert_eq!(script(&agenda), expected, "{method:?} {schedule}, {steps} steps, masks given: {masks}");
        assert_eq!(agenda.steps(), expected.split(' ').count() as u64);
    }
}

fn positions(agenda: &Agenda) -> Vec<(u64, u64)> {
    (0..).map_while(|t| agenda.plan(t)).map(|p| (p.schedule_step, p.total_steps)).collect()
}

#[test]
fn a_restart_begins_the_schedule_again() {
    let agenda = agenda(Method::Rosa, "wl2", 4, false, |_| ()).unwrap();
    assert_eq!(positions(&agenda), [(0, 4), (1, 4), (2, 4), (0, 4), (1, 4), (2, 4), (3, 4)]);
    assert_eq!([Phase::Warmup, Phase::Collect, Phase::Train].map(|p| agenda.phase_steps(p)), [2, 1, 4]);
}

#[test]
fn going_on_goes_on_in_the_schedule() {
    let agenda = agenda(Method::Rosa, "wl2", 5, false, |c| c.restart = false).unwrap();
    assert_eq!(positions(&agenda), [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]);
}

#[test]
fn a_warm_up_longer_than_the_run_is_not_starved() {
    let agenda = agenda(Method::Rosa, "wl6", 2, false, |_| ()).unwrap();
    let p = positions(&agenda);
    assert_eq!((p[0], p[6], p[7]), ((0, 7), (6, 7), (0, 2)));
}

#[test]
fn runs_without_a_step_for_the_sparse_values_are_errors() {
    let message = |a: Result<Agenda>| a.unwrap_err().to_string();
    let go_on = |c: &mut TrainConfig| c.restart = false;
    let m = message(agenda(Method::Rosa, "wl64", 65, false, go_on));
    assert!(m.contains("takes 65 steps") && m.contains("⟨schedule⟩ wl16"), "{m}");
    assert!(agenda(Method::Rosa, "wl64", 66, false, go_on).is_ok());
    assert!(message(agenda(Method::Rosa, "wl3", 3, true, |_| ())).contains("the run has 3"));
    assert!(message(agenda(Method::Lora, "lora_only", 0, false, |_| ())).contains("no steps"));
    assert!(message(agenda(Method::Rosa, "default", 9, true, |c| c.mask_only = true)).contains("given already"));
}

#[test]
fn schedules_are_read_as_written() {
    for text in ["default", "wl1", "wl64", "spa_only", "lora_only"] {
        assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
    }
    for bad in ["", "wl", "wl-1", "wl+1", "wlx", "wl 3", "wl4294967296", "spa", "WL64"] {
        let message = bad.parse::<Schedule>().unwrap_err();
        assert!(message.contains("wl64"), "{bad}: {message}");
    }
}

#[test]
fn what_is_thrown_away_is_said() {
    let line = |schedule: &str, steps: u64, masks: bool, edit| {
        agenda(Method::Rosa, schedule, steps, masks, edit).unwrap().line()
    };
    let go_on = |c: &mut TrainConfig| c.restart = false;
    let as_is = |_: &mut TrainConfig| ();
    let all = line("wl16", 64, false, as_is).unwrap();
    let expected = "schedule: 16 steps of low-rank warm-up and 1 to choose the masks, thrown away at the restart (⟨no_restart⟩ \
                    goes on from it), then 64 steps of training";
    assert_eq!(all, expected);
    let short = line("wl64", 3, false, as_is).unwrap();
    assert!(
        short.contains("more than is kept")
            && short.contains("⟨schedule⟩ wlN")
            && short.ends_with("3 steps of training"),
        "{short}"
    );
    let kept = line("wl16", 64, false, go_on).unwrap();
    assert_eq!(kept, "schedule: 16 steps of low-rank warm-up and 1 to choose the masks, then 47 steps of training");
    assert!(line("default", 9, false, as_is).unwrap().starts_with("schedule: 1 step to choose the masks, thrown away"));
    assert!(line("wl2", 9, true, as_is).unwrap().starts_with("schedule: 2 steps of low-rank warm-up, then 7 steps"));
    let spa = line("spa_only", 9, false, as_is).unwrap();
    assert_eq!(spa, "schedule: 1 step to choose the masks, then 9 steps of training", "nothing trained before");
    assert_eq!(line("default", 9, true, as_is), None);
    assert_eq!(line("wl2", 9, false, |c| c.mask_only = true), None);
}

#[test]
fn an_endless_run_does_not_overflow() {
    let agenda =
        agenda(Method::Rosa, "wl4294967295", i64::MAX as u64, false, |c| c.mask_grads = Some(u32::MAX)).unwrap();
    assert!(agenda.plan(agenda.steps() - 1).is_some() && agenda.plan(agenda.steps()).is_none());
}

proptest! {
    #[test]
    fn an_agenda_goes_through_its_phases_once(
        warm in 0u32..12, grads in 1u32..6, steps in 1u64..40, restart: bool, masks: bool, spa: bool,
    ) {
        let flags = PartialConfig {
            model: Some("m".into()), data: Some("d".into()), out: Some("o".into()), method: Some(Method::Rosa),
            ..PartialConfig::default()
        };
        let mut config = TrainConfig::resolve(PartialConfig::default(), flags).unwrap();
        config.schedule = Some(if spa { Schedule::SpaOnly } else { Schedule::WarmLora(warm) });
        (config.mask_grads, config.restart) = (Some(grads), restart);
        let before = if spa { 0 } else { u64::from(warm) } + if masks { 0 } else { u64::from(grads) };
        let agenda = match Agenda::new(&config, masks, steps) {
            Ok(agenda) => agenda,
            Err(_) => {
                prop_assert!((masks || !restart) && steps <= before);
                return Ok(());
            }
        };
        let plans: Vec<StepPlan> = (0..).map_while(|t| agenda.plan(t)).collect();
        prop_assert_eq!(plans.len() as u64, agenda.steps());
        let again = restart && !masks;
        prop_assert_eq!(agenda.steps(), if again { before + steps } else { steps });
        prop_assert!(plans.windows(2).all(|w| w[0].phase as u8 <= w[1].phase as u8), "phases in order");
        for phase in [Phase::Warmup, Phase::Collect, Phase::Train] {
            prop_assert_eq!(plans.iter().filter(|p| p.phase == phase).count() as u64, agenda.phase_steps(phase));
        }
        let at = |mark: fn(&StepPlan) -> bool| -> Vec<usize> {
            (plans.iter().enumerate()).filter(|(_, p)| mark(p)).map(|(i, _)| i).collect()
        };
        let first = before as usize;
        prop_assert_eq!(at(|p| p.build_masks_after), if masks { vec![] } else { vec![first - 1] });
        prop_assert_eq!(at(|p| p.restart_before), if again { vec![first] } else { vec![] });
        prop_assert!(plans.iter().all(|p| p.collect == (p.phase == Phase::Collect)));
        prop_assert!(plans.iter().all(|p| p.trains.has(Group::Sparse) == (p.phase == Phase::Train)));
        prop_assert!(plans.iter().all(|p| p.trains.has(Group::LowRank) != spa));
        // the schedule's step counts on, or from the start again, and stays inside of its length
        for (i, p) in plans.iter().enumerate() {
            let want = if again && i >= first { i - first } else { i };
            prop_assert_eq!(p.schedule_step, want as u64);
            prop_assert!(p.schedule_step < p.total_steps);
        }
    }
}
