//! Rows without their mean: the first half of a LayerNorm. A projection that is its own transpose: the backward is the forward.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::center as kernel;

/// X `[rows, cols]` without the mean of each row.
pub fn center(tape: &mut Tape, x: &Var) -> Result<Var> {
    let y = kernel::center(&x.value, To::default())?;
    let id = x.id();
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| grads.add(id, kernel::center(&dy, To::default())?)))
}
