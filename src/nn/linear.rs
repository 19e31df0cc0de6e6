//! A linear layer that adapters can be attached to.

use crate::autograd::ops::{self, Attachment};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::in_weight::InWeight;
use crate::tensor::{Element, Tensor, Weight};
use std::sync::{Arc, RwLock};

/// A linear layer: one module of the model, or several that share their input, whose weights lie one below the other
/// and whose outputs one behind the other.
pub struct Linear {
    modules: Vec<Module>,
    inner: RwLock<Inner>,
}

/// A module by its Hugging Face name (`model.layers.0.self_attn.q_proj`), and its rows of the weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    pub first_row: usize,
    pub rows: usize,
}

#[derive(Clone)]
struct Inner {
    linear: ops::Linear,
    /// `[out]`, where the bias trains.
    bias_grad: Option<Tensor>,
    /// W is frozen, one piece of memory that nobody else reads, so that S can be written into it.
    writable: bool,
}

impl Linear {
    /// One module.
    pub fn new(name: impl Into<String>, weight: Weight, bias: Option<Tensor>) -> Self {
        Linear::in_shards(name, vec![(0, weight)], bias)
    }

    /// One module whose weight may be cut into shards of whole rows, each with its first row.
    pub fn in_shards(name: impl Into<String>, shards: Vec<(usize, Weight)>, bias: Option<Tensor>) -> Self {
        let rows = shards.last().map_or(0, |(first, shard)| first + shard.rows());
        Linear::of(vec![Module { name: name.into(), first_row: 0, rows }], shards, bias)
    }

    /// Several, which together have all rows of the weight.
    pub fn stacked(modules: Vec<Module>, weight: Weight, bias: Option<Tensor>) -> Self {
        Linear::of(modules, vec![(0, weight)], bias)
    }

    fn of(modules: Vec<Module>, shards: Vec<(usize, Weight)>, bias: Option<Tensor>) -> Self {
        let writable = matches!(&*shards, [(_, whole)] if !whole.is_shared());
        let linear = ops::Linear { shards, weight_grad: None, bias, attached: Arc::default() };
        Linear { modules, inner: RwLock::new(Inner { linear, bias_grad: None, writable }) }
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module's name, or those of all: `model.layers.0.mlp.{gate_proj, up_proj}`.
    pub fn name(&self) -> String {
        match self.modules.as_slice() {
            [one] => one.name.clone(),
            all => {
                let last: Vec<&str> = all.iter().map(|m| split(&m.name).1).collect();
                format!("{}.{{{}}}", self.parent(), last.join(", "))
            }
        }
    }

    /// The name of the block that the linear is part of: `model.layers.0.mlp`.
    pub fn parent(&self) -> &str {
        self.modules.first().map_or("", |m| split(&m.name).0)
    }

    pub fn out_features(&self) -> usize {
        self.read(|l| l.linear.rows())
    }

    pub fn in_features(&self) -> usize {
        self.read(|l| l.linear.cols())
    }

    /// W as it stands, in shards of whole rows, one unless a binding does not hold it all; with S in it, while a sparse adapter is
    /// attached for which [`InWeight`] has room there.
    pub fn shards(&self) -> Vec<(usize, Weight)> {
        self.read(|l| l.linear.shards.clone())
    }

    /// `[out]`
    pub fn bias(&self) -> Option<Tensor> {
        self.read(|l| l.linear.bias.clone())
    }

    /// What is attached.
    pub fn attached(&self) -> Arc<Attachment> {
        self.read(|l| l.linear.attached.clone())
    }

    /// Replaces what is attached. A sparse adapter is written into W where it can be, with its values as they are now, and W
    /// is again what it was once something else is attached. Passes that were recorded before keep what they saw, but for
    /// one adapter's S in the place of another's.
    ///
    /// # Errors
    /// Those of the device; what was attached before still is then.
    pub fn attach(&self, mut attachment: Attachment) -> Result<()> {
        let Inner { linear, writable, .. } = self.read(Inner::clone);
        let before = linear.attached.sparse.as_ref().and_then(|s| s.in_weight.clone());
        let own = match (attachment.sparse.as_ref(), before) {
            (Some(s), Some(before)) if before.is_of(&s.index, &s.values.value) => Some(before),
            (sparse, before) => {
                before.map_or(Ok(()), |b| b.restore())?;
                let whole = linear.shards.first().map(|(_, whole)| whole).filter(|w| writable && InWeight::suits(w));
                let made = whole.zip(sparse).map(|(w, s)| InWeight::new(w, &s.index, &s.values.value)).transpose()?;
                made.map(Arc::new)
            }
        };
        own.as_ref().map_or(Ok(()), |own| own.write())?;
        if let Some(s) = &mut attachment.sparse {
            s.in_weight = own;
        }
        self.write(|l| l.linear.attached = Arc::new(attachment));
        Ok(())
    }

    /// Makes W itself train: `weight` replaces it and its gradient is added to `grad`. For a linear with nothing attached.
    pub fn train_weight(&self, weight: Weight, grad: Option<Tensor>) {
        self.write(|l| (l.linear.shards, l.linear.weight_grad, l.writable) = (vec![(0, weight)], grad, false));
    }

    /// Makes the bias train, where there is one: its gradient `[out]` is added to `grad`.
    pub fn train_bias(&self, grad: Tensor) {
        self.write(|l| l.bias_grad = Some(grad));
    }

    /// X `[tokens, in]` to Y `[tokens, out]`.
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        tape.enter(|| self.name());
        let Inner { linear, bias_grad, .. } = self.read(Inner::clone);
        let modules = || self.modules.iter().map(|m| (m.first_row, m.name.clone())).collect();
        tape.enter_columns(linear.rows(), modules);
        let y = ops::linear(tape, x, linear)?;
        Ok(match bias_grad {
            Some(grad) => ops::bias_gradient(tape, &y, &grad),
            None => y,
        })
    }

    /// See [`ops::Linear::operands`].
    pub fn operands(&self, tape: &Tape, tokens: usize) -> Element {
        // a bias that trains sums the gradient of Y as f32
        self.read(|l| if l.bias_grad.is_some() { Element::F32 } else { l.linear.operands(tape, tokens) })
    }

    fn read<T>(&self, f: impl FnOnce(&Inner) -> T) -> T {
        f(&self.inner.read().unwrap_or_else(|e| e.into_inner()))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.write().unwrap_or_else(|e| e.into_inner()))
    }
}

/// A module's name in front of the last dot, and behind it.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_modules_have_one_name() {
        let device = crate::device::Device::new(Box::new(crate::device::dry::DryBackend::new(
            crate::device::dry::DryBackend::caps_for_tests(),
        )));
        let weight = || Weight::empty(&device, crate::tensor::WeightFormat::F32, 6, 4, "weights").unwrap();
        let module = |name: &str, first_row| Module { name: name.into(), first_row, rows: 3 };
        let both = Linear::stacked(vec![module("a.0.mlp.gate", 0), module("a.0.mlp.up", 3)], weight(), None);
        assert_eq!((both.name().as_str(), both.parent()), ("a.0.mlp.{gate, up}", "a.0.mlp"));
        let one = Linear::new("a.0.mlp.down", weight(), None);
        assert_eq!((one.name().as_str(), one.parent()), ("a.0.mlp.down", "a.0.mlp"));
    }
}
