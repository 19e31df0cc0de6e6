//! Rows that are held out of training.

use super::dataset::{Dataset, ExampleRef};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// The rows to train on, and those that are held out: about `share` of all, at least one of each.
///
/// Which ones depends on `seed` and on what the rows hold, not on their order, so rows that are alike are on one side; and rows are
/// packed into sequences behind this, so no sequence has rows of both.
///
/// # Errors
/// [`Error::Usage`] where the rows cannot be parted.
pub fn split(all: &Dataset, share: f64, seed: u64) -> Result<(Dataset, Dataset)> {
    let mut drawn: Vec<(u64, usize)> = all.examples().enumerate().map(|(i, row)| (draw(row, seed), i)).collect();
    drawn.sort_unstable();
    let wanted = ((share * all.len() as f64).round() as usize).clamp(1, all.len());
    // rows that are alike are drawn alike
    let alike = drawn[wanted..].iter().take_while(|row| row.0 == drawn[wanted - 1].0).count();
    let (held_out, kept) = drawn.split_at(wanted + alike);
    if kept.is_empty() {
        let reason =
            format!("{share} of {} rows, of which like ones stay together, leaves none to train on", all.len());
        return Err(
            Error::option("eval_split", format!("{reason}; use a smaller share, or ⟨eval_data⟩ FILE")).as_usage()
        );
    }
    let in_order = |rows: &[(u64, usize)]| {
        let mut indices: Vec<usize> = rows.iter().map(|row| row.1).collect();
        indices.sort_unstable();
        indices
    };
    Ok((all.of_indices(&in_order(kept))?, all.of_indices(&in_order(held_out))?))
}

/// A number that stands for what a row holds and the seed.
fn draw(row: ExampleRef<'_>, seed: u64) -> u64 {
    let words = row.ids.iter().zip(row.labels);
    let held = words.fold(row.ids.len() as u64, |sum, (&id, &label)| {
        let word = u64::from(id) << 32 | u64::from(label as u32);
        Rng::new(sum, word).next_u64()
    });
    Rng::named(seed ^ held, "held out").next_u64()
}
