//! The loss of rows: negative log-likelihoods of the tokens that they teach.

use super::Progress;
use crate::autograd::Tape;
use crate::autograd::ops::head_nll;
use crate::data::{Batch, ExampleRef};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::nn::{Decoder, DeviceBatch};
use std::path::Path;

/// The negative log-likelihood of each row's supervised tokens, in nats: of all rows of `batches`, each of which is computed
/// at once.
///
/// # Errors
/// [`Error::Interrupted`] where `progress` says so; those of the device.
pub fn token_nll(
    device: &Device,
    model: &Decoder,
    batches: &[&[ExampleRef<'_>]],
    progress: Progress<'_>,
) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::with_capacity(batches.iter().map(|rows| rows.len()).sum());
    for rows in batches {
        if !progress(all.len()) {
            return Err(Error::Interrupted);
        }
        let batch = Batch::new(rows.iter().copied(), 0);
        let on_device = DeviceBatch::upload(device, &batch, model.config.sliding_window)?;
        let hidden = model.hidden(&mut Tape::inference(), &on_device.input, 0)?;
        let nll = head_nll(&hidden.value, &model.head, &on_device.targets)?;
        let mut rest = nll.into_iter();
        // what a row's first token should have been is never asked
        let asked = |e: &ExampleRef<'_>| e.labels.iter().skip(1).filter(|l| **l >= 0).count();
        all.extend(rows.iter().map(|e| rest.by_ref().take(asked(e)).collect::<Vec<_>>()));
    }
    progress(all.len());
    Ok(all)
}

/// `examples` in batches of `rows` rows.
pub fn batches_of_rows<'e, 'a>(examples: &'e [ExampleRef<'a>], rows: usize) -> Vec<&'e [ExampleRef<'a>]> {
    examples.chunks(rows.max(1)).collect()
}

/// `examples` in batches of at most `tokens` tokens, and of one row where that has more.
pub fn batches_of_tokens<'e, 'a>(examples: &'e [ExampleRef<'a>], tokens: usize) -> Vec<&'e [ExampleRef<'a>]> {
    let mut batches = Vec::new();
    let (mut first, mut held) = (0, 0);
    for (i, example) in examples.iter().enumerate() {
        if i > first && held + example.ids.len() > tokens {
            batches.push(&examples[first..i]);
            (first, held) = (i, 0);
        }
        held += example.ids.len();
    }
    if first < examples.len() {
        batches.push(&examples[first..]);
    }
    batches
}

/// The sum, and the number of tokens.
pub fn total(rows: &[Vec<f32>]) -> (f64, usize) {
    let sum = rows.iter().flatten().map(|n| f64::from(*n)).sum();
    (sum, rows.iter().map(Vec::len).sum())
}

/// Refuses a loss that is no number: it is none of the model's.
///
/// # Errors
/// [`Error::Row`] with the line of the first such row.
pub fn check_finite(rows: &[Vec<f32>], examples: &[ExampleRef<'_>], path: &Path, precision: Precision) -> Result<()> {
    let Some(i) = rows.iter().position(|row| row.iter().any(|nll| !nll.is_finite())) else { return Ok(()) };
    let way_out = match precision {
        Precision::F16 => "f16 may be too small for this model: use ⟨precision⟩ f32",
        Precision::F32 => "check the device with rugosa selftest, or use another model or adapter",
    };
    let reason = format!("the row's loss is not finite: numbers overflow on the way to it; {way_out}");
    Err(Error::row(path, examples[i].line, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_row_once_and_no_more_tokens_than_asked() {
        let ids = [7u32; 9];
        let labels = [7i32; 9];
        let rows: Vec<ExampleRef<'_>> =
            [3, 4, 9, 2, 2, 2, 5].map(|n| ExampleRef { ids: &ids[..n], labels: &labels[..n], line: n }).to_vec();
        let sizes = |tokens: usize| -> Vec<Vec<usize>> {
            batches_of_tokens(&rows, tokens).iter().map(|b| b.iter().map(|e| e.line).collect()).collect()
        };
        assert_eq!(sizes(7), [vec![3, 4], vec![9], vec![2, 2, 2], vec![5]]);
        assert_eq!(sizes(1).len(), rows.len());
        assert_eq!(sizes(100), [vec![3, 4, 9, 2, 2, 2, 5]]);
        assert!(batches_of_tokens(&[], 7).is_empty());
    }
}
