//! Logits, loss and every gradient.

use super::golden::*;
use crate::common::device;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::{HeadLoss, head_loss};
use rugosa::data::Batch;
use rugosa::nn::{Decoder, DeviceBatch};
use rugosa::tensor::Tensor;
use rugosa::train::{named_weights, trainable_weights};

/// The logits `[tokens, vocab]` of a batch, capped where the family caps them.
pub fn logits(model: &Decoder, batch: &Batch) -> Vec<f32> {
    let on_device = DeviceBatch::upload(device(), batch, model.config.sliding_window).unwrap();
    let hidden = model.hidden(&mut Tape::inference(), &on_device.input, 0).unwrap();
    capped(model, model.head.logits(&hidden.value).unwrap().read().unwrap())
}

/// The head's logits are the plain product: what uses them caps them.
pub fn capped(model: &Decoder, logits: Vec<f32>) -> Vec<f32> {
    let cap = |l: f32| model.head.softcap.map_or(l, |c| c * (l / c).tanh());
    logits.into_iter().map(cap).collect()
}

/// Forward and backward; the mean loss of the supervised tokens.
fn loss_and_gradients(model: &Decoder, batch: &Batch, checkpointing: usize) -> f32 {
    let sum = Tensor::zeros(device(), &[1], "test").unwrap();
    let on_device = DeviceBatch::upload(device(), batch, model.config.sliding_window).unwrap();
    let mut tape = Tape::new(None);
    let hidden = model.hidden(&mut tape, &on_device.input, checkpointing).unwrap();
    let loss = HeadLoss { scale: (1.0 / batch.supervised() as f64) as f32, gradient: 1.0, sum: &sum };
    head_loss(&mut tape, &hidden, &model.head, &on_device.targets, loss).unwrap();
    tape.backward().unwrap();
    sum.read().unwrap()[0]
}

fn assert_logits(family: &str) {
    let golden = Golden::open(family);
    let error = max_abs(&logits(&decoder(family, false), &golden.batch()), &golden.logits());
    assert!(error <= golden.tolerance("logits"), "{family}: logits differ by {error}");
}

fn assert_gradients(family: &str, checkpointing: usize) {
    let golden = Golden::open(family);
    let mut model = decoder(family, true);
    let blocks = trainable_weights(&mut model).unwrap();
    let loss = loss_and_gradients(&model, &golden.batch(), checkpointing);
    let error = (f64::from(loss) - golden.loss()).abs();
    assert!(error <= golden.tolerance("loss"), "{family}: the loss differs by {error}");
    let names: Vec<String> = named_weights(&model).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!((names.len(), blocks.len()), (golden.gradients(), golden.gradients()), "{family}");
    for (name, block) in names.iter().zip(&blocks) {
        let (got, want) = (block.grad.read().unwrap(), golden.f32(&format!("grad.{name}")));
        let (l2, most) = (rel_l2(&got, &want), max_abs(&got, &want));
        let fits = l2 <= golden.tolerance("grad_rel_l2") && most <= golden.tolerance("grad_max_abs");
        assert!(fits, "{family}: d {name}: relative {l2}, absolute {most}");
    }
}

#[test]
fn logits_agree() {
    FAMILIES.iter().for_each(|f| assert_logits(f));
}

#[test]
fn losses_and_every_gradient_agree() {
    FAMILIES.iter().for_each(|f| assert_gradients(f, 0));
}

#[test]
fn so_they_do_from_checkpointed_layers() {
    [("gemma3", 1), ("phi3", 1), ("gemma3", 2), ("lfm2", 2)]
        .iter()
        .for_each(|(f, layers)| assert_gradients(f, *layers));
}

/// Where a family turns by other frequencies in short sequences, these are such.
#[test]
fn logits_of_short_rows_agree() {
    for family in &FAMILIES[6..] {
        let golden = Golden::open(family);
        let ids = golden.i32("short_ids").into_iter().map(|id| id as u32).collect();
        let error = max_abs(&logits(&decoder(family, false), &unlabelled(&[ids])), &golden.f32("short_logits"));
        assert!(error <= golden.tolerance("logits"), "{family}: logits differ by {error}");
    }
}

#[test]
fn windows_and_caps_are_felt() {
    // the reference would not tell whether they are there if they changed nothing
    for family in ["mistral", "gemma2", "gemma3", "phi3"] {
        let golden = Golden::open(family);
        let mut model = decoder(family, false);
        model.config.sliding_window = None;
        let moved = max_abs(&logits(&model, &golden.batch()), &golden.logits());
        assert!(moved > 1e-2, "{family}: without the window logits move by {moved}");
    }
    let golden = Golden::open("gemma2");
    let mut model = decoder("gemma2", false);
    model.head.softcap = None;
    assert!(max_abs(&logits(&model, &golden.batch()), &golden.logits()) > 1e-2);
}
