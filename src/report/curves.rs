//! The curves of runs.

use super::chart::{Band, Chart, Look, Series};
use super::html::number;
use super::run::RunFiles;
use crate::train::metrics::StepMetrics;
use crate::train::phase::Phase;

/// Weight of the newest step in the running mean of a loss, where there are many steps; with few it is more.
const NEWEST: f64 = 0.05;
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
            ("training loss, running mean".to_owned(), "evaluation loss".to_owned())
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
    Chart { title: "Loss, nats a token".into(), x: "step".into(), series, bands, is_tall: true, from_zero: false }
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

/// The running mean of the loss; begins anew with each phase, whose model is another one.
fn smooth(steps: &[StepMetrics]) -> Vec<(f64, f64)> {
    let newest = NEWEST.max(4.0 / steps.len().max(8) as f64);
    let (mut mean, mut phase) = (None, None);
    let mut points = Vec::with_capacity(steps.len());
    for m in steps.iter().filter(|m| m.loss.is_finite()) {
        if phase.replace(m.phase) != Some(m.phase) && m.phase == Phase::Train {
            mean = None;
        }
        let next = mean.map_or(m.loss, |mean: f64| mean + newest * (m.loss - mean));
        mean = Some(next);
        points.push((at(m), next));
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
