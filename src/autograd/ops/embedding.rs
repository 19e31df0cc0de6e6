//! Token embedding.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::embedding::{self as kernel, TokenOrder};
use crate::tensor::{Tensor, Weight};

/// The table `[vocab, hidden]`, cut into shards of whole rows that fit a binding; each with its first row.
#[derive(Clone)]
pub struct EmbeddingTable {
    pub shards: Vec<(usize, Weight)>,
    /// `[vocab, hidden]`, where the table trains (one shard then).
    pub grad: Option<Tensor>,
    /// Factor of the rows.
    pub scale: f32,
}

/// Tokens `[tokens]` u32 to `[tokens, hidden]`.
pub fn embed(tape: &mut Tape, table: &EmbeddingTable, tokens: &Tensor) -> Result<Var> {
    let Some((_, first)) = table.shards.first() else {
        return Err(Error::shape("embed", "no table"));
    };
    let out = Tensor::empty(tokens.device(), &[tokens.len(), first.cols()], "activations")?;
    let one = table.shards.len() == 1;
    for (row, shard) in &table.shards {
        let part = (!one).then_some(*row);
        kernel::embedding_forward(shard, part, tokens, table.scale, To::Into(&out))?;
    }
    let (grad, scale, tokens) = (table.grad.clone(), table.scale, tokens.clone());
    Ok(tape.record(out, grad.is_some(), move |_, dy| {
        let Some(grad) = grad else { return Ok(()) };
        // training all weights waits for the token ids once a micro-batch: one writer a row needs them sorted
        let order = TokenOrder::new(tokens.device(), &tokens.read::<u32>()?, grad.shape()[0])?;
        kernel::embedding_backward(&grad, &order, &dy, scale)
    }))
}
