//! Residual connections.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::elementwise;

/// `a + b`; the gradient goes to both as it is.
pub fn add(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    let c = elementwise::add(&a.value, &b.value, To::default())?;
    let needed = a.is_tracked() || b.is_tracked();
    let (a, b) = (a.id(), b.id());
    Ok(tape.record(c, needed, move |grads, dc| {
        grads.add(a, dc.clone())?;
        grads.add(b, dc)
    }))
}
