//! Rows by index, out of tables in every storage format, and back.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::embedding::{TokenOrder, columns, embedding_backward, gather_rows, scatter_rows_add};
use rugosa::tensor::Tensor;

#[test]
fn rows_and_columns() {
    run_rows(&["embedding", "embedding_backward", "gather_rows", "scatter_rows_add", "columns"]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let error = TokenOrder::new(dev, &[0, 4, 7], 5).unwrap_err().to_string();
    assert!(error.contains("token 2") && error.contains('7') && error.contains("of 5"), "{error}");
    let order = TokenOrder::new(dev, &[0, 4], 5).unwrap();
    let t = |shape: &[usize]| Tensor::zeros(dev, shape, "test").unwrap();
    assert!(embedding_backward(&t(&[5, 4]), &order, &t(&[3, 4]), 1.0).is_err());
    assert!(embedding_backward(&t(&[6, 4]), &order, &t(&[2, 4]), 1.0).is_err());
    assert!(embedding_backward(&t(&[5, 3]), &order, &t(&[2, 4]), 1.0).is_err());
    assert!(scatter_rows_add(&t(&[5, 4]), &t(&[3]), &t(&[2, 4])).is_err());
    let x = t(&[5, 4]);
    assert!(gather_rows(&x, &t(&[2]), To::Into(&t(&[2, 3]))).is_err());
    assert!(gather_rows(&x, &t(&[5]), To::Into(&x)).unwrap_err().to_string().contains("same buffer"));
    assert!(columns(&x, 3, 2, To::default()).is_err());
}
