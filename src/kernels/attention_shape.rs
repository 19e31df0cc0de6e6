//! What attention is about: its shapes, ranges and passes, which all of its kernels share.

use crate::device::{Cost, Device, Grid};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct TileParams {
    grid: Grid,
    tokens: u32,
    kv_rows: u32,
    heads: u32,
    kv_heads: u32,
    group: u32,
    blocks: u32,
    scale: f32,
    cap: f32,
    first: u32,
    end: u32,
}

/// The log-sum-exp of a query that sees no key.
pub const EMPTY_LSE: f32 = -1e38;

/// The largest head that the kernels are specialised for, in elements.
pub const MAX_HEAD_DIM: usize = 256;

/// What attention is like, apart from the sizes that the tensors tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    /// Divides `heads`.
    pub kv_heads: usize,
    /// A multiple of 8, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Factor of q·k, before the softcap.
    pub scale: f32,
    /// Gemma 2's `cap · tanh(s / cap)` on scores; positive.
    pub softcap: Option<f32>,
    /// Keys that a query sees at most, where that is known to be fewer than there are (sequence length, window). Only an
    /// estimate of the work, for time budgets and profiles.
    pub span: Option<usize>,
}

/// A range of rows for each row: `start[i] .. end[i]`, both tensors u32 `[rows]`. Ranges may be empty; what lies past the
/// last row is ignored.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    pub start: &'a Tensor,
    pub end: &'a Tensor,
}

impl Ranges<'_> {
    pub(super) fn expect_shape(&self, op: &'static str, name: &str, rows: usize) -> Result<()> {
        self.start.expect_shape(op, &format!("{name}.start"), &[rows])?;
        self.end.expect_shape(op, &format!("{name}.end"), &[rows])?;
        Ok(())
    }
}

/// The binding of the forward's output.
pub(super) const OUT: usize = 5;

/// The shader's three passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Pass {
    Forward = 0,
    Query = 1,
    KeyValue = 2,
}

impl Pass {
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::Query, Pass::KeyValue];
}

/// Heads, in elements, for whose blocks there is a choice: those of most models. Each block of each is a kernel to validate.
pub(super) const CHOICE: [usize; 5] = [64, 80, 96, 128, 256];

/// Sizes that fit together, and fit the shaders' 32-bit indices.
pub(super) struct Sizes {
    pub tokens: usize,
    pub kv_rows: usize,
    pub shape: AttentionShape,
}

impl Sizes {
    /// Checks `q` `[tokens, heads * head_dim]`, `k` and `v` `[kv_rows, kv_heads * head_dim]`.
    pub fn check(op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Sizes> {
        let AttentionShape { heads, kv_heads, head_dim, softcap, .. } = *shape;
        if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > MAX_HEAD_DIM {
            let reason = format!("{head_dim} is not a multiple of 8 up to {MAX_HEAD_DIM}, so this model cannot be run");
            return Err(Error::invalid("head_dim", reason));
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::invalid("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads")));
        }
        if softcap.is_some_and(|c| c.is_nan() || c <= 0.0) {
            return Err(Error::invalid("attn_logit_softcapping", "must be positive; leave it out for none"));
        }
        let (tokens, _) = q.dims2(op)?;
        let (kv_rows, _) = k.dims2(op)?;
        q.expect_shape(op, "q", &[tokens, heads * head_dim])?;
        k.expect_shape(op, "k", &[kv_rows, kv_heads * head_dim])?;
        v.expect_shape(op, "v", &[kv_rows, kv_heads * head_dim])?;
        // ranges of query tokens become ranges of rows (token · group + head), and statistics one index for all
        if u32::try_from(q.len().max(k.len()) + kv_rows + 4 * MAX_HEAD_DIM * heads).is_err() {
            return Err(Error::shape(op, format!("q {:?} and k {:?} have too many elements", q.shape(), k.shape())));
        }
        Ok(Sizes { tokens, kv_rows, shape: *shape })
    }

    pub fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// `products` of scores' size, half of which is masked in a causal range.
    pub fn cost(&self, products: usize, bindings: &[&Tensor]) -> Cost {
        let s = &self.shape;
        let keys = s.span.unwrap_or(self.kv_rows).min(self.kv_rows);
        let scores = self.tokens as f64 * (keys as f64 / 2.0 + 0.5) * s.heads as f64;
        Cost {
            flops: 2.0 * products as f64 * scores * s.head_dim as f64,
            bytes: bindings.iter().map(|t| (t.element().bytes() * t.len()) as f64).sum(),
        }
    }
}

impl TileParams {
    /// Of a launch over `blocks` blocks of rows, which sees only `columns`.
    pub(super) fn new(sizes: &Sizes, blocks: usize, columns: std::ops::Range<usize>) -> TileParams {
        let s = &sizes.shape;
        TileParams {
            tokens: sizes.tokens as u32,
            kv_rows: sizes.kv_rows as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            group: sizes.group() as u32,
            blocks: blocks as u32,
            scale: s.scale,
            cap: s.softcap.unwrap_or(1.0),
            first: columns.start as u32,
            end: columns.end as u32,
            ..Default::default()
        }
    }
}

/// A given output of this shape, or a new one.
pub(super) fn output(
    op: &'static str,
    name: &str,
    given: Option<&Tensor>,
    like: (&Device, &[usize]),
) -> Result<Tensor> {
    match given {
        Some(t) => Ok(t.expect_shape(op, name, like.1)?.clone()),
        None => Tensor::empty(like.0, like.1, "activations"),
    }
}
