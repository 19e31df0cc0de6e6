//! The head and its loss: one matrix or shards, one chunk of tokens or several.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::{Head, HeadLoss, Targets, head_loss, head_nll};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};

const SCALE: f32 = 0.25;

/// The matrix in shards that start at `cuts`.
fn head(w: &[f32], vocab: usize, hidden: usize, cuts: &[usize], grad: Option<Tensor>, softcap: Option<f32>) -> Head {
    let ends = cuts.iter().skip(1).copied().chain([vocab]);
    let shards = cuts.iter().copied().zip(ends).map(|(first, end)| {
        let part = up(&[end - first, hidden], &w[first * hidden..end * hidden]);
        (first, Weight::from_tensor(&part).unwrap())
    });
    Head { shards: shards.collect(), grad, vocab, softcap }
}

/// Losses of the supervised tokens in f64.
fn losses(h: &[f64], w: &[f64], hidden: usize, targets: &[i32], softcap: Option<f32>) -> Vec<f64> {
    let of = |t: usize, target: usize| {
        let logits: Vec<f64> = w
            .chunks(hidden)
            .map(|w| {
                let z = h[t * hidden..][..hidden].iter().zip(w).map(|(h, w)| h * w).sum::<f64>();
                softcap.map_or(z, |c| f64::from(c) * (z / f64::from(c)).tanh())
            })
            .collect();
        let most = logits.iter().fold(f64::MIN, |m, z| m.max(*z));
        most + logits.iter().map(|z| (z - most).exp()).sum::<f64>().ln() - logits[target]
    };
    (targets.iter().enumerate()).filter(|(_, t)| **t >= 0).map(|(i, t)| of(i, *t as usize)).collect()
}

/// The loss, and gradients of hidden states and matrix.
pub fn check(tokens: usize, hidden: usize, vocab: usize, softcap: Option<f32>) {
    let rng = &mut Rng::named(1, "head");
    let (h, w) = (random(rng, tokens * hidden), random(rng, vocab * hidden));
    let targets: Vec<i32> =
        (0..tokens).map(|t| if t % 3 == 1 { -100 } else { rng.below(vocab as u64) as i32 }).collect();
    let supervised = targets.iter().filter(|t| **t >= 0).count();
    let on_device = Targets::new(device(), &targets).unwrap();
    assert_eq!(on_device.len(), supervised);
    let forward = |at: &Inputs| losses(&at[0], &at[1], hidden, &targets, softcap);
    let inputs = vec![wide(&h), wide(&w)];
    let nll = forward(&inputs);
    let reference = differences(&inputs, &vec![SCALE; supervised], forward);
    let total: f64 = nll.iter().sum::<f64>() * f64::from(SCALE);
    for (cuts, tracked, trains) in [
        (vec![0], true, true),
        (vec![0], true, false),
        (vec![0], false, true),
        (vec![0], false, false),
        (vec![0, 3, vocab - 1], true, false),
    ] {
        let what = format!("{tokens} x {hidden} x {vocab}, cap {softcap:?}, {cuts:?}, {tracked} {trains}");
        let grad = trains.then(|| started(&[vocab, hidden]));
        let head = head(&w, vocab, hidden, &cuts, grad.clone(), softcap);
        let sum = up(&[1], &[2.0]);
        let mut tape = Tape::new(None);
        let x = input(&mut tape, &[tokens, hidden], &h, tracked);
        head_loss(&mut tape, &x, &head, &on_device, HeadLoss { scale: SCALE, sum: &sum, gradient: 1.0 }).unwrap();
        // logits reach about 12: exp and log are good to some 27 ulp of theirs
        assert_near(&format!("loss {what}"), &sum.read().unwrap(), &[2.0 + total], vocab + hidden, 32.0);
        tape.backward().unwrap();
        let found = tape.take(&x).map(|t| t.read().unwrap());
        assert_eq!(found.is_some(), tracked, "{what}");
        if let Some(dh) = found {
            assert_near(&format!("dH {what}"), &dh, &reference[0], vocab + hidden, 32.0);
        }
        if let Some(grad) = grad {
            assert_near(&format!("dW {what}"), &added(&grad), &reference[1], hidden + tokens, 32.0);
        }
        let alone = head_nll(&x.value, &head, &on_device).unwrap();
        assert_near(&format!("nll {what}"), &alone, &nll, vocab + hidden, 32.0);
    }
}

/// Logits of so large a vocabulary are computed for 64 tokens at a time. Too much for differences; the gradient of a
/// softmax, p − 1 at the target, is known.
#[test]
fn several_chunks() {
    let rng = &mut Rng::named(2, "chunks");
    let (tokens, hidden, vocab) = (70, 4, 1 << 18);
    // probabilities of about one size: a sum in f32 would lose those that are tiny beside it, whatever the kernel
    let h: Vec<f32> = random(rng, tokens * hidden).iter().map(|h| 0.25 * h).collect();
    let w = random(rng, vocab * hidden);
    let targets: Vec<i32> = (0..tokens).map(|t| if t == 30 { -100 } else { rng.below(vocab as u64) as i32 }).collect();
    let (mut dh, mut dw, mut total) = (vec![0.0; h.len()], vec![0.0; w.len()], 0.0);
    for (t, target) in targets.iter().enumerate().filter(|(_, t)| **t >= 0) {
        let h: Vec<f64> = wide(&h[t * hidden..][..hidden]);
        let dot = |w: &[f32]| h.iter().zip(w).map(|(h, w)| h * f64::from(*w)).sum::<f64>().exp();
        let mut p: Vec<f64> = w.chunks(hidden).map(dot).collect();
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        total -= p[*target as usize].ln() * f64::from(SCALE);
        p[*target as usize] -= 1.0;
        for (p, (w, dw)) in p.iter().zip(w.chunks(hidden).zip(dw.chunks_mut(hidden))) {
            let d = p * f64::from(SCALE);
            for i in 0..hidden {
                dh[t * hidden + i] += d * f64::from(w[i]);
                dw[i] += d * h[i];
            }
        }
    }
    let on_device = Targets::new(device(), &targets).unwrap();
    for (cuts, trains) in [(vec![0], true), (vec![0, 100_000, 200_001], false)] {
        let grad = trains.then(|| started(&[vocab, hidden]));
        let head = head(&w, vocab, hidden, &cuts, grad.clone(), None);
        let sum = up(&[1], &[0.0]);
        let mut tape = Tape::new(None);
        let x = input(&mut tape, &[tokens, hidden], &h, true);
        head_loss(&mut tape, &x, &head, &on_device, HeadLoss { scale: SCALE, sum: &sum, gradient: 1.0 }).unwrap();
        assert_near("loss", &sum.read().unwrap(), &[total], vocab, 32.0);
        tape.backward().unwrap();
        assert_near("dH", &arrived(&mut tape, &x), &dh, vocab, 32.0);
        if let Some(grad) = grad {
            assert_near("dW", &added(&grad), &dw, tokens, 32.0);
        }
    }
}
