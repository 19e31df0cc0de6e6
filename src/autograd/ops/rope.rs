//! Rotary positions, half-split as Hugging Face stores them. The backward pass rotates the other way.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::rope::{self as kernel, RopeTable, Turn};
use crate::tensor::{Element, Tensor};

/// X `[tokens, heads · head_dim]` rotated by each token's position (`[tokens]` u32), made of `out`s.
pub fn rope(tape: &mut Tape, x: &Var, table: &RopeTable, positions: &Tensor, out: Element) -> Result<Var> {
    let y = kernel::rope(&x.value, table, positions, Turn::Forward, To::activation(out))?;
    let (x, table, positions) = (x.clone(), table.clone(), positions.clone());
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| {
        grads.add(&x, kernel::rope(&dy, &table, &positions, Turn::Back, To::default())?)
    }))
}

/// q `[tokens, heads · head_dim]`, k and v `[tokens, kv_heads · head_dim]` out of the rows `[q | k | v]` that one product
/// leaves, q and k rotated. `out`: the elements that they are made of; `gradient`: those of the gradient of those rows.
pub fn rope_split(
    tape: &mut Tape,
    all: &Var,
    table: &RopeTable,
    positions: &Tensor,
    (heads, kv_heads): (usize, usize),
    out: Element,
    gradient: Element,
) -> Result<[Var; 3]> {
    let parts = kernel::rope_split(&all.value, table, positions, heads, kv_heads, [To::activation(out); 3])?;
    let shapes = [0, 1, 2].map(|i: usize| parts[i].shape().to_vec());
    let (all, table, positions) = (all.clone(), table.clone(), positions.clone());
    Ok(tape.record_many(parts, all.is_tracked(), move |grads, d| {
        let mut whole = Vec::with_capacity(3);
        for (d, shape) in d.into_iter().zip(&shapes) {
            whole.push(d.map_or_else(|| Tensor::zeros(positions.device(), shape, "activations"), Ok)?);
        }
        let d = [&whole[0], &whole[1], &whole[2]];
        let to = To::activation(gradient);
        grads.add(&all, kernel::rope_merge(d, &table, &positions, heads, kv_heads, to)?)
    }))
}
