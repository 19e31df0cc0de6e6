//! The RoSA linear: `Y = X·(W+S)ᵀ + s·drop(X)·Aᵀ·Bᵀ + bias`.
//!
//! With U = s·drop(X)·Aᵀ and V = s·dY·B, both `[tokens, rank]`:
//!
//! ```text
//! Y  = X·(W+S)ᵀ + U·Bᵀ            one kernel
//! dX = dY·(W+S) + drop'(V·A)      one kernel without dropout
//! dB = dYᵀ·U      dA = Vᵀ·drop(X)
//! dS = (dYᵀ·X) at the mask        X as it came: S has no dropout and no scale
//! dW = dYᵀ·X                      only where W trains, or where masks are collected
//! ```
//!
//! While W holds S already ([`InWeight`]), both products take W for W+S; dS is the same.

use crate::autograd::{Dropout, Kept, Param, Tape, Var};
use crate::error::Result;
use crate::kernels::To;

use crate::kernels::dropout::{self as kernel, dropout};
use crate::kernels::in_weight::InWeight;
pub use crate::kernels::low_rank::Block;
use crate::kernels::low_rank::{Gradients, gradient_blocks, gradient_rows, gradients};
use crate::kernels::low_rank::{project_blocks, project_rows, spread};
use crate::kernels::parts::Sums;
use crate::kernels::product::{Fused, Layout, Out, matmul, operands};
use crate::kernels::sharded::sharded_linear;
use crate::kernels::sparse::{SparseIndex, sddmm};
use crate::tensor::{Element, Tensor, Weight};
use std::sync::Arc;

/// The low-rank adapters of a linear: one for all its outputs, or one for each of several blocks of them.
#[derive(Clone)]
pub struct LowRank {
    /// `[rank, in]`: the blocks' A one below the other, their ranks together.
    pub a: Param,
    /// The blocks' B `[rows, rank]` one behind the other; `[out, rank]` where one block covers all.
    pub b: Param,
    pub blocks: Vec<Block>,
    /// Probability that an element of X is dropped on its way into A. Only for a single block.
    pub dropout: f32,
    /// Tells this module's dropout from others'.
    pub stream: u32,
}

impl LowRank {
    /// One adapter A `[rank, in]`, B `[out, rank]` for all outputs, without dropout. `scale`: alpha/rank or alpha/√rank.
    pub fn whole(a: Param, b: Param, scale: f32) -> LowRank {
        let (rows, rank) = (b.value.shape()[0], a.value.shape()[0]);
        LowRank { a, b, blocks: vec![Block { first_row: 0, rows, rank, scale }], dropout: 0.0, stream: 0 }
    }

    /// The scale, where one block covers all `out` outputs.
    fn only_scale(&self, out: usize) -> Option<f32> {
        match self.blocks.as_slice() {
            [b] if (b.first_row, b.rows) == (0, out) => Some(b.scale),
            _ => None,
        }
    }

    /// B `[out, rank]` as the product takes it, with the factor of U: several blocks have zeros between them, and take
    /// their scales along.
    fn operand(&self, out: usize) -> Result<(Tensor, f32)> {
        match self.only_scale(out) {
            Some(scale) => Ok((self.b.value.clone(), scale)),
            None => Ok((spread(&self.b.value, &self.blocks, out, To::New("scratch"))?, 1.0)),
        }
    }

    /// The blocks as dB sees them: a scale that is in U already is not taken twice.
    fn unscaled(&self, out: usize) -> Vec<Block> {
        match self.only_scale(out) {
            Some(_) => self.blocks.iter().map(|b| Block { scale: 1.0, ..*b }).collect(),
            None => self.blocks.clone(),
        }
    }
}

/// A sparse adapter: values `[nnz]` in the order of the index.
#[derive(Clone)]
pub struct Sparse {
    pub index: SparseIndex,
    pub values: Param,
    /// Where S can be in W itself.
    pub in_weight: Option<Arc<InWeight>>,
}

