//! Products by a library of the backend's ([`Device::gemm`](crate::device::Device::gemm)), which adds what our kernels fuse in turns:
//! the low-rank part goes to the output first, and the product of the weight is added to it, for a product that long hides the reading
//! of what it adds to.

use super::elementwise::round;
use super::output::To;
use super::problem::Problem;
use super::tile::Layout;
use crate::device::Slice;
use crate::device::gemm::{Gemm, GemmOperand};
use crate::error::Result;
use crate::tensor::{Element, Tensor, Weight, WeightFormat};

/// What a linear adds to its product: U or V from a column on and B or A, and a bias.
pub(super) struct Added<'a> {
    pub low_rank: Option<(&'a Tensor, usize, &'a Tensor)>,
    pub bias: Option<&'a Tensor>,
}

/// `c (+)= scale · op(A) · op(B)`.
pub(super) fn dense(problem: &Problem, [a, b]: [Slice; 2], c: &Tensor, scale: f32) -> Result<()> {
    c.device().gemm(&product(problem, a, b, c, scale))
}

/// `c (+)= scale · (X·op(W) + U·op(V)) + bias`.
pub(super) fn linear(
    problem: &Problem,
    x: &Tensor,
    w: &Weight,
    added: &Added<'_>,
    c: &Tensor,
    scale: f32,
) -> Result<()> {
    let device = c.device();
    let w = Slice { half: w.format() == WeightFormat::F16, ..w.slice() };
    // matrix units would round it when they load it
    let rounded = (w.half && x.element() == Element::F32).then(|| round(x, To::Half("scratch"))).transpose()?;
    let mut gemm = product(problem, rounded.as_ref().unwrap_or(x).slice(), w, c, scale);
    if let (Some((u, column, v)), Some(low_rank)) = (added.low_rank, problem.low_rank()) {
        let [m, n, _] = problem.shape;
        let v_stride = if problem.layout == Layout::Nt { low_rank.rank } else { n };
        device.gemm(&Gemm {
            shape: [m, n, low_rank.rank],
            a: GemmOperand { slice: u.slice(), stride: low_rank.stride, column, transposed: false },
            b: GemmOperand { slice: v.slice(), stride: v_stride, column: 0, transposed: problem.layout == Layout::Nt },
            // where W's products round, so do matrix units what they are given of U and V
            rounds: gemm.a.slice.half,
            ..gemm.clone()
        })?;
        gemm.accumulate = true;
    }
    gemm.bias = added.bias.map(Tensor::slice);
    device.gemm(&gemm)
}

fn product(problem: &Problem, a: Slice, b: Slice, c: &Tensor, scale: f32) -> Gemm {
    let (layout, [a_stride, b_stride], (stride, column)) = (problem.layout, problem.row_lengths, problem.stride_column);
    Gemm {
        shape: problem.shape,
        a: GemmOperand { slice: a, stride: a_stride, column: 0, transposed: layout == Layout::Tn },
        b: GemmOperand { slice: b, stride: b_stride, column: 0, transposed: layout == Layout::Nt },
        c: GemmOperand { slice: c.slice(), stride, column, transposed: false },
        bias: None,
        scale,
        accumulate: problem.accumulate,
        rounds: false,
    }
}
