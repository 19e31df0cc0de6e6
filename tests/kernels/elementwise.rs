//! Sums, scaling, gated activations.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::elementwise::{Activation, add, add_into, glu_backward, glu_forward};
use rugosa::tensor::Tensor;

#[test]
fn sums_scaling_and_gates() {
    run_rows(&["add", "add_into", "scale", "glu", "glu_backward", "glu_both", "glu_both_kept", "glu_both_backward"]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let a = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let b = Tensor::zeros(dev, &[4, 3], "test").unwrap();
    for error in [
        add(&a, &b, To::default()).unwrap_err(),
        add_into(&a, &b, 1.0).unwrap_err(),
        glu_forward(Activation::Silu, &a, &b, To::default()).unwrap_err(),
        glu_backward(Activation::Silu, &a, &a, &b, To::default(), To::default()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("[4, 3]"), "{error}");
    }
    assert!(add_into(&a, &a, 1.0).is_err());
}
