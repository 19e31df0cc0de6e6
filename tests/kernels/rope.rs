//! Rotary embedding against f64 angles, back and forth, at small and at very large positions.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::rope::{RopeTable, Turn, rope};
use rugosa::tensor::Tensor;

#[test]
fn turns_and_turns_back() {
    run_rows(&["rope", "rope_split", "rope_merge", "norm_split", "norm_merge"]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    assert!(RopeTable::new(dev, &[], 4, 1.0).is_err());
    assert!(RopeTable::new(dev, &[1.0], 0, 1.0).is_err());
    let table = RopeTable::new(dev, &[1.0, 0.1], 4, 1.0).unwrap();
    let x = Tensor::zeros(dev, &[3, 6], "test").unwrap();
    let at = Tensor::zeros(dev, &[3], "test").unwrap();
    let error = rope(&x, &table, &at, Turn::Forward, To::default()).unwrap_err().to_string();
    assert!(error.contains("[3, 6]") && error.contains("heads of 4"), "{error}");
    let x = Tensor::zeros(dev, &[2, 8], "test").unwrap();
    assert!(rope(&x, &table, &at, Turn::Forward, To::default()).unwrap_err().to_string().contains("positions"));
}
