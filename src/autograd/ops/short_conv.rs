//! A gated short convolution over the tokens of each segment: `y = g · conv(b · x)`.

use super::AttentionInputs;
use crate::autograd::{Param, Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::short_conv::{self as kernel, Segments};

/// Rows b | g | x `[tokens, 3 · channels]` to `[tokens, channels]`, with filters `[channels, 1, taps]`. Kept for the backward pass: the
/// rows.
pub fn short_conv(tape: &mut Tape, bgx: &Var, filters: &Param, inputs: &AttentionInputs) -> Result<Var> {
    let y = kernel::short_conv(&bgx.value, &filters.value, &inputs.kv_start, To::default())?;
    let needed = bgx.is_tracked() || filters.grad.is_some();
    let (id, is_tracked, rows, w) = (bgx.id(), bgx.is_tracked(), bgx.value.clone(), filters.clone());
    let (start, end) = (inputs.kv_start.clone(), inputs.q_end.clone());
    let again = (rows.clone(), w.value.clone(), start.clone());
    let y = tape.record(y, needed, move |grads, dy| {
        if let Some(dw) = &w.grad {
            kernel::short_conv_weight(&rows, &start, &dy, dw)?;
        }
        if !is_tracked {
            return Ok(());
        }
        let segments = Segments { start: &start, end: &end };
        grads.add(id, kernel::short_conv_backward(&rows, &w.value, segments, &dy, To::default())?)
    });
    Ok(y.remade_by(move || kernel::short_conv(&again.0, &again.1, &again.2, To::default())))
}
