//! Evaluations between the steps: they change no number of the training, go on after an interruption as if there had been none,
//! and are in the plan.

use super::resume::{COMMON, assert_same, contents};
use super::{Watcher, config, tiny};
use rugosa::error::Error;
use rugosa::train::metrics::{EvalMetrics, Line, StepMetrics};
use rugosa::train::plan::size;
use rugosa::train::{Observer, Outcome, Session};
use std::cell::Cell;
use std::path::Path;

const WARM: &str = "schedule = 'wl2'\nmask_grads = 2\nsteps = 6\n";

/// Interrupts when it is asked for the `stop_at`th time, from 0.
#[derive(Default)]
struct Impatient {
    stop_at: Option<usize>,
    asked: Cell<usize>,
    notes: Vec<String>,
    evaluated: Vec<EvalMetrics>,
    /// Also once it is evaluated behind so many steps.
    stop_after: Option<u64>,
}

impl Observer for Impatient {
    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }
    fn begin(&mut self, _: u64, _: u64) {}
    fn step(&mut self, _: &StepMetrics) {}
    fn evaluated(&mut self, metrics: &EvalMetrics) {
        self.evaluated.push(metrics.clone());
    }
    fn interrupted(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        let is_there = self.stop_after.is_some() && self.evaluated.last().map(|e| e.after) == self.stop_after;
        is_there || self.stop_at.is_some_and(|stop| self.asked.get() > stop)
    }
}

/// A folder with the model, rows to train on, and `test.jsonl`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 7, 6, 20);
    std::fs::rename(dir.path().join("rows.jsonl"), dir.path().join("test.jsonl")).unwrap();
    tiny::write_rows(dir.path(), 10, 6, 22);
    dir
}

/// Options for that.
fn on_test(dir: &Path, more: &str) -> String {
    format!("eval_data = '{}'\n{more}\n", dir.join("test.jsonl").display())
}

fn whole(dir: &Path, name: &str, text: &str) -> Outcome {
    let mut watcher = Watcher::default();
    Session::prepare(config(dir, name, text), &mut watcher).unwrap().run(&mut watcher).unwrap().outcome
}

fn lines(out: &Path) -> (Vec<StepMetrics>, Vec<EvalMetrics>) {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines() {
        match Line::parse(line.as_bytes()).unwrap() {
            Line::Step(step) => steps.push(StepMetrics { tokens_per_second: 0.0, ..step }),
            Line::Eval(evaluation) => evaluations.push(evaluation),
        }
    }
    (steps, evaluations)
}

#[test]
fn no_number_of_the_training_changes() {
    let dir = folder();
    for (name, text) in [
        ("rosa", format!("{COMMON}{WARM}").replace("steps = 6", "steps = 2")),
        (
            "groups",
            format!("{COMMON}{WARM}mask_workspace = '48KiB'\nrestart = false\n").replace("steps = 6", "steps = 8"),
        ),
        ("full", format!("{COMMON}method = 'full'\nsteps = 3\n").replace("dropout = 0.1\n", "")),
    ] {
        whole(dir.path(), name, &text);
        let seen = format!("{name}-seen");
        whole(dir.path(), &seen, &(text + &on_test(dir.path(), "eval_steps = 1\neval_answers = 2\neval_tokens = 2")));
        let [(steps, none), (watched, evaluations)] = [name, &seen].map(|out| lines(&dir.path().join(out)));
        assert_eq!(steps, watched, "{name}");
        assert!(none.is_empty() && evaluations.len() == steps.len() + 1, "{name}: {evaluations:?}");
        let places: Vec<u64> = evaluations.iter().map(|e| e.after).collect();
        assert_eq!(places, (0..=steps.len() as u64).collect::<Vec<_>>(), "{name}");
        let model = if name == "full" { "model.safetensors" } else { "adapter_model.safetensors" };
        let [a, b] = [name, &seen].map(|out| std::fs::read(dir.path().join(out).join(model)).unwrap());
        assert!(a == b, "{name}: the results differ");
    }
}

/// The loss is that of `Stepper` on the same rows without an update: what the first step reports, where the rows are the same.
#[test]
fn the_loss_before_the_first_step_is_that_of_the_step() {
    let dir = folder();
    let one = "gradient_accumulation_steps = 1\nbatch_size = 10\nseq_len = 24\nrank = 4\nmethod = 'lora'\nsteps = 1\n";
    let text = format!("{one}eval_data = '{}'\n", dir.path().join("rows.jsonl").display());
    whole(dir.path(), "run", &text);
    let (steps, evaluations) = lines(&dir.path().join("run"));
    let (step, evaluation) = (&steps[0], &evaluations[0]);
    assert_eq!((evaluation.after, evaluation.eval_tokens), (0, step.supervised_tokens));
    assert!((evaluation.eval_loss.unwrap() - step.loss).abs() < 1e-5, "{step:?} {evaluation:?}");
}

