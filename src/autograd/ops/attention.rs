//! Causal grouped-query attention over packed segments.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::attention::{AttentionShape, Ranges, Saved, attention_backward, attention_forward};
use crate::kernels::elementwise::round;
use crate::tensor::{Element, Tensor};

/// Who sees whom. `[tokens]` u32 each, indices of tokens.
#[derive(Clone, Debug)]
pub struct AttentionInputs {
    /// First key that each query sees, and one past the last.
    pub kv_start: Tensor,
    pub kv_end: Tensor,
    /// First query that may see each key, and one past the last.
    pub q_start: Tensor,
    pub q_end: Tensor,
    /// Keys that a query sees at most.
    pub span: usize,
}

impl AttentionInputs {
    /// The keys that each query sees.
    pub fn keys(&self) -> Ranges<'_> {
        Ranges { start: &self.kv_start, end: &self.kv_end }
    }

    /// The queries that may see each key.
    fn queries(&self) -> Ranges<'_> {
        Ranges { start: &self.q_start, end: &self.q_end }
    }
}

/// X made of `out`s, which attention may want; the gradient passes as it is.
pub fn made_of(tape: &mut Tape, x: &Var, out: Element) -> Result<Var> {
    if x.value.element() == out {
        return Ok(x.clone());
    }
    let y = round(&x.value, To::activation(out))?;
    let id = x.id();
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| grads.add(id, dy)))
}

/// Q `[tokens, heads · head_dim]`, K and V `[tokens, kv_heads · head_dim]` to `[tokens, heads · head_dim]`. Kept for the
/// backward pass: the inputs, the output, as `out` says, and one number a head and token.
pub fn attention(
    tape: &mut Tape,
    q: &Var,
    k: &Var,
    v: &Var,
    inputs: &AttentionInputs,
    shape: AttentionShape,
    out: Element,
) -> Result<Var> {
    let shape = AttentionShape { span: Some(inputs.span), ..shape };
    let (out, lse) =
        attention_forward(&q.value, &k.value, &v.value, inputs.keys(), &shape, To::activation(out), To::default())?;
    let needed = q.is_tracked() || k.is_tracked() || v.is_tracked();
    let (q, k, v, inputs, o) = (q.clone(), k.clone(), v.clone(), inputs.clone(), out.clone());
    Ok(tape.record(out, needed, move |grads, d_out| {
        let saved = Saved { q: &q.value, k: &k.value, v: &v.value, out: &o, lse: &lse };
        let d = attention_backward(saved, &d_out, inputs.keys(), inputs.queries(), &shape, None)?;
        grads.add(&q, d.dq)?;
        grads.add(&k, d.dk)?;
        grads.add(&v, d.dv)
    }))
}
