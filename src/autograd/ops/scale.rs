//! A constant factor.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::elementwise;

/// `factor · x`; in the memory of `x`, where nobody else reads it.
pub fn scale(tape: &mut Tape, x: Var, factor: f32) -> Result<Var> {
    let (id, tracked) = (x.id(), x.is_tracked());
    let y = x.value.unshared()?;
    elementwise::scale(&y, factor)?;
    Ok(tape.record(y, tracked, move |grads, dy| {
        let dx = dy.unshared()?;
        elementwise::scale(&dx, factor)?;
        grads.add(id, dx)
    }))
}
