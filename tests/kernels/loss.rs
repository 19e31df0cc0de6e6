//! Cross-entropy, its gradient, soft cap, padding; greedy choice.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::loss::{Logits, argmax_rows, cross_entropy};
use rugosa::tensor::Tensor;

#[test]
fn losses_gradients_and_greedy_choice() {
    run_rows(&["cross_entropy", "cross_entropy_grad", "argmax"]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let logits = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let targets = Tensor::zeros(dev, &[2], "test").unwrap();
    let error = cross_entropy(&logits, &targets, Logits::plain(4), To::default()).unwrap_err().to_string();
    assert!(error.contains("targets has shape [2], expected [3]"), "{error}");
    let targets = Tensor::zeros(dev, &[3], "test").unwrap();
    for vocab in [0, 5] {
        let error = cross_entropy(&logits, &targets, Logits::plain(vocab), To::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("{vocab} tokens in logits [3, 4]")), "{error}");
        assert!(argmax_rows(&logits, vocab, To::default()).is_err());
    }
}
