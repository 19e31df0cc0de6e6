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

use crate::autograd::{Dropout, Param, Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::dropout::{self as kernel, dropout};
use crate::kernels::matmul::{Fused, Layout, Out, matmul, rosa_linear};
use crate::kernels::sparse::{SparseIndex, sddmm};
use crate::tensor::{Tensor, Weight};
use std::sync::Arc;

/// A low-rank adapter: A `[rank, in]`, B `[out, rank]`.
#[derive(Clone)]
pub struct LowRank {
    pub a: Param,
    pub b: Param,
    /// s: alpha/rank or alpha/√rank.
    pub scale: f32,
    /// Probability that an element of X is dropped on its way into A.
    pub dropout: f32,
    /// Tells this module's dropout from others'.
    pub stream: u32,
}

/// A sparse adapter: values `[nnz]` in the order of the index.
#[derive(Clone)]
pub struct Sparse {
    pub index: SparseIndex,
    pub values: Param,
}

/// Takes the dense gradient of a frozen weight `[out, in]`, one micro-batch at a time.
pub trait GradientSink: Send + Sync {
    /// The buffer is reused as soon as this returns and what it launched has run.
    fn collect(&self, gradient: &Tensor) -> Result<()>;
}

/// What is attached to a linear from outside.
#[derive(Clone, Default)]
pub struct Attachment {
    pub low_rank: Option<LowRank>,
    pub sparse: Option<Sparse>,
    pub sink: Option<Arc<dyn GradientSink>>,
}

impl Attachment {
    fn trains(&self) -> bool {
        let low_rank = self.low_rank.as_ref().is_some_and(|l| l.a.grad.is_some() || l.b.grad.is_some());
        low_rank || self.sparse.as_ref().is_some_and(|s| s.values.grad.is_some()) || self.sink.is_some()
    }
}

/// One linear as the operation sees it.
#[derive(Clone)]
pub struct Linear {
    /// W `[out, in]`
    pub weight: Weight,
    /// dW, where W itself trains.
    pub weight_grad: Option<Tensor>,
    /// `[out]`
    pub bias: Option<Tensor>,
    pub attached: Arc<Attachment>,
}

/// X `[tokens, in]` to Y `[tokens, out]`.
pub fn linear(tape: &mut Tape, x: &Var, l: Linear) -> Result<Var> {
    let low_rank = l.attached.low_rank.clone();
    let dropped = match &low_rank {
        Some(lr) => dropped(tape.dropout(), &x.value, lr)?,
        None => None,
    };
    // scaled once here, so neither product below needs to know s
    let u = match &low_rank {
        Some(lr) => {
            let input = dropped.as_ref().unwrap_or(&x.value);
            Some(matmul(Layout::Nt, input, &lr.a.value, Out::scaled(lr.scale))?)
        }
        None => None,
    };
    drop(dropped); // made again in the backward pass from its counter
    let fused = Fused {
        sparse: l.attached.sparse.as_ref().map(|s| (&s.index, &s.values.value)),
        low_rank: u.as_ref().zip(low_rank.as_ref()).map(|(u, lr)| (u, 0, &lr.b.value)),
        bias: l.bias.as_ref(),
    };
    let y = rosa_linear(Layout::Nt, &x.value, &l.weight, fused, Out::default())?;

    let needed = x.is_tracked() || l.weight_grad.is_some() || l.attached.trains();
    let (x, drops) = (x.clone(), tape.dropout().cloned());
    Ok(tape.record(y, needed, move |grads, dy| {
        if let Some(dw) = &l.weight_grad {
            matmul(Layout::Tn, &dy, &x.value, Out::add_to(dw))?;
        }
        if let Some(sink) = &l.attached.sink {
            sink.collect(&matmul(Layout::Tn, &dy, &x.value, Out { what: "mask gradients", ..Out::default() })?)?;
        }
        let sparse = l.attached.sparse.as_ref();
        if let Some((s, ds)) = sparse.and_then(|s| Some((s, s.values.grad.as_ref()?))) {
            sddmm(&dy, &x.value, &s.index, ds)?;
        }
        let mut v = None;
        if let (Some(lr), Some(u)) = (&low_rank, &u) {
            if let Some(db) = &lr.b.grad {
                matmul(Layout::Tn, &dy, u, Out::add_to(db))?;
            }
            if lr.a.grad.is_some() || x.is_tracked() {
                v = Some(matmul(Layout::Nn, &dy, &lr.b.value, Out::scaled(lr.scale))?);
            }
            if let (Some(da), Some(v)) = (&lr.a.grad, &v) {
                let again = self::dropped(drops.as_ref(), &x.value, lr)?;
                matmul(Layout::Tn, v, again.as_ref().unwrap_or(&x.value), Out::add_to(da))?;
            }
        }
        grads.accumulate(&x, |sum| {
            // dropout's mask lies over V·A alone, so with it that part is a product of its own
            let masked = low_rank.as_ref().zip(v.as_ref()).filter(|(lr, _)| active(drops.as_ref(), lr));
            let fused = Fused {
                sparse: sparse.map(|s| (&s.index, &s.values.value)),
                low_rank: match masked {
                    Some(_) => None,
                    None => v.as_ref().zip(low_rank.as_ref()).map(|(v, lr)| (v, 0, &lr.a.value)),
                },
                bias: None,
            };
            let dx = rosa_linear(Layout::Nn, &dy, &l.weight, fused, sum.map_or(Out::default(), Out::add_to))?;
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
