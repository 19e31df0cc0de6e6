//! AdamW against torch's formula in f64, over several steps.

use crate::common::*;
use rugosa::kernels::optimizer::{AdamW, Clip, adamw_step};
use rugosa::kernels::reduce::sum_of_squares;
use rugosa::tensor::Tensor;

const ADAMW: AdamW =
    AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 1.0 };

#[test]
fn several_steps() {
    run_rows(&["adamw"]);
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let dev = device();
    let (start, grad) = ([1.0f32, -2.0, 3.0], [1.0, f32::NAN, 2.0]);
    let param = Guarded::holding(dev, &[3], &start);
    let (m, v) = (Guarded::holding(dev, &[3], &[0.1; 3]), Guarded::holding(dev, &[3], &[0.2; 3]));
    let grad = Tensor::from_slice(dev, &[3], &grad, "test").unwrap();
    let norm = Tensor::zeros(dev, &[2], "test").unwrap();
    sum_of_squares(&[&grad], &norm).unwrap();
    let clip = Clip { norm: &norm, max_norm: 1.0 };
    adamw_step(&param.tensor, &grad, &m.tensor, &v.tensor, &ADAMW, Some(clip)).unwrap();
    assert_eq!(param.read("param"), start);
    assert_eq!(m.read("m"), [0.1; 3]);
    assert_eq!(v.read("v"), [0.2; 3]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let t = |n: usize| Tensor::zeros(dev, &[n], "test").unwrap();
    let step = |p: &Tensor, g: &Tensor, m: &Tensor, a: &AdamW| adamw_step(p, g, m, &t(4), a, None);
    let p = t(4);
    assert!(step(&p, &t(4), &t(4), &ADAMW).is_ok());
    assert!(step(&p, &t(3), &t(4), &ADAMW).unwrap_err().to_string().contains("grad has shape [3]"));
    assert!(step(&p, &t(4), &t(3), &ADAMW).unwrap_err().to_string().contains("m has shape [3]"));
    assert!(step(&p, &p, &t(4), &ADAMW).unwrap_err().to_string().contains("same buffer"));
    assert!(step(&p, &t(4), &p, &ADAMW).is_err());
    let error = step(&p, &t(4), &t(4), &AdamW { step: 0, ..ADAMW }).unwrap_err();
    assert!(error.to_string().contains("from 1"), "{error}");
}
