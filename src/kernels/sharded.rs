//! Linears whose weight is cut into shards of whole rows, since it is too large for a binding.
//!
//! Forward each shard makes its own columns of Y, backward dX is a sum over the shards. The low-rank part goes with them: the rows of
//! B that belong to a shard, and all of V·A with the first one. S, whose index is that of the whole matrix, is a product of its own.

use super::embedding::columns;
use super::output::To;
use super::product::{Fused, Out, rosa_linear};
use super::spmm::add_sparse_product;
use super::tile::Layout;
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor, Weight};

/// [`rosa_linear`] with W as `shards`, each with its first row. Where there are several, x is f32; forward without S it may be f16,
/// if each shard's product takes it.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn sharded_linear(
    layout: Layout,
    x: &Tensor,
    shards: &[(usize, Weight)],
    fused: Fused<'_>,
    out: Out<'_>,
) -> Result<Tensor> {
    const OP: &str = "sharded_linear";
    let last = match shards {
        [] => return Err(Error::shape(OP, "no weight")),
        [(_, whole)] => return rosa_linear(layout, x, whole, fused, out),
        [.., last] => last,
    };
    if x.element() == Element::F16 && (layout != Layout::Nt || fused.sparse.is_some()) {
        return Err(Error::shape(OP, "dY is f16, or X while S is a product of its own"));
    }
    let ((tokens, _), rows) = (x.dims2(OP)?, last.0 + last.1.rows());
    let width = if layout == Layout::Nt { rows } else { last.1.cols() };
    let (y, (stride, column)) = out.tensor(x.device(), OP, tokens, width)?;
    let to = Out { to: Some(&y), stride_column: Some((stride, column)), ..out };
    for (i, (first, shard)) in shards.iter().enumerate() {
        if layout == Layout::Nt {
            let b = fused.low_rank.map(|(.., b)| b.rows(*first, shard.rows(), "scratch")).transpose()?;
            let bias = fused.bias.map(|bias| of_bias(bias, *first, shard.rows())).transpose()?;
            let low_rank = fused.low_rank.zip(b.as_ref()).map(|((u, at, _), b)| (u, at, b));
            let part = Fused { sparse: None, low_rank, bias: bias.as_ref() };
            let to = Out { stride_column: Some((stride, column + first)), ..to };
            rosa_linear(layout, x, shard, part, to)?;
        } else {
            let part = columns(x, *first, shard.rows(), To::New("scratch"))?;
            let low_rank = fused.low_rank.filter(|_| i == 0);
            let fused = Fused { sparse: None, low_rank, bias: None };
            rosa_linear(layout, &part, shard, fused, Out { accumulate: out.accumulate || i > 0, ..to })?;
        }
    }
    if let Some(sparse) = fused.sparse {
        add_sparse_product(layout, x, sparse, out.scale, (&y, (stride, column)))?;
    }
    Ok(y)
}

/// The values of a bias that belong to some rows.
fn of_bias(bias: &Tensor, first: usize, rows: usize) -> Result<Tensor> {
    bias.reshape(&[bias.len(), 1])?.rows(first, rows, "scratch")?.reshape(&[rows])
}
