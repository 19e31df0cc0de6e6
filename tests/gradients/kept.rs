//! Activations that a backward pass makes again instead of keeping them.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::ops::{
    Activation, Attachment, Linear, LowRank, Norm, Stored, add_rmsnorm, gated, gated_both, linear, rmsnorm,
};
use rugosa::autograd::{Param, Tape, Var};
use rugosa::device::{Device, DeviceOptions, Feature};
use rugosa::rng::Rng;
use rugosa::tensor::{Element, Tensor, Weight};
use std::sync::Arc;

/// The words of a tensor.
fn bits(t: &Tensor) -> Vec<u32> {
    read(t).into_iter().map(f32::to_bits).collect()
}

#[test]
fn what_is_made_again_has_the_same_bits() {
    let rng = &mut Rng::named(1, "kept");
    let shape = [9, 32];
    for (element, unit_offset) in [(Element::F32, false), (Element::F16, true)] {
        let norm = Norm { weight: param(&[32], &random(rng, 32), false), eps: 1e-5, unit_offset, centred: false };
        let stored = Stored { h: element, gradients: element };
        let mut tape = Tape::new(None);
        let mut var = |tape: &mut Tape| input(tape, &shape, &random(rng, 9 * 32), true);
        let (a, b) = (var(&mut tape), var(&mut tape));
        let normed = rmsnorm(&mut tape, &a, &norm, element).unwrap();
        let [_, of_sum] = add_rmsnorm(&mut tape, [&a, &b], &norm, element, Element::F32).unwrap();
        let h = gated(&mut tape, &a, &b, Activation::Silu, stored).unwrap();
        let packed = gated_both(&mut tape, &a, Activation::GeluTanh, stored).unwrap();
        for (name, var) in [("rmsnorm", normed), ("add_rmsnorm", of_sum), ("gated", h), ("gated_both", packed)] {
            let again = var.kept().value().unwrap();
            assert_ne!(again.slice().raw.id, var.value.slice().raw.id, "{name} is kept");
            assert_eq!(bits(&again), bits(&var.value), "{name} of {element:?}");
        }
    }
}

#[test]
fn an_input_stays_only_where_an_adapter_reads_it_and_nothing_makes_it_again() {
    const BYTES: u64 = 64 * 64 * 4;
    // a device of its own: other tests allocate on the shared one; and without copies of operands as images, which are memory too
    let options = DeviceOptions::from_env(None);
    let disable = [options.disable.clone(), vec![Feature::Images]].concat();
    let device = &Device::open(&DeviceOptions { disable, ..options }).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(device, shape, "test").unwrap();
    let weight = || Weight::from_tensor(&zeros(&[64, 64])).unwrap();
    let trained = |shape: &[usize]| Param { value: zeros(shape), grad: Some(zeros(shape)) };
    let layer = |adapter: bool| {
        let low_rank = adapter.then(|| LowRank::whole(trained(&[2, 64]), trained(&[64, 2]), 1.0));
        let attached = Arc::new(Attachment { low_rank, ..Attachment::default() });
        Linear { shards: vec![(0, weight())], weight_grad: None, bias: None, attached }
    };
    let norm =
        Norm { weight: Param { value: zeros(&[64]), grad: None }, eps: 1e-5, unit_offset: false, centred: false };
    let bytes = || device.ledger().in_use();
    // an activation alone, or one that a norm makes
    let left = |adapter: bool, normed: bool, tracked: bool| {
        let layer = layer(adapter);
        let mut tape = Tape::new(None);
        let before = bytes();
        let x = if tracked { tape.leaf(zeros(&[64, 64])) } else { Var::constant(zeros(&[64, 64])) };
        let h = if normed { rmsnorm(&mut tape, &x, &norm, Element::F32).unwrap() } else { x.clone() };
        drop(x);
        let y = linear(&mut tape, &h, layer).unwrap();
        drop((h, y));
        (bytes() - before) / BYTES
    };
    left(true, true, true); // what a device allocates once
    // U and the norm's statistics are less than one activation
    assert_eq!(left(false, false, true), 0, "a frozen linear's input");
    assert_eq!(left(true, false, true), 1, "the adapter reads it");
    assert_eq!(left(false, true, true), 1, "the norm reads its own input");
    assert_eq!(left(true, true, true), 1, "what the norm makes is made again");
    assert_eq!(left(true, true, false), 1, "nothing below trains: the norm's input is not kept for it");
}
