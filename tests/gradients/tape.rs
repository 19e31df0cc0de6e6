//! The tape itself: what is tracked, what is kept, and what is made again.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::ops::{Activation, Attachment, Linear, LowRank, Stored, add, gated, linear};
use rugosa::autograd::{Dropout, Param, Tape, Var};
use rugosa::device::{Device, DeviceOptions};
use rugosa::error::{Error, Result};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};
use std::sync::Arc;

const TOKENS: usize = 7;
const WIDTH: usize = 12;

/// A low-rank linear from a random stream of its own, with fresh gradient buffers.
fn layer(seed: u64) -> (Linear, [Param; 2]) {
    let rng = &mut Rng::named(seed, "layer");
    let a = param(&[2, WIDTH], &random(rng, 2 * WIDTH), true);
    let b = param(&[WIDTH, 2], &random(rng, 2 * WIDTH), true);
    let low_rank = LowRank { dropout: 0.25, stream: seed as u32, ..LowRank::whole(a.clone(), b.clone(), 0.5) };
    let linear = Linear {
        shards: vec![(0, Weight::from_tensor(&up(&[WIDTH, WIDTH], &random(rng, WIDTH * WIDTH))).unwrap())],
        weight_grad: None,
        bias: None,
        attached: Arc::new(Attachment { low_rank: Some(low_rank), ..Attachment::default() }),
    };
    (linear, [a, b])
}

/// x + W₂·silu(W₁·x)·x
fn block(tape: &mut Tape, x: &Var, [first, second]: [&Linear; 2]) -> Result<Var> {
    let gate = linear(tape, x, first.clone())?;
    let h = gated(tape, &gate, x, Activation::Silu, Stored::default())?;
    let h = linear(tape, &h, second.clone())?;
    add(tape, x, &h)
}

#[test]
fn a_checkpointed_part_gives_the_same_bits() {
    let rng = &mut Rng::named(1, "checkpoint");
    let (x, dy) = (random(rng, TOKENS * WIDTH), random(rng, TOKENS * WIDTH));
    let keys: Vec<u32> = (100..100 + TOKENS as u32).collect();
    // the input tracked, as in most layers, and not, as in the lowest
    for tracked in [true, false] {
        let run = |checkpointed: bool| {
            let keys = Tensor::from_slice(device(), &[TOKENS], &keys, "test").unwrap();
            let ((first, p), (second, q)) = (layer(1), layer(2));
            let mut tape = Tape::new(Some(Dropout { seed: 1, step: 2, keys }));
            let x = input(&mut tape, &[TOKENS, WIDTH], &x, tracked);
            let y = if checkpointed {
                tape.checkpoint(&x, move |tape, x| block(tape, x, [&first, &second])).unwrap()
            } else {
                block(&mut tape, &x, [&first, &second]).unwrap()
            };
            // something behind it, so that its gradient is not the seed itself; not x, whose gradients would be summed in
            // another order
            let y = gated(&mut tape, &y, &y, Activation::Silu, Stored::default()).unwrap();
            let value: Vec<u32> = y.value.read().unwrap();
            tape.seed(&y, up(&[TOKENS, WIDTH], &dy)).unwrap();
            drop(y);
            tape.backward().unwrap();
            let dx: Option<Vec<u32>> = tape.take(&x).map(|t| t.read().unwrap());
            assert_eq!(dx.is_some(), tracked);
            let grads = p.iter().chain(&q).map(|p| p.grad.as_ref().unwrap().read().unwrap());
            (value, dx, grads.collect::<Vec<Vec<u32>>>())
        };
        let plain = run(false);
        assert!(plain == run(true), "tracked {tracked}: checkpointing changes a result");
        assert!(plain.2.iter().all(|g| g.iter().any(|v| *v != START.to_bits())), "a gradient is missing");
    }
}

#[test]
fn a_checkpoint_without_anything_to_train_is_not_recorded() {
    let mut tape = Tape::new(None);
    let x = input(&mut tape, &[1, 2], &[1.0, 2.0], false);
    let y = tape.checkpoint(&x, |tape, x| add(tape, x, x)).unwrap();
    assert!(!y.is_tracked());
    assert_eq!(y.value.read::<f32>().unwrap(), [2.0, 4.0]);
}

#[test]
fn a_tracked_input_without_a_backward_is_an_error() {
    let mut tape = Tape::new(None);
    let leaf = input(&mut tape, &[1, 2], &[1.0, 2.0], true);
    let below = add(&mut tape, &leaf, &leaf).unwrap();
    for var in [&leaf, &below] {
        let error = var.untracked("cache").unwrap_err();
        assert!(matches!(error, Error::Shape { op: "cache", .. }), "{error}");
        assert!(error.to_string().contains("no backward"), "{error}");
    }
    let constant = input(&mut tape, &[1, 2], &[1.0, 2.0], false);
    assert!(constant.untracked("cache").is_ok());
    // without training nothing is tracked, whatever could train
    let mut tape = Tape::inference();
    let (layer, _) = layer(1);
    let x = input(&mut tape, &[1, WIDTH], &[1.0; WIDTH], false);
    assert!(linear(&mut tape, &x, layer).unwrap().untracked("cache").is_ok());
}

#[test]
fn an_output_that_nothing_used_passes_no_gradient_on() {
    let mut tape = Tape::new(None);
    let x = input(&mut tape, &[1, 2], &[1.0, 2.0], true);
    let used = add(&mut tape, &x, &x).unwrap();
    let unused = add(&mut tape, &used, &x).unwrap();
    tape.seed(&used, up(&[1, 2], &[1.0, 1.0])).unwrap();
    tape.backward().unwrap();
    assert!(tape.take(&unused).is_none());
    assert_eq!(arrived(&mut tape, &x), [2.0, 2.0]);
}

#[test]
fn a_backward_pass_frees_what_it_has_used() {
    // a device of its own: other tests allocate on the shared one
    let device = &Device::open(&DeviceOptions::from_env(None)).unwrap();
    let tensor = || Tensor::zeros(device, &[64, 64], "test").unwrap();
    let mut tape = Tape::new(None);
    let leaf = tape.leaf(tensor());
    let bytes = || device.ledger().in_use();
    let start = bytes();
    let mut x = leaf.clone();
    for _ in 0..8 {
        x = gated(&mut tape, &x, &x, Activation::Silu, Stored::default()).unwrap();
    }
    tape.seed(&x, tensor()).unwrap();
    drop(x);
    let recorded = bytes() - start;
    assert!(recorded >= 8 * 64 * 64 * 4, "{recorded} bytes recorded");
    tape.backward().unwrap();
    assert_eq!(bytes() - start, 64 * 64 * 4, "the gradient of the leaf is all that is left");
    drop(tape.take(&leaf));
    assert_eq!(bytes(), start);
}
