//! What a backward pass reads of an activation: its value, or a way to make that again.

use crate::error::Result;
use crate::tensor::Tensor;
use std::cell::RefCell;
use std::rc::Rc;

/// An activation that a backward pass reads, held no longer than it must be.
#[derive(Clone)]
pub struct Kept(Inner);

#[derive(Clone)]
enum Inner {
    Value(Tensor),
    Recipe(Rc<Recipe>),
}

/// How an activation is made again, bit for bit, from what is kept anyway. It costs one pass over memory.
pub(super) struct Recipe {
    make: Box<dyn Fn() -> Result<Tensor>>,
    /// From its first reader on, until the last one is done.
    made: RefCell<Option<Tensor>>,
}

impl Recipe {
    pub fn new(make: impl Fn() -> Result<Tensor> + 'static) -> Rc<Recipe> {
        Rc::new(Recipe { make: Box::new(make), made: RefCell::new(None) })
    }
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recipe")
    }
}

impl Kept {
    /// `value` itself, where there is no recipe for it.
    pub(super) fn new(value: &Tensor, recipe: Option<&Rc<Recipe>>) -> Kept {
        Kept(recipe.map_or_else(|| Inner::Value(value.clone()), |recipe| Inner::Recipe(recipe.clone())))
    }

    /// The activation as the forward pass had it. For the backward pass: one that is made again stays until all that keep it
    /// are gone.
    ///
    /// # Errors
    /// Those of making it.
    pub fn value(&self) -> Result<Tensor> {
        match &self.0 {
            Inner::Value(value) => Ok(value.clone()),
            Inner::Recipe(recipe) => {
                let mut made = recipe.made.borrow_mut();
                let value = made.take().map_or_else(|| (recipe.make)(), Ok)?;
                *made = Some(value.clone());
                Ok(value)
            }
        }
    }
}
