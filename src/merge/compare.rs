//! What a model lost: two models on the same rows, token by token.

use crate::autograd::Tape;
use crate::autograd::ops::head_logits;
use crate::data::{Batch, ExampleRef};
use crate::error::{Error, Result};
use crate::nn::{Decoder, DeviceBatch};
use rayon::prelude::*;

/// Two models on the supervised tokens of some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    pub tokens: usize,
    /// Mean negative log-likelihood of a token, in nats, before and after.
    pub nll_before: f64,
    pub nll_after: f64,
    /// Mean of KL(before ‖ after) of a token, in nats, and the largest.
    pub kl: f64,
    pub kl_most: f64,
    /// Share of the tokens for which both find the same one the likeliest.
    pub same_top: f64,
}

/// Compares `before` and `after` on `rows`, `batch_size` at a time. Both are on a device, not necessarily on one.
///
/// # Errors
/// Those of the devices; [`Error::NonFinite`] where a logit is not finite; [`Error::Invalid`] without supervised tokens.
pub fn compare(
    before: &Decoder,
    after: &Decoder,
    rows: &[ExampleRef<'_>],
    batch_size: usize,
    mut go_on: impl FnMut() -> bool,
) -> Result<Comparison> {
    let mut sum = Comparison::default();
    for rows in rows.chunks(batch_size) {
        if !go_on() {
            return Err(Error::Interrupted);
        }
        let batch = Batch::new(rows.iter().copied(), 0);
        let asked: Vec<usize> = batch.targets.iter().filter(|t| **t >= 0).map(|t| *t as usize).collect();
        let run = |model: &Decoder| {
            let device = model.norm.weight.value.device();
            let on_device = DeviceBatch::upload(device, &batch, model.config.sliding_window)?;
            let hidden = model.hidden(&mut Tape::inference(), &on_device.input, 0)?;
            Ok::<_, Error>((hidden.value, on_device.targets))
        };
        let (first, second) = (run(before)?, run(after)?);
        let vocab = before.head.vocab;
        let chunks = head_logits(&first.0, &before.head, &first.1).zip(head_logits(&second.0, &after.head, &second.1));
        let mut at = 0;
        for (one, two) in chunks {
            let (one, two) = (one?, two?);
            let tokens = one.len() / vocab;
            let each: Vec<Token> = (one.par_chunks(vocab).zip(two.par_chunks(vocab)).zip(&asked[at..at + tokens]))
                .map(|((a, b), target)| Token::of(a, b, *target))
                .collect();
            each.iter().for_each(|token| sum.add(token));
            at += tokens;
        }
    }
    if sum.tokens == 0 {
        return Err(Error::option("data", "no token of these rows is supervised; there is nothing to measure"));
    }
    let n = sum.tokens as f64;
    let mean = |v: f64| v / n;
    let all = Comparison {
        nll_before: mean(sum.nll_before),
        nll_after: mean(sum.nll_after),
        kl: mean(sum.kl),
        same_top: mean(sum.same_top),
        ..sum
    };
    if !all.nll_before.is_finite() || !all.nll_after.is_finite() || !all.kl.is_finite() {
        let reason =
            "numbers overflow on the way to the logits; use ⟨precision⟩ f32, or check the device with rugosa selftest";
        return Err(Error::NonFinite { what: "logits".into(), reason: reason.into() });
    }
    Ok(all)
}

impl Comparison {
    fn add(&mut self, token: &Token) {
        self.tokens += 1;
        self.nll_before += token.nll[0];
        self.nll_after += token.nll[1];
        self.kl += token.kl;
        self.kl_most = self.kl_most.max(token.kl);
        self.same_top += f64::from(u8::from(token.same_top));
    }
}

struct Token {
    nll: [f64; 2],
    kl: f64,
    same_top: bool,
}

impl Token {
    /// From the logits of both models.
    fn of(before: &[f32], after: &[f32], target: usize) -> Token {
        let (a, b) = (log_total(before), log_total(after));
        let log = |logits: &[f32], total: f64, i: usize| f64::from(logits[i]) - total;
        let term = |i: usize| {
            let p = log(before, a, i);
            p.exp() * (p - log(after, b, i))
        };
        let top = |logits: &[f32]| (0..logits.len()).max_by(|x, y| logits[*x].total_cmp(&logits[*y]).then(y.cmp(x)));
        Token {
            nll: [-log(before, a, target), -log(after, b, target)],
            // a rounding may leave it below zero
            kl: (0..before.len()).map(term).sum::<f64>().max(0.0),
            same_top: top(before) == top(after),
        }
    }
}

/// log Σ exp
fn log_total(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    f64::from(most) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_distributions() {
        let logits = |p: [f32; 3]| p.map(f32::ln);
        let token = Token::of(&logits([0.5, 0.25, 0.25]), &logits([0.25, 0.5, 0.25]).map(|l| l + 3.0), 1);
        assert!((token.kl - 0.25 * 2f64.ln()).abs() < 1e-6, "{}", token.kl);
        assert!((token.nll[0] - 4f64.ln()).abs() < 1e-6 && (token.nll[1] - 2f64.ln()).abs() < 1e-6);
        assert!(!token.same_top);
        let same = Token::of(&[1.0, 1.0, 0.5], &[1.0, 1.0, 0.5], 0);
        assert!(same.kl == 0.0 && same.same_top);
    }
}
