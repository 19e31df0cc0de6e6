//! RMSNorm: `y = x·rstd·g`, its input and weight gradients.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::norm::{RmsNorm, rmsnorm_forward};
use rugosa::tensor::Tensor;

#[test]
fn forward_and_backward() {
    run_rows(&["rmsnorm", "rmsnorm_backward", "rmsnorm_weight", "center"]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let norm = RmsNorm { eps: 1e-5, unit_offset: false };
    let x = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let w = Tensor::zeros(dev, &[5], "test").unwrap();
    let error = |w: &Tensor, y: To<'_>| rmsnorm_forward(&x, w, norm, y, To::default()).unwrap_err().to_string();
    assert!(error(&w, To::default()).contains("w has shape [5], expected [4]"));
    let w = Tensor::zeros(dev, &[4], "test").unwrap();
    assert!(error(&w, To::Into(&x)).contains("same buffer"));
    let y = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    assert!(error(&w, To::AddTo(&y)).contains("only overwrite"));
    assert!(error(&w, To::Into(&w)).contains("the output has shape [4]"));
}
