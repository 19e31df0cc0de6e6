//! The language-model head and its loss, for supervised tokens only, in chunks: logits never exist all at once, and the
//! gradient of the hidden states is taken in the same pass.

use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::embedding::{gather_rows, scatter_rows_add};
use crate::kernels::loss::{Logits, cross_entropy, cross_entropy_grad};
use crate::kernels::product::{Fused, Layout, Out, matmul, operands};
use crate::kernels::sharded::sharded_linear;
use crate::kernels::{elementwise, reduce};
use crate::tensor::{Element, Tensor, Weight};

/// The matrix `[vocab, hidden]` that makes logits, in shards of whole rows.
#[derive(Clone)]
pub struct Head {
    pub shards: Vec<(usize, Weight)>,
    /// `[vocab, hidden]`, where the head trains (one shard then).
    pub grad: Option<Tensor>,
    pub vocab: usize,
    /// Logits are `cap · tanh(logits / cap)`.
    pub softcap: Option<f32>,
}

/// The supervised tokens of a batch.
#[derive(Clone, Debug)]
pub struct Targets {
    /// `[supervised]` u32: their places in the batch, and what should follow them.
    rows: Tensor,
    ids: Tensor,
}

/// What becomes of the loss.
#[derive(Clone, Copy)]
pub struct HeadLoss<'a> {
    /// Factor of each token's loss: 1 / supervised tokens of the optimiser step.
    pub scale: f32,
    /// Further factor of the gradient alone.
    pub gradient: f32,
    /// `[1]`: the scaled loss is added to it.
    pub sum: &'a Tensor,
}

/// Bytes of logits that exist at once, about: each chunk reads the whole matrix twice.
const CHUNK_BYTES: usize = 128 << 20;
/// Tokens of a chunk are a multiple of this: the rows of a product's largest tile, which a smaller rest would leave empty.
const CHUNK_ROWS: usize = 128;
/// Views of so many words are aligned.
const ALIGNED: usize = 64;

impl Targets {
    /// From shifted targets `[tokens]`, negative where ignored.
    pub fn new(device: &Device, targets: &[i32]) -> Result<Targets> {
        let (rows, ids): (Vec<u32>, Vec<u32>) =
            (targets.iter().enumerate()).filter(|(_, t)| **t >= 0).map(|(i, t)| (i as u32, *t as u32)).unzip();
        let up = |v: &[u32]| Tensor::from_slice(device, &[v.len()], v, "batch");
        Ok(Targets { rows: up(&rows)?, ids: up(&ids)? })
    }

    /// Supervised tokens.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Parts of at most `size` tokens; `size` is a multiple of [`ALIGNED`].
    fn chunks(&self, size: usize) -> impl Iterator<Item = Result<(Tensor, Tensor)>> + '_ {
        (0..self.len()).step_by(size).map(move |first| {
            let n = size.min(self.len() - first);
            Ok((self.rows.view(first, &[n])?, self.ids.view(first, &[n])?))
        })
    }
}

impl Head {
    /// Tokens whose logits exist at once: whole tiles, or as many as one binding of this device holds.
    fn chunk(&self, device: &Device) -> usize {
        let row = 4 * self.vocab.max(1);
        let bound = usize::try_from(device.caps().max_binding).unwrap_or(usize::MAX) / row;
        let wanted = (CHUNK_BYTES / row).next_multiple_of(CHUNK_ROWS);
        if wanted <= bound { wanted } else { (bound / ALIGNED * ALIGNED).max(ALIGNED) }
    }

    fn meaning(&self) -> Logits {
        Logits { vocab: self.vocab, softcap: self.softcap }
    }

    /// Hidden states as the products read them fastest.
    fn operand(&self, hidden: &Tensor) -> Result<Tensor> {
        let (n, width) = hidden.dims2("head")?;
        let takes = |(_, w): &(usize, Weight)| operands(hidden.device(), n, w.rows(), width) == Element::F16;
        match self.shards.iter().all(takes) {
            true => elementwise::round(hidden, To::Half("scratch")),
            false => Ok(hidden.clone()),
        }
    }