impl Sparse {
    /// S as products have to add it: not at all while W holds it.
    fn apart(&self) -> Option<(&SparseIndex, &Tensor)> {
        let in_weight = self.in_weight.as_ref().is_some_and(|w| w.is_written());
        (!in_weight).then_some((&self.index, &self.values.value))
    }
}

/// Takes the dense gradient of a frozen weight `[out, in]`, one micro-batch at a time.
pub trait GradientSink: Send + Sync {
    /// The buffer is reused as soon as this returns and what it launched has run.
    fn collect(&self, gradient: &Tensor) -> Result<()>;
}

/// Who takes the gradient of some rows of the weight.
#[derive(Clone)]
pub struct RowSink {
    pub first_row: usize,
    pub rows: usize,
    pub to: Arc<dyn GradientSink>,
}

/// What is attached to a linear from outside.
#[derive(Clone, Default)]
pub struct Attachment {
    pub low_rank: Option<LowRank>,
    pub sparse: Option<Sparse>,
    pub sinks: Vec<RowSink>,
}

impl Attachment {
    fn trains(&self) -> bool {
        self.low_rank.as_ref().is_some_and(|l| l.b.grad.is_some()) || self.reads_input()
    }

    /// Whether some gradient is made of the linear's input.
    fn reads_input(&self) -> bool {
        let a = self.low_rank.as_ref().is_some_and(|l| l.a.grad.is_some());
        a || self.sparse.as_ref().is_some_and(|s| s.values.grad.is_some()) || !self.sinks.is_empty()
    }
}

/// One linear as the operation sees it.
#[derive(Clone)]
pub struct Linear {
    /// W `[out, in]` in shards of whole rows, each with its first row: one, unless a binding does not hold it all.
    pub shards: Vec<(usize, Weight)>,
    /// dW, where W itself trains.
    pub weight_grad: Option<Tensor>,
    /// `[out]`
    pub bias: Option<Tensor>,
    pub attached: Arc<Attachment>,
}

impl Linear {
    /// out
    pub fn rows(&self) -> usize {
        self.shards.last().map_or(0, |(first, shard)| first + shard.rows())
    }

    /// in
    pub fn cols(&self) -> usize {
        self.shards.first().map_or(0, |(_, shard)| shard.cols())
    }

    /// What X `[tokens, in]` and the gradient of Y `[tokens, out]` are best made of: what makes them asks here.
    pub fn operands(&self, tape: &Tape, tokens: usize) -> Element {
        // dropout makes an f32 copy of X for the low-rank part: then little is gained, and its kernel reads f32; the thin
        // products read four f16 of a block at a time
        let reads_floats = |lr: &LowRank| {
            let fours = lr.blocks.iter().all(|b| b.first_row % 4 == 0 && b.rows % 4 == 0);
            !fours || active(tape.dropout(), lr)
        };
        match (&*self.shards, &self.attached.low_rank) {
            (_, Some(lr)) if reads_floats(lr) => Element::F32,
            ([(_, whole)], _) => operands(whole.device(), tokens, whole.rows(), whole.cols()),
            _ => Element::F32,
        }
    }
}

