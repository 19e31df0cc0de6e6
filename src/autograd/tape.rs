//! The tape, and the gradients that travel back along it.

use super::kept::{Kept, Recipe};
use crate::device::Watch;
use crate::error::{Error, Result};
use crate::kernels::elementwise;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Gets the gradients of an operation's results, none of one that nothing used.
type Backward = Box<dyn FnOnce(&mut Grads, Vec<Option<Tensor>>) -> Result<()>>;

/// An activation. It has an identity on the tape only if a gradient of it is needed.
#[derive(Clone, Debug)]
pub struct Var {
    pub value: Tensor,
    id: Option<usize>,
    recipe: Option<Rc<Recipe>>,
}

/// Which activation, without its value: what an operation keeps of an input that its backward does not read, so that the value
/// is freed.
#[derive(Clone, Copy, Debug)]
pub struct VarId(Option<usize>);

impl From<&Var> for VarId {
    fn from(var: &Var) -> VarId {
        VarId(var.id)
    }
}

impl Var {
    pub fn id(&self) -> VarId {
        self.into()
    }

    /// An activation whose gradient nothing needs.
    pub fn constant(value: Tensor) -> Self {
        Var { value, id: None, recipe: None }
    }

    /// The same activation, of which a backward pass keeps only how to make it again: `make` does, from what the operation
    /// that made it keeps for its own backward anyway. One that is not tracked has no such operation and is kept itself.
    pub fn remade_by(self, make: impl Fn() -> Result<Tensor> + 'static) -> Self {
        let recipe = self.is_tracked().then(|| Recipe::new(make));
        Var { recipe, ..self }
    }

    /// What an operation whose backward reads this activation keeps of it.
    pub fn kept(&self) -> Kept {
        Kept::new(&self.value, self.recipe.as_ref())
    }

    /// Whether something trainable lies below it.
    pub fn is_tracked(&self) -> bool {
        self.id.is_some()
    }

    /// The value, for an operation that has no backward.
    ///
    /// # Errors
    /// [`Error::Shape`] if the gradient of this activation is needed: cutting the graph silently would train wrongly.
    pub fn untracked(&self, op: &'static str) -> Result<&Tensor> {
        match self.id {
            None => Ok(&self.value),
            Some(_) => Err(Error::shape(op, "has no backward, but the gradient of its input is needed")),
        }
    }
}

/// What drops inputs of low-rank adapters in this pass.
#[derive(Clone, Debug)]
pub struct Dropout {
    pub seed: u32,
    /// Optimiser step.
    pub step: u32,
    /// `[tokens]` u32: a number for each token that does not depend on how rows are split into micro-batches.
    pub keys: Tensor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing is tracked.
    Inference,
    /// Tracked and recorded.
    Record,
    /// Tracked, not recorded: the first pass over a checkpointed part.
    Dry,
}

/// Records operations for one backward pass.
pub struct Tape {
    mode: Mode,
    nodes: Vec<Node>,
    next: usize,
    grads: Grads,
    dropout: Option<Dropout>,
    watch: Option<Arc<Watch>>,
}

struct Node {
    ids: std::ops::Range<usize>,
    backward: Backward,
    /// Whose operation it is, on a tape that is watched.
    module: Option<Arc<str>>,
}

impl Tape {
    /// A tape that records.
    pub fn new(dropout: Option<Dropout>) -> Self {
        Tape::with(Mode::Record, dropout, None)
    }

    /// A tape on which nothing is tracked.
    pub fn inference() -> Self {
        Tape::with(Mode::Inference, None, None)
    }

    fn with(mode: Mode, dropout: Option<Dropout>, watch: Option<Arc<Watch>>) -> Self {
        Tape { mode, nodes: Vec::new(), next: 0, grads: Grads::default(), dropout, watch }
    }

    /// The same tape, which tells `watch` whose operation runs.
    pub fn watched(self, watch: Option<Arc<Watch>>) -> Self {
        Tape { watch, ..self }
    }

    /// Says that the operations from here on are those of a module; its name is made only where someone watches.
    pub fn enter<N: Into<Arc<str>>>(&self, module: impl FnOnce() -> N) {
        if let Some(watch) = &self.watch {
            watch.enter(module().into(), false);
        }
    }

    pub fn dropout(&self) -> Option<&Dropout> {
        self.dropout.as_ref()
    }

    /// Whether gradients will be wanted at all.
    pub fn is_training(&self) -> bool {
        self.mode != Mode::Inference
    }

    /// Says that the outputs of what was entered last, of `width` columns, are those of several modules, each from its
    /// first column on.
    pub fn enter_columns(&self, width: usize, modules: impl FnOnce() -> Vec<(usize, String)>) {
        if let Some(watch) = &self.watch {
            watch.set_columns(width, modules());
        }
    }