    /// Hidden states `[n, hidden]` to logits `[n, vocab]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let (n, _) = hidden.dims2("head")?;
        let hidden = &self.operand(hidden)?;
        let logits = Tensor::empty(hidden.device(), &[n, self.vocab], "logits")?;
        sharded_linear(Layout::Nt, hidden, &self.shards, Fused::default(), Out::into(&logits))
    }

    /// d logits `[n, vocab]` to d hidden `[n, hidden]`.
    fn hidden_gradient(&self, dlogits: &Tensor) -> Result<Tensor> {
        sharded_linear(Layout::Nn, dlogits, &self.shards, Fused::default(), Out::default())
    }
}

/// Adds the batch's scaled loss to `loss.sum`, and seeds the gradient of `hidden` `[tokens, hidden]` where it is needed.
pub fn head_loss(tape: &mut Tape, hidden: &Var, head: &Head, targets: &Targets, loss: HeadLoss<'_>) -> Result<()> {
    let device = hidden.value.device();
    let needed = hidden.is_tracked() || head.grad.is_some();
    let d_hidden =
        if hidden.is_tracked() { Some(Tensor::zeros(device, hidden.value.shape(), "activations")?) } else { None };
    for part in targets.chunks(head.chunk(device)) {
        let (rows, ids) = part?;
        let h = gather_rows(&hidden.value, &rows, To::default())?;
        let logits = head.logits(&h)?;
        let nll = match needed {
            true => cross_entropy_grad(&logits, &ids, head.meaning(), loss.scale * loss.gradient, To::default())?,
            false => cross_entropy(&logits, &ids, head.meaning(), To::default())?,
        };
        elementwise::scale(&nll, loss.scale)?;
        reduce::sum(&nll, loss.sum, 0, true)?;
        // the logits' memory holds their gradient now
        if let Some(grad) = &head.grad {
            matmul(Layout::Tn, &logits, &h, Out::add_to(grad))?;
        }
        if let Some(d_hidden) = &d_hidden {
            scatter_rows_add(d_hidden, &rows, &head.hidden_gradient(&logits)?)?;
        }
    }
    match d_hidden {
        Some(gradient) => tape.seed(hidden, gradient),
        None => Ok(()),
    }
}

/// The negative log-likelihood of each supervised token `[supervised]`, in nats; no gradient.
pub fn head_nll(hidden: &Tensor, head: &Head, targets: &Targets) -> Result<Vec<f32>> {
    let mut all = Vec::with_capacity(targets.len());
    for part in targets.chunks(head.chunk(hidden.device())) {
        let (rows, ids) = part?;
        let logits = head.logits(&gather_rows(hidden, &rows, To::default())?)?;
        all.extend(cross_entropy(&logits, &ids, head.meaning(), To::default())?.read::<f32>()?);
    }
    Ok(all)
}

/// The logits of each supervised token `[supervised, vocab]`, as they count, in chunks.
pub fn head_logits<'a>(
    hidden: &'a Tensor,
    head: &'a Head,
    targets: &'a Targets,
) -> impl Iterator<Item = Result<Vec<f32>>> + 'a {
    targets.chunks(head.chunk(hidden.device())).map(move |part| {
        let (rows, _) = part?;
        let mut logits: Vec<f32> = head.logits(&gather_rows(hidden, &rows, To::default())?)?.read()?;
        if let Some(cap) = head.softcap {
            logits.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
        }
        Ok(logits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Caps;
    use crate::device::dry::DryBackend;

    #[test]
    fn chunks_are_whole_tiles_that_one_binding_holds() {
        let chunk = |vocab: usize, mib: u64| {
            let caps = Caps { max_binding: mib << 20, ..DryBackend::caps_for_tests() };
            let device = Device::new(Box::new(DryBackend::new(caps)));
            Head { shards: vec![], grad: None, vocab, softcap: None }.chunk(&device)
        };
        assert_eq!([chunk(49_152, 2048), chunk(128_256, 2048), chunk(262_144, 2048)], [768, 384, 128]);
        // what WebGPU grants, and Mesa's software renderer
        for vocab in [512, 32_000, 49_152, 128_256, 262_144] {
            let tokens = chunk(vocab, 128);
            assert!(tokens >= 64 && tokens % 64 == 0 && 4 * tokens * vocab <= 128 << 20, "{tokens} of {vocab}");
        }
    }
}
