//! What is said about a run's length: before it, what its steps are spent on; behind it, whether it ended better than what it
//! threw away.

use super::config::TrainConfig;
use super::metrics::StepMetrics;
use super::phase::{Agenda, Phase};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Steps whose losses are averaged at each end, at most: a step's loss varies with its rows.
const STEPS: usize = 8;

/// Lines about a run before it starts: `asked` is its configuration as it was given, `config` as it follows from the data.
pub fn before(asked: &TrainConfig, config: &TrainConfig, agenda: &Agenda, steps: u64) -> Vec<String> {
    let mut lines = Vec::new();
    if config.like_paper {
        lines.push(LIKE_PAPER.to_owned());
    }
    let derived = (asked.gradient_accumulation_steps.is_none() && config.micro_batches() < asked.micro_batches())
        || (asked.epochs.is_none() && config.epochs.is_some_and(|e| e > 1.0));
    if derived {
        let count = |n: f64, one: &str, more: &str| format!("{n} {}", if n == 1.0 { one } else { more });
        lines.push(format!(
            "length: {} of {} in {}, since there are few rows (⟨steps⟩, ⟨epochs⟩ and \
             ⟨gradient_accumulation_steps⟩ say otherwise)",
            count(steps as f64, "step", "steps"),
            count(config.micro_batches() as f64, "micro-batch", "micro-batches"),
            count(config.epochs.unwrap_or(1.0), "epoch", "epochs")
        ));
    }
    lines.extend(agenda.line());
    if let Some(rise) = config.warmup_steps.filter(|w| *w >= steps) {
        lines.push(format!(
            "the rates rise over {rise} steps and the run has {steps}: they never reach ⟨lr⟩ and ⟨lora_lr⟩; give fewer \
             ⟨warmup_steps⟩ or train longer"
        ));
    }
    lines
}

/// What the original does and `--like-paper` does not.
const LIKE_PAPER: &str = "like the paper, but: gradients and products are not rounded to bf16; masks of q_proj, k_proj and gate_proj \
                          come from their gradients (from zeros there); rows of messages go through the chat template";

/// A line where the last loss of the run whose `metrics.jsonl` is at `path` is above one from before the restart.
///
/// # Errors
/// [`Error::Io`].
pub fn after(path: &Path) -> Result<Option<String>> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for line in BufReader::new(File::open(path).map_err(Error::io(path))?).lines() {
        let metrics = serde_json::from_str::<StepMetrics>(&line.map_err(Error::io(path))?);
        let Some(m) = metrics.ok().filter(|m| m.loss.is_finite()) else { continue };
        if m.phase == Phase::Train { after.push(m.loss) } else { before.push(m.loss) }
    }
    Ok(compare(&before, &after))
}

fn compare(before: &[f64], after: &[f64]) -> Option<String> {
    let lowest = before.iter().copied().reduce(f64::min)?;
    let last = after.last().copied().filter(|last| *last > lowest)?;
    let steps = STEPS.min(before.len()).min(after.len());
    let mean = |losses: &[f64]| losses[losses.len() - steps..].iter().sum::<f64>() / steps as f64;
    let (was, is) = (mean(before), mean(after));
    let span =
        if steps == 1 { "in the last step".to_owned() } else { format!("in the mean of the last {steps} steps") };
    let advice = match is > was {
        true => "; train longer (⟨epochs⟩ or ⟨steps⟩), or go on from there with ⟨no_restart⟩",
        false => "",
    };
    Some(format!(
        "the last loss, {last:.4}, is above the lowest of those thrown away at the restart, {lowest:.4}; {span} it is {is:.4} \
         here and was {was:.4} there{advice}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::PartialConfig;

    /// What is said before a run with the options `more` over so many sequences.
    fn lines(more: PartialConfig, sequences: usize) -> Vec<String> {
        let paths = PartialConfig {
            model: Some("m".into()),
            data: Some("d".into()),
            out: Some("o".into()),
            ..PartialConfig::default()
        };
        let asked = TrainConfig::resolve(paths, more).unwrap();
        let config = asked.clone().for_data(sequences).unwrap();
        let steps = config.total_steps(sequences.div_ceil(config.micro_batches()) as u64);
        before(&asked, &config, &Agenda::new(&config, false, steps).unwrap(), steps)
    }

    #[test]
    fn a_length_that_follows_from_few_rows_is_said() {
        let few = lines(PartialConfig::default(), 35);
        assert!(
            few[0].starts_with("length: 105 steps of 1 micro-batch in 3 epochs, since there are few rows"),
            "{few:?}"
        );
        assert!(
            few[1].starts_with("schedule: 18 steps of low-rank warm-up and 8 to choose the masks, thrown away"),
            "{few:?}"
        );
        assert!(
            lines(PartialConfig::default(), 200)[0].starts_with("length: 100 steps of 2 micro-batches in 1 epoch,")
        );
        assert_eq!(lines(PartialConfig::default(), 8000).len(), 1, "many rows: the schedule alone");
        assert_eq!(
            lines(PartialConfig { steps: Some(9), ..PartialConfig::default() }, 35).len(),
            1,
            "a length that is given"
        );
    }

    #[test]
    fn what_is_not_like_the_paper_is_said() {
        let paper = lines(PartialConfig { like_paper: Some(true), steps: Some(9), ..PartialConfig::default() }, 35);
        assert!(paper[0].starts_with("like the paper, but: ") && paper[0].contains("bf16"), "{paper:?}");
        assert!(paper[1].contains("64 steps of low-rank warm-up and 1 to choose the masks, thrown away"), "{paper:?}");
        assert!(paper[2].starts_with("the rates rise over 20 steps and the run has 9"), "{paper:?}");
    }

    #[test]
    fn a_run_that_ends_below_what_it_threw_away_needs_no_line() {
        assert_eq!(compare(&[3.0, 2.0, 1.0], &[3.0, 2.0, 0.9]), None);
        assert_eq!(compare(&[], &[3.0]), None);
        assert_eq!(compare(&[3.0], &[]), None);
    }

    #[test]
    fn a_run_that_ends_above_it_says_so_with_the_way_out() {
        let line = compare(&[5.5, 3.0, 0.4], &[5.5, 5.3, 5.26]).unwrap();
        assert!(
            line.starts_with("the last loss, 5.2600, is above") && line.contains("away at the restart, 0.4000"),
            "{line}"
        );
        assert!(line.contains("mean of the last 3 steps it is 5.3533 here and was 2.9667 there"), "{line}");
        assert!(line.contains("⟨no_restart⟩"), "{line}");
        assert!(compare(&[2.0], &[3.0]).unwrap().contains("in the last step it is 3.0000"), "one step");
    }

    #[test]
    fn one_bad_batch_at_the_end_is_told_from_a_bad_run() {
        let line = compare(&[3.0, 1.0, 2.0], &[1.0, 0.5, 1.1]).unwrap();
        assert!(line.contains("it is 0.8667 here and was 2.0000 there") && !line.contains("⟨no_restart⟩"), "{line}");
    }
}
