//! The curves of runs.

use super::chart::{Band, Chart, Look, Series};
use super::html::number;
use super::run::RunFiles;
use crate::train::metrics::StepMetrics;
use crate::train::phase::Phase;
use std::collections::VecDeque;

/// A loss is shown as the mean of so many steps: one of so many parts of the run, and at most so many.
const PARTS: usize = 20;
const MOST_STEPS: usize = 100;
/// Colours that are told apart.
pub const COLOURS: usize = 8;

/// Loss and evaluation loss, with the phases marked where there is one run.
pub fn losses(runs: &[RunFiles]) -> Chart {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let raw: Vec<(f64, f64)> = run.steps.iter().map(|m| (at(m), m.loss)).collect();
        let evaluated: Vec<(f64, f64)> =
            run.evaluations.iter().filter_map(|e| Some((e.after as f64, e.eval_loss?))).collect();
        let (mean, evaluation) = if runs.len() == 1 {
            ("training loss, mean of a few steps".to_owned(), "evaluation loss".to_owned())
        } else {
            (run.name.clone(), format!("{}, evaluation", run.name))
        };
        let colour = i % COLOURS;
        let eval_colour = if runs.len() == 1 { 1 } else { colour };
        series.push(Series { name: mean, colour, points: smooth(&run.steps), look: Look::Line });
        if runs.len() == 1 {
            series.push(Series { name: "training loss".into(), colour, points: raw, look: Look::Faint });
        }
        series.push(Series { name: evaluation, colour: eval_colour, points: evaluated, look: Look::Marked });
    }
    let bands = if let [run] = runs { bands(run) } else { Vec::new() };
    // short phases have no room for their names
    let names: Vec<String> = bands.iter().map(|b| format!("{} to {}", b.name, number(b.to))).collect();
    let x = if names.is_empty() { "step".to_owned() } else { format!("step; {}", names.join(", ")) };
    Chart { title: "Loss, nats a token".into(), x, series, bands, is_tall: true, from_zero: false }
}

/// The other numbers of the steps.
pub fn others(runs: &[RunFiles]) -> Vec<Chart> {
    type Value = fn(&StepMetrics) -> Option<f64>;
    let of = |title: &str, from_zero: bool, values: &[(&str, Look, Value)]| {
        let mut series = Vec::new();
        for (i, run) in runs.iter().enumerate() {
            for (j, (what, look, value)) in values.iter().enumerate() {
                let points = run.steps.iter().filter_map(|m| Some((at(m), value(m)?))).collect();
                let (name, colour) = match (runs.len(), values.len()) {
                    (1, _) => ((*what).to_owned(), j),
                    (_, 1) => (run.name.clone(), i % COLOURS),
                    _ => (format!("{}, {what}", run.name), i % COLOURS),
                };
                series.push(Series { name, colour, points, look: *look });
            }
        }
        Chart { title: title.into(), x: "step".into(), series, bands: Vec::new(), from_zero, is_tall: false }
    };
    vec![
        of(
            "Learning rate",
            true,
            &[
                ("sparse values or weights", Look::Line, |m| (m.lora_lr != Some(m.lr)).then_some(m.lr)),
                ("low-rank adapters", Look::Dashed, |m| m.lora_lr),
            ],
        ),
        of("Norm of the gradient", true, &[("norm", Look::Line, |m| Some(m.grad_norm))]),
        of("Tokens a second", true, &[("tokens", Look::Line, |m| Some(m.tokens_per_second))]),
        matches(runs),
    ]
}

/// Exact matches of the evaluations.
fn matches(runs: &[RunFiles]) -> Chart {
    let series = (runs.iter().enumerate())
        .map(|(i, run)| Series {
            name: run.name.clone(),
            colour: if runs.len() == 1 { 1 } else { i % COLOURS },
            points: run.evaluations.iter().filter_map(|e| Some((e.after as f64, 100.0 * e.exact_match?))).collect(),
            look: Look::Marked,
        })
        .collect();
    Chart { title: "Exact match, %".into(), x: "step".into(), series, from_zero: true, ..Chart::default() }
}

/// A step counts once it is done.
fn at(m: &StepMetrics) -> f64 {
    (m.step + 1) as f64
}

/// The mean of the last steps' losses at each step; begins anew where training does, for the model is another one there.
fn smooth(steps: &[StepMetrics]) -> Vec<(f64, f64)> {
    let width = (steps.len() / PARTS).clamp(1, MOST_STEPS);
    let (mut window, mut phase) = (VecDeque::new(), None);
    let mut points = Vec::with_capacity(steps.len());
    for m in steps.iter().filter(|m| m.loss.is_finite()) {
        if phase.replace(m.phase) != Some(m.phase) && m.phase == Phase::Train {
            window.clear();
        }
        window.push_back(m.loss);
        if window.len() > width {
            window.pop_front();
        }
        points.push((at(m), window.iter().sum::<f64>() / window.len() as f64));
    }
    points
}

/// The phases of a run, where there are several.
fn bands(run: &RunFiles) -> Vec<Band> {
    let mut bands: Vec<(Phase, f64, f64)> = Vec::new();
    for m in &run.steps {
        let from = bands.last().map_or(1.0, |band| band.2);
        match bands.last_mut() {
            Some(band) if band.0 == m.phase => band.2 = at(m),
            _ => bands.push((m.phase, from, at(m))),
        }
    }
    if bands.len() < 2 {
        return Vec::new();
    }
    let name = |phase| match phase {
        Phase::Warmup => "warm-up",
        Phase::Collect => "masks",
        Phase::Train => "training",
    };
    bands.into_iter().map(|(phase, from, to)| Band { name: name(phase).into(), from, to }).collect()
}

/// The last loss of a run, as a mean, for a table.
pub fn last_loss(run: &RunFiles) -> Option<f64> {
    smooth(&run.steps).last().map(|p| p.1)
}

/// The speed in the middle of all steps': a few of them wait for something.
pub fn speed(run: &RunFiles) -> Option<String> {
    let mut all: Vec<f64> = run.steps.iter().map(|m| m.tokens_per_second).filter(|t| t.is_finite()).collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).map(|speed| number(*speed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, phase: Phase, loss: f64) -> StepMetrics {
        StepMetrics {
            step,
            phase,
            schedule_step: step,
            loss,
            lr: 0.0,
            lora_lr: None,
            grad_norm: 1.0,
            supervised_tokens: 1,
            tokens: 1,
            tokens_per_second: 1.0,
            epoch: 0.0,
            skipped: false,
        }
    }

    #[test]
    fn means_are_of_a_few_steps_and_of_no_other_phase() {
        let phase = |i: u64| if i < 30 { Phase::Warmup } else { Phase::Train };
        let steps: Vec<StepMetrics> = (0..60).map(|i| step(i, phase(i), i as f64)).collect();
        let means = smooth(&steps);
        assert_eq!((means[0], means[29], means[30], means[31]), ((1.0, 0.0), (30.0, 28.0), (31.0, 30.0), (32.0, 30.5)));
        let gap = [step(0, Phase::Train, 4.0), step(1, Phase::Train, f64::NAN), step(2, Phase::Train, 2.0)];
        assert_eq!(smooth(&gap), [(1.0, 4.0), (3.0, 2.0)]);
    }
}
