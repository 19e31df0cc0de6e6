//! AdamW against torch's formula in f64, over several steps, of which some are skipped.

use crate::common::*;
use rugosa::kernels::optimizer::{AdamW, StepCount, adamw_step, count_step};
use rugosa::optim::{self, Block, Group, Rates};
use rugosa::tensor::Tensor;

const ADAMW: AdamW =
    AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, bf16: false };

#[test]
fn several_steps() {
    run_rows(&["adamw", "adamw_count"]);
}

/// Bits of what a block holds, and its count.
fn held(block: &Block) -> (Vec<Vec<u32>>, u64) {
    let bits = |t: &Tensor| t.read::<u32>().unwrap();
    ([&block.value, &block.m, &block.v].map(bits).into(), block.steps.get().unwrap())
}

#[test]
fn a_step_that_is_skipped_changes_nothing_to_the_bit() {
    let dev = device();
    let tensor = |values: &[f32]| Tensor::from_slice(dev, &[values.len()], values, "test").unwrap();
    let group = |group| Block::new(group, tensor(&[0.5, -0.25, 4.0]), &StepCount::new(dev).unwrap()).unwrap();
    let blocks = [group(Group::LowRank), group(Group::Sparse)];
    let optimiser = optim::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        bf16_adapters: false,
    };
    let norm = Tensor::zeros(dev, &[2], "test").unwrap();
    let step = |rates: Rates, gradient: [f32; 3], loss: f32| {
        blocks.iter().filter(|b| rates.has(b.group)).for_each(|b| b.grad.write(&gradient).unwrap());
        optimiser.step(&blocks, rates, 8.0, &tensor(&[loss]), &norm).unwrap();
        let flag = norm.read::<f32>().unwrap()[1];
        assert!(blocks.iter().all(|b| b.grad.read::<f32>().unwrap() == [0.0; 3]));
        flag != 0.0
    };
    let low_rank = Rates::default().with(Group::LowRank, 1e-3);
    let both = low_rank.with(Group::Sparse, 1e-3);
    let start = held(&blocks[0]);
    for (gradient, loss) in [([1.0, f32::NAN, 2.0], 1.0), ([1.0, f32::INFINITY, 2.0], 1.0), ([1.0; 3], f32::NAN)] {
        assert!(step(low_rank, gradient, loss));
        assert_eq!(held(&blocks[0]), start);
    }
    // the first that is taken moves by the rate, whatever came before
    assert!(!step(low_rank, [1.0, 1.0, -1.0], 1.0));
    let moved = blocks[0].value.read::<f32>().unwrap();
    for (now, before) in moved.iter().zip([0.5 - 1e-3, -0.25 - 1e-3, 4.0 + 1e-3]) {
        // and decays by 1e-5 of itself
        assert!((now - before).abs() < 5e-5, "{moved:?}");
    }
    // S joins with a count of its own
    assert!(!step(both, [1.0; 3], 1.0) && step(both, [f32::NAN; 3], 1.0) && !step(both, [1.0; 3], 1.0));
    assert_eq!(blocks.each_ref().map(|b| b.steps.get().unwrap()), [3, 2]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let t = |n: usize| Tensor::zeros(dev, &[n], "test").unwrap();
    let steps = StepCount::new(dev).unwrap();
    let step = |p: &Tensor, g: &Tensor, m: &Tensor, a: &AdamW| adamw_step(p, g, [m, &t(4)], &steps, a, None);
    let p = t(4);
    assert!(step(&p, &t(4), &t(4), &ADAMW).is_ok());
    assert!(step(&p, &t(3), &t(4), &ADAMW).unwrap_err().to_string().contains("grad has shape [3]"));
    assert!(step(&p, &t(4), &t(3), &ADAMW).unwrap_err().to_string().contains("m has shape [3]"));
    assert!(step(&p, &p, &t(4), &ADAMW).unwrap_err().to_string().contains("same buffer"));
    assert!(step(&p, &t(4), &p, &ADAMW).is_err());
    let count = |loss: &Tensor, norm: &Tensor| count_step(&steps, loss, norm, 0.9, 0.999);
    assert!(count(&t(2), &t(2)).unwrap_err().to_string().contains("loss has shape [2]"));
    assert!(count(&t(1), &t(1)).unwrap_err().to_string().contains("norm has shape [1]"));
    assert!(StepCount::over(&t(2)).is_err() && steps.set(1 << 32).is_err());
}