/// Interrupted before steps, in the middle of evaluations and between: the bytes of a run that never was, the best values among them.
#[test]
fn resume_is_bit_equal_at_any_moment() {
    let dir = folder();
    let evaluating =
        on_test(dir.path(), "eval_steps = 2\nkeep = 'best'\nearly_stopping = 2\neval_answers = 1\neval_tokens = 3");
    // rates that make it worse
    let text = format!("{COMMON}{WARM}lr = 0.2\nlora_lr = 0.2\n{evaluating}").replace("steps = 6", "steps = 12");
    for (name, text) in [("all", text.clone()), ("groups", text.clone() + "mask_workspace = '48KiB'\n")] {
        let outcome = whole(dir.path(), name, &text);
        let run = dir.path().join(name);
        let parts = config(dir.path(), &format!("{name}-parts"), &text);
        let mut interruptions = 0;
        // in the evaluation before the first step, then in others and between steps
        for stop_at in [1, 9, 17, 12].map(Some).into_iter().chain([None]) {
            let mut watcher = Impatient { stop_at, ..Impatient::default() };
            let session = match interruptions {
                0 => Session::prepare(parts.clone(), &mut watcher),
                _ => Session::resume(parts.clone(), &mut watcher),
            };
            match session.unwrap().run(&mut watcher) {
                Err(Error::Interrupted) => interruptions += 1,
                ended => {
                    let ended = ended.unwrap().outcome;
                    assert_eq!((ended.steps, ended.best, ended.stopped_early), (outcome.steps, outcome.best, true));
                    break;
                }
            }
        }
        assert!(interruptions >= 3, "{interruptions}");
        assert_same(&contents(&run), &contents(&parts.out));
    }
}

#[test]
fn the_best_values_are_kept_and_a_run_that_gets_no_better_ends() {
    let dir = folder();
    let text = format!("{COMMON}method = 'lora'\nlora_lr = 0.1\nsteps = 40\n");
    let text = text + &on_test(dir.path(), "eval_steps = 1\nkeep = 'best'\nearly_stopping = 3");
    let outcome = whole(dir.path(), "best", &text);
    let (best, loss) = outcome.best.unwrap();
    assert!(outcome.stopped_early && outcome.steps == best + 3 && outcome.steps < 40, "{outcome:?}");
    let (steps, evaluations) = lines(&dir.path().join("best"));
    assert_eq!(steps.len() as u64, outcome.steps);
    let lowest = evaluations[1..].iter().map(|e| e.eval_loss.unwrap()).fold(f64::INFINITY, f64::min);
    assert_eq!((loss, evaluations.iter().rfind(|e| e.best).map(|e| e.after)), (lowest, Some(best)));
    let stopped = config(dir.path(), "states", &text);
    let mut impatient = Impatient { stop_after: Some(best), ..Impatient::default() };
    let ended = Session::prepare(stopped.clone(), &mut impatient).unwrap().run(&mut impatient);
    assert!(matches!(ended, Err(Error::Interrupted)));
    let then = stopped.out.join(format!("state/step-{best}/adapter_model.safetensors"));
    let [kept, then] =
        [dir.path().join("best/adapter_model.safetensors"), then].map(|path| std::fs::read(path).unwrap());
    assert!(kept == then, "the adapter is not that of the best evaluation");
}

#[test]
fn held_out_rows_are_not_learnt_and_the_file_is_another_runs_where_it_changes() {
    let dir = folder();
    let text = format!("{COMMON}method = 'lora'\nsteps = 2\neval_split = 0.3\n");
    let mut watcher = Watcher::default();
    let run = config(dir.path(), "run", &text);
    let outcome = Session::prepare(run.clone(), &mut watcher).unwrap().run(&mut watcher).unwrap().outcome;
    assert_eq!(outcome.steps, 2);
    let told = |part: &str| watcher.notes.iter().any(|note| note.contains(part));
    assert!(
        told("evaluation: 3 rows") && told("before the first step, every 1 and after the last"),
        "{:?}",
        watcher.notes
    );
    // a change of what it is evaluated on is named on resume
    let text = format!("{COMMON}method = 'lora'\nsteps = 4\n{}", on_test(dir.path(), ""));
    let run = config(dir.path(), "changed", &text);
    let mut impatient = Impatient { stop_at: Some(6), ..Impatient::default() };
    let ended = Session::prepare(run.clone(), &mut impatient).unwrap().run(&mut impatient);
    assert!(matches!(ended, Err(Error::Interrupted)));
    tiny::write_rows(dir.path(), 5, 6, 20);
    std::fs::rename(dir.path().join("rows.jsonl"), dir.path().join("test.jsonl")).unwrap();
    tiny::write_rows(dir.path(), 10, 6, 22);
    let error = Session::resume(run, &mut impatient).map(drop).unwrap_err().to_string();
    assert!(error.contains("test.jsonl: eval_data: is not what the run to resume began with"), "{error}");
}

#[test]
fn the_plan_holds_evaluations_and_their_answers() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 24, 12, 48);
    let common = "steps = 3\nbatch_size = 2\ngradient_accumulation_steps = 2\nseq_len = 64\nrank = 4\ndensity = 0.05\n";
    let evaluating = "eval_split = 0.3\neval_steps = 1\neval_answers = 8\neval_tokens = 30\n";
    for (name, more) in [
        ("rosa", "schedule = 'wl1'\n"),
        ("groups", "schedule = 'wl1'\nmask_workspace = '96KiB'\n"),
        ("spa", "method = 'spa'\n"),
        // where the cache of answers takes more than a step's activations
        ("checkpointed", "method = 'lora'\ncheckpointing = 2\neval_tokens = 60\nseq_len = 48\n"),
    ] {
        let mut text = format!("{common}{evaluating}{more}");
        if name == "checkpointed" {
            text = text.replacen("seq_len = 64\n", "", 1).replacen("eval_tokens = 30\n", "", 1);
        }
        let outcome = whole(dir.path(), name, &text);
        let (plan, seen) = (outcome.plan.total, outcome.seen.total);
        assert!(seen <= plan && seen as f64 >= 0.95 * plan as f64, "{name}: {} of {} planned", size(seen), size(plan));
    }
}
