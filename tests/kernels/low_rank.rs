//! The thin products of low-rank adapters.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::low_rank::{Block, gradient_blocks, gradient_rows, project_blocks, project_rows, spread};
use rugosa::kernels::parts::Sums;
use rugosa::tensor::Tensor;

#[test]
fn products_and_blocks() {
    run_rows(&["low_rank_spread", "low_rank_gather", "low_rank_project", "low_rank_gradient", "low_rank_gradients"]);
}

#[test]
fn blocks_and_operands_that_do_not_fit_are_refused() {
    let dev = device();
    let zeros = |shape: &[usize]| Tensor::zeros(dev, shape, "test").unwrap();
    let block = |first_row, rows, rank| Block { first_row, rows, rank, scale: 1.0 };
    let b = zeros(&[8]);
    // over each other, beyond the last feature, more elements than B has, too many
    for blocks in [
        vec![block(0, 3, 1), block(2, 5, 1)],
        vec![block(8, 8, 1)],
        vec![block(0, 4, 1)],
        (0..5).map(|i| block(2 * i, 1, 2)).collect(),
    ] {
        assert!(spread(&b, &blocks, 10, To::default()).is_err(), "{blocks:?}");
        assert!(project_blocks(&zeros(&[3, 10]), &b, &blocks, To::default()).is_err(), "{blocks:?}");
        assert!(
            gradient_blocks(&zeros(&[3, 10]), &zeros(&[3, 2]), &blocks, &b, &mut Sums::default()).is_err(),
            "{blocks:?}"
        );
    }
    assert!(project_rows(&zeros(&[3, 10]), &zeros(&[2, 9]), 1.0, To::default()).is_err());
    let sums = &mut Sums::default();
    assert!(gradient_rows(&zeros(&[3, 2]), &zeros(&[4, 10]), &zeros(&[2, 10]), sums).is_err());
    assert!(gradient_rows(&zeros(&[3, 2]), &zeros(&[3, 10]), &zeros(&[2, 9]), sums).is_err());
}
