//! Rotary positions, half-split as Hugging Face stores them. The backward pass rotates the other way.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::rope::{self as kernel, RopeTable, Turn};
use crate::tensor::Tensor;

/// X `[tokens, heads · head_dim]` rotated by each token's position (`[tokens]` u32).
pub fn rope(tape: &mut Tape, x: &Var, table: &RopeTable, positions: &Tensor) -> Result<Var> {
    let y = kernel::rope(&x.value, table, positions, Turn::Forward, To::default())?;
    let (x, table, positions) = (x.clone(), table.clone(), positions.clone());
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| {
        grads.add(&x, kernel::rope(&dy, &table, &positions, Turn::Back, To::default())?)
    }))
}