/// X `[tokens, in]` to Y `[tokens, out]`.
pub fn linear(tape: &mut Tape, x: &Var, l: Linear) -> Result<Var> {
    let low_rank = l.attached.low_rank.clone();
    let out_features = l.rows();
    let (mut u, mut b) = (None, None);
    if let Some(lr) = &low_rank {
        let dropped = dropped(tape.dropout(), &x.value, lr)?; // made again in the backward pass from its counter
        let (operand, scale) = lr.operand(out_features)?;
        // scaled once, so neither product below needs to know s
        u = Some(project_rows(dropped.as_ref().unwrap_or(&x.value), &lr.a.value, scale, To::default())?);
        b = Some(operand);
    }
    let fused = Fused {
        sparse: l.attached.sparse.as_ref().and_then(Sparse::apart),
        low_rank: u.as_ref().zip(b.as_ref()).map(|(u, b)| (u, 0, b)),
        bias: l.bias.as_ref(),
    };
    let y = sharded_linear(Layout::Nt, &x.value, &l.shards, fused, Out::default())?;
    drop(b);

    let needed = x.is_tracked() || l.weight_grad.is_some() || l.attached.trains();
    // a frozen linear's input is not kept for it
    let reads = l.weight_grad.is_some() || l.attached.reads_input();
    let (to, kept, drops) = (x.id(), reads.then(|| x.kept()), tape.dropout().cloned());
    let is_tracked = x.is_tracked();
    Ok(tape.record(y, needed, move |grads, dy| {
        let x = kept.as_ref().map(Kept::value).transpose()?;
        let x = x.as_ref();
        if let Some((dw, x)) = l.weight_grad.as_ref().zip(x) {
            matmul(Layout::Tn, &dy, x, Out::add_to(dw))?;
        }
        if let Some(x) = x.filter(|_| !l.attached.sinks.is_empty()) {
            let dw = matmul(Layout::Tn, &dy, x, Out { what: "mask gradients", ..Out::default() })?;
            for sink in &l.attached.sinks {
                sink.to.collect(&dw.rows(sink.first_row, sink.rows, "mask gradients")?)?;
            }
        }
        let sparse = l.attached.sparse.as_ref();
        if let Some((s, ds, x)) = sparse.and_then(|s| Some((s, s.values.grad.as_ref()?, x?))) {
            sddmm(&dy, x, &s.index, ds)?;
        }
        let (mut v, mut sums) = (None, Sums::default());
        if let (Some(lr), Some(u)) = (&low_rank, &u) {
            if lr.a.grad.is_some() || is_tracked {
                v = Some(project_blocks(&dy, &lr.b.value, &lr.blocks, To::default())?);
            }
            let of_a = lr.a.grad.as_ref().zip(v.as_ref()).zip(x);
            let again = match of_a {
                Some((_, x)) => self::dropped(drops.as_ref(), x, lr)?,
                None => None,
            };
            let blocks = lr.unscaled(out_features);
            match (&lr.b.grad, of_a.map(|((da, v), x)| (da, v, again.as_ref().unwrap_or(x)))) {
                (Some(db), Some((da, v, x))) => {
                    gradients(Gradients { dy: &dy, u, blocks: &blocks, x, v }, db, da, &mut sums)?;
                }
                (Some(db), None) => gradient_blocks(&dy, u, &blocks, db, &mut sums)?,
                (None, Some((da, v, x))) => gradient_rows(v, x, da, &mut sums)?,
                (None, None) => {}
            }
        }
        sums.finish()?;
        grads.accumulate(to, |sum| {
            // dropout's mask lies over V·A alone, so with it that part is a product of its own
            let masked = low_rank.as_ref().zip(v.as_ref()).filter(|(lr, _)| active(drops.as_ref(), lr));
            let fused = Fused {
                sparse: sparse.and_then(Sparse::apart),
                low_rank: match masked {
                    Some(_) => None,
                    None => v.as_ref().zip(low_rank.as_ref()).map(|(v, lr)| (v, 0, &lr.a.value)),
                },
                bias: None,
            };
            let dx = sharded_linear(Layout::Nn, &dy, &l.shards, fused, sum.map_or(Out::default(), Out::add_to))?;
            if let (Some((lr, v)), Some(d)) = (masked, &drops) {
                let va = matmul(Layout::Nn, v, &lr.a.value, Out::default())?;
                dropout(&va, &d.keys, mask_of(d, lr), To::AddTo(&dx))?;
            }
            Ok(dx)
        })
    }))
}

fn active(drops: Option<&Dropout>, lr: &LowRank) -> bool {
    drops.is_some() && lr.dropout > 0.0
}

fn mask_of(d: &Dropout, lr: &LowRank) -> kernel::Dropout {
    kernel::Dropout { p: lr.dropout, seed: d.seed, stream: lr.stream, step: d.step }
}

fn dropped(drops: Option<&Dropout>, x: &Tensor, lr: &LowRank) -> Result<Option<Tensor>> {
    match drops {
        Some(d) if lr.dropout > 0.0 => dropout(x, &d.keys, mask_of(d, lr), To::default()).map(Some),
        _ => Ok(None),
    }
}