    /// The result of an operation. `needed`: whether an input is tracked or a parameter trains. `backward` gets the
    /// gradient of `value`.
    pub fn record(
        &mut self,
        value: Tensor,
        needed: bool,
        backward: impl FnOnce(&mut Grads, Tensor) -> Result<()> + 'static,
    ) -> Var {
        let [var] = self.record_many([value], needed, move |grads, [dy]| match dy {
            Some(dy) => backward(grads, dy),
            None => Ok(()),
        });
        var
    }

    /// The results of an operation that has several. `backward` gets the gradient of each, at least one.
    pub fn record_many<const N: usize>(
        &mut self,
        values: [Tensor; N],
        needed: bool,
        backward: impl FnOnce(&mut Grads, [Option<Tensor>; N]) -> Result<()> + 'static,
    ) -> [Var; N] {
        if !needed || self.mode == Mode::Inference {
            return values.map(Var::constant);
        }
        let first = self.next;
        self.next += N;
        if self.mode == Mode::Record {
            let backward = move |grads: &mut Grads, dys: Vec<Option<Tensor>>| match dys.try_into() {
                Ok(dys) => backward(grads, dys),
                Err(_) => Err(Error::shape("tape", "another number of results")),
            };
            let module = self.watch.as_ref().map(|w| w.module());
            self.nodes.push(Node { ids: first..first + N, backward: Box::new(backward), module });
        }
        let mut id = first..;
        values.map(|value| Var { value, id: id.next(), recipe: None })
    }

    /// A tracked input, whose gradient [`Tape::take`] gives after the backward pass.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        let id = self.next;
        self.next += 1;
        Var { value, id: Some(id), recipe: None }
    }

    /// Sets the gradient of `var`, where the backward pass starts.
    pub fn seed(&mut self, var: &Var, gradient: Tensor) -> Result<()> {
        self.grads.add(var, gradient)
    }

    /// Runs the recorded operations backwards, each freed as soon as it is done.
    pub fn backward(&mut self) -> Result<()> {
        while let Some(node) = self.nodes.pop() {
            // an output that nothing used has no gradient, and passes none on
            let gradients: Vec<_> = node.ids.clone().map(|id| self.grads.0.remove(&id)).collect();
            if gradients.iter().any(Option::is_some) {
                if let (Some(watch), Some(module)) = (&self.watch, node.module) {
                    watch.enter(module, true);
                }
                (node.backward)(&mut self.grads, gradients)?;
            }
        }
        Ok(())
    }

    /// The gradient that arrived at `var`, if any did.
    pub fn take(&mut self, var: &Var) -> Option<Tensor> {
        self.grads.0.remove(&var.id?)
    }

    /// Runs `f` without keeping what its backward needs; the backward pass runs it again. Only `x` is kept.
    pub fn checkpoint(&mut self, x: &Var, f: impl Fn(&mut Tape, &Var) -> Result<Var> + 'static) -> Result<Var> {
        if self.mode != Mode::Record {
            return f(self, x);
        }
        let (dropout, watch) = (self.dropout.clone(), self.watch.clone());
        let mut dry = Tape::with(Mode::Dry, dropout.clone(), watch.clone());
        let inner = if x.is_tracked() { dry.leaf(x.value.clone()) } else { x.clone() };
        let y = f(&mut dry, &inner)?;
        let x = x.clone();
        Ok(self.record(y.value.clone(), y.is_tracked(), move |grads, dy| {
            let mut again = Tape::with(Mode::Record, dropout, watch);
            let inner = if x.is_tracked() { again.leaf(x.value.clone()) } else { x.clone() };
            let y = f(&mut again, &inner)?;
            again.seed(&y, dy)?;
            again.backward()?;
            match again.take(&inner) {
                Some(dx) => grads.add(&x, dx),
                None => Ok(()),
            }
        }))
    }
}

/// Gradients of activations on their way back.
#[derive(Default)]
pub struct Grads(HashMap<usize, Tensor>);

impl Grads {
    /// Adds `gradient` to that of `var`; nothing happens if it is not tracked.
    pub fn add(&mut self, var: impl Into<VarId>, gradient: Tensor) -> Result<()> {
        self.accumulate(var, |sum| match sum {
            None => Ok(gradient),
            Some(sum) => elementwise::add_into(sum, &gradient, 1.0).map(|()| sum.clone()),
        })
    }

    /// Lets `f` make the gradient of `var`: a new tensor, or by adding to the one that is there. `f` is not called if
    /// `var` is not tracked.
    pub fn accumulate(
        &mut self,
        var: impl Into<VarId>,
        f: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<()> {
        let VarId(Some(id)) = var.into() else { return Ok(()) };
        // a residual connection hands one tensor to two gradients: adding in place would change both
        let sum = self.0.remove(&id).map(Tensor::unshared).transpose()?;
        let gradient = f(sum.as_ref())?;
        self.0.insert(id, gradient);
        Ok(())
    }
}
