//! Self-attention: grouped queries, rotary positions, causal inside of a segment.

use super::Linear;
use crate::autograd::ops::{self, AttentionInputs, Norm};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::attention::{AttentionShape, Ranges, attention_decode, attention_forward, kv_store};
use crate::kernels::rope::RopeTable;
use crate::tensor::Tensor;

/// The attention block of a layer.
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// Norms of each head of q and k, where the family has them.
    pub qk_norm: Option<(Norm, Norm)>,
    pub shape: AttentionShape,
}

/// What surrounds the tokens of a pass.
#[derive(Clone)]
pub enum Pass {
    /// Whole segments, which see only themselves.
    Segments(AttentionInputs),
    /// Segments whose keys and values are also stored in a cache for what follows.
    Prefill(AttentionInputs, Cached),
    /// One new token a sequence, which sees the cache.
    Decode(Cached),
}

/// Where a pass stores and finds keys and values. All indices `[tokens]` u32, rows of the cache.
#[derive(Clone)]
pub struct Cached {
    /// Keys and values `[cache rows, kv_heads · head_dim]` by layer.
    pub layers: Vec<(Tensor, Tensor)>,
    /// The row that each token's key and value go to.
    pub slots: Tensor,
    /// First row that each token sees, and one past the last.
    pub kv_start: Tensor,
    pub kv_end: Tensor,
}

impl Attention {
    /// X `[tokens, hidden]` to `[tokens, hidden]`; `layer` picks the cache.
    pub fn forward(
        &self,
        tape: &mut Tape,
        x: &Var,
        layer: usize,
        rope: &RopeTable,
        positions: &Tensor,
        pass: &Pass,
    ) -> Result<Var> {
        let q = self.q_proj.forward(tape, x)?;
        let k = self.k_proj.forward(tape, x)?;
        let v = self.v_proj.forward(tape, x)?;
        let (q, k) = match &self.qk_norm {
            None => (q, k),
            Some((nq, nk)) => (ops::rmsnorm(tape, &q, nq)?, ops::rmsnorm(tape, &k, nk)?),
        };
        let q = ops::rope(tape, &q, rope, positions)?;
        let k = ops::rope(tape, &k, rope, positions)?;
        let out = match pass {
            Pass::Segments(inputs) => ops::attention(tape, &q, &k, &v, inputs, self.shape)?,
            Pass::Prefill(inputs, cached) => {
                let (q, k, v) = (q.untracked("cache")?, k.untracked("cache")?, v.untracked("cache")?);
                cached.store(layer, k, v)?;
                let (out, _) = attention_forward(q, k, v, inputs.keys(), &self.shape, None)?;
                Var::constant(out)
            }
            Pass::Decode(cached) => {
                let (q, k, v) = (q.untracked("cache")?, k.untracked("cache")?, v.untracked("cache")?);
                cached.store(layer, k, v)?;
                let (keys, values) = &cached.layers[layer];
                Var::constant(attention_decode(q, keys, values, cached.seen(), &self.shape, None)?)
            }
        };
        self.o_proj.forward(tape, &out)
    }
}

impl Cached {
    fn seen(&self) -> Ranges<'_> {
        Ranges { start: &self.kv_start, end: &self.kv_end }
    }

    fn store(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let (keys, values) = &self.layers[layer];
        kv_store(k, &self.slots, keys)?;
        kv_store(v, &self.slots, values)
    }
}
