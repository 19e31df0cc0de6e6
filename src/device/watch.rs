//! A look at what every kernel writes, to find where numbers go wrong. It waits for each launch, so it is put on a
//! device only once something has gone wrong.

use super::{Access, Backend, Launch, Slice};
use crate::error::{Error, Result};
use half::f16;
use std::sync::{Arc, Mutex};

/// Where in a model, and in which pass, the launches that come now belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    module: Arc<str>,
    backward: bool,
    /// Columns of outputs that several modules have side by side, and first column and name of each.
    columns: (usize, Vec<(usize, String)>),
}

/// The first number that is not finite ends what runs on the watched device, with an error that names module and kernel.
#[derive(Debug, Default)]
pub struct Watch {
    place: Mutex<Place>,
    /// Tokens of the micro-batch; 0 if unknown.
    tokens: Mutex<usize>,
}

impl Watch {
    /// Says that what is launched from now on belongs to `module`, in the forward or the backward pass.
    pub fn enter(&self, module: Arc<str>, backward: bool) {
        *self.place.lock().unwrap_or_else(|e| e.into_inner()) = Place { module, backward, columns: Default::default() };
    }

    /// Says that the outputs of what was entered, of `width` columns, are those of several modules, each from its first
    /// column on.
    pub fn set_columns(&self, width: usize, modules: Vec<(usize, String)>) {
        self.place.lock().unwrap_or_else(|e| e.into_inner()).columns = (width, modules);
    }

    /// The module named last.
    pub fn module(&self) -> Arc<str> {
        self.place.lock().unwrap_or_else(|e| e.into_inner()).module.clone()
    }

    /// Says how many tokens go through the model, so that elements of activations can be told by token and column.
    pub fn set_tokens(&self, tokens: usize) {
        *self.tokens.lock().unwrap_or_else(|e| e.into_inner()) = tokens;
    }

    /// Looks at what `launch` has written; buffer `ignored` is one that nothing reads.
    ///
    /// # Errors
    /// [`Error::NonFinite`] at the first number that is none or infinite; those of reading back.
    pub(super) fn look(&self, backend: &dyn Backend, launch: &Launch<'_>, ignored: Option<u64>) -> Result<()> {
        let kernel = launch.spec.kernel;
        let written = kernel.bindings.iter().zip(launch.bindings).filter(|(binding, _)| binding.access != Access::Read);
        let written = written.map(|(_, slice)| slice).filter(|slice| Some(slice.raw.id) != ignored);
        self.look_at(backend, kernel.name, written)
    }

    /// Looks at what the kernel called `name` has written.
    ///
    /// # Errors
    /// As [`Watch::look`].
    pub(super) fn look_at<'a>(
        &self,
        backend: &dyn Backend,
        name: &str,
        written: impl IntoIterator<Item = &'a Slice>,
    ) -> Result<()> {
        for slice in written {
            let bytes = backend.download(slice)?.wait()?;
            // indices pass as f32: they are small
            let words: Vec<f32> = match slice.half {
                true => bytemuck::pod_collect_to_vec::<u8, f16>(&bytes).into_iter().map(f32::from).collect(),
                false => bytemuck::pod_collect_to_vec(&bytes),
            };
            let Some(first) = words.iter().position(|v| !v.is_finite()) else { continue };
            let bad = words.iter().filter(|v| !v.is_finite()).count();
            let place = self.place.lock().unwrap_or_else(|e| e.into_inner()).clone();
            let tokens = *self.tokens.lock().unwrap_or_else(|e| e.into_inner());
            let pass = if place.backward { "backward" } else { "forward" };
            let mut module = &*place.module;
            let at = match words.len().checked_div(tokens) {
                Some(width) if width * tokens == words.len() && !place.backward => {
                    let (token, mut column) = (first / width, first % width);
                    let of = place.columns.1.iter().rev().find(|(start, _)| *start <= column);
                    if let Some((start, own)) = of.filter(|_| width == place.columns.0) {
                        (module, column) = (own, column - start);
                    }
                    format!("token {token}, column {column}")
                }
                _ => format!("element {first}"),
            };
            return Err(Error::NonFinite {
                what: format!("{module}: {name} ({pass})"),
                reason: format!("gave {} for {bad} of {} values, first at {at}", words[first], words.len()),
            });
        }
        Ok(())
    }
}
