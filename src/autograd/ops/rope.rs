//! Rotary positions, half-split as Hugging Face stores them. The backward pass rotates the other way.

use super::HeadNorms;
use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::heads::{Heads, norm_merge, norm_split, rope_merge, rope_split};
use crate::kernels::rope::{self as kernel, RopeTable, Turn};
use crate::tensor::{Element, Tensor};

/// X `[tokens, heads · head_dim]` rotated by each token's position (`[tokens]` u32), made of `out`s.
pub fn rope(tape: &mut Tape, x: &Var, table: &RopeTable, positions: &Tensor, out: Element) -> Result<Var> {
    let y = kernel::rope(&x.value, table, positions, Turn::Forward, To::activation(out))?;
    let (id, table, positions) = (x.id(), table.clone(), positions.clone());
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| {
        grads.add(id, kernel::rope(&dy, &table, &positions, Turn::Back, To::default())?)
    }))
}

/// q `[tokens, heads · head_dim]`, k and v `[tokens, kv_heads · head_dim]` out of the rows `[q | k | v]` that one product
/// leaves, q and k rotated, and normed before that where there are `norms`. `out`: the elements
/// that they are made of; `gradient`: those of the gradient of those rows.
pub fn split(
    tape: &mut Tape,
    all: &Var,
    norms: Option<&HeadNorms>,
    heads: Heads<'_>,
    out: Element,
    gradient: Element,
) -> Result<[Var; 3]> {
    if norms.is_some_and(HeadNorms::train) {
        return Err(Error::shape(
            "norm_split",
            "the weights of head norms get no gradient from what splits a stacked linear",
        ));
    }
    let to = [To::activation(out); 3];
    let parts = match norms {
        None => rope_split(&all.value, heads, to)?,
        Some(norms) => norm_split(&all.value, norms.kernel(), heads, to)?,
    };
    let shapes = [0, 1, 2].map(|i: usize| parts[i].shape().to_vec());
    // without norms the rows themselves are not needed again
    let normed = norms.map(|norms| (norms.clone(), all.value.clone()));
    let (id, table, positions) = (all.id(), heads.table.clone(), heads.positions.clone());
    let (heads, kv_heads) = (heads.heads, heads.kv_heads);
    Ok(tape.record_many(parts, all.is_tracked(), move |grads, d| {
        let heads = Heads { heads, kv_heads, table: &table, positions: &positions };
        let mut whole = Vec::with_capacity(3);
        for (d, shape) in d.into_iter().zip(&shapes) {
            whole.push(d.map_or_else(|| Tensor::zeros(positions.device(), shape, "activations"), Ok)?);
        }
        let d = [&whole[0], &whole[1], &whole[2]];
        let to = To::activation(gradient);
        let merged = match &normed {
            None => rope_merge(d, heads, to)?,
            Some((norms, rows)) => norm_merge(d, rows, norms.kernel(), heads, to)?,
        };
        grads.add(id, merged)
    }))
}
