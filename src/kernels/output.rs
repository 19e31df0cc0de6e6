//! Where results go, and checks that kernels share.

use crate::device::{Cost, Device};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};

/// Where a kernel's result goes.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// A new tensor; the text is its row in the ledger.
    New(&'static str),
    /// A new tensor of f16, from kernels that can write one.
    Half(&'static str),
    /// Overwrites this one.
    Into(&'a Tensor),
    /// Adds to this one.
    AddTo(&'a Tensor),
}

impl Default for To<'_> {
    fn default() -> Self {
        To::New("activations")
    }
}

impl To<'_> {
    /// A new activation of such elements.
    pub fn activation(element: Element) -> Self {
        match element {
            Element::F32 => To::New("activations"),
            Element::F16 => To::Half("activations"),
        }
    }

    /// The tensor to write, of exactly `shape`.
    pub(super) fn tensor(&self, device: &Device, op: &'static str, shape: &[usize]) -> Result<Tensor> {
        match self {
            To::New(what) => Tensor::empty(device, shape, what),
            To::Half(what) => Tensor::empty_of(Element::F16, device, shape, what),
            To::Into(t) | To::AddTo(t) => t.expect_shape(op, "the output", shape).cloned(),
        }
    }

    /// The same for kernels that cannot add.
    pub(super) fn overwritten(&self, device: &Device, op: &'static str, shape: &[usize]) -> Result<Tensor> {
        if let To::AddTo(_) = self {
            return Err(Error::shape(op, "it cannot add to its output, only overwrite it"));
        }
        self.tensor(device, op, shape)
    }

    pub(super) fn accumulates(&self) -> bool {
        matches!(self, To::AddTo(_))
    }
}

/// Refuses outputs that share a buffer with an input, or memory with each other: a launch may bind a buffer either to
/// read or to write, and an element has one writer.
///
/// # Errors
/// [`Error::Shape`] that names `op`.
pub(super) fn distinct(op: &'static str, inputs: &[&Tensor], outputs: &[&Tensor]) -> Result<()> {
    for (i, out) in outputs.iter().map(|t| t.slice()).enumerate() {
        let overlaps = |t: &&Tensor| {
            let s = t.slice();
            s.raw.id == out.raw.id && s.offset < out.offset + out.len && out.offset < s.offset + s.len
        };
        if inputs.iter().any(|t| t.slice().raw.id == out.raw.id) || outputs[..i].iter().any(overlaps) {
            return Err(Error::shape(op, "an output lies in the same buffer as another operand"));
        }
    }
    Ok(())
}

/// Whether `t`, with `contiguous` elements one behind the other, is f16: kernels write and read those four at a time.
///
/// # Errors
/// [`Error::Shape`] that names `op`, where four are not always there.
pub(super) fn halves(op: &'static str, t: &Tensor, contiguous: usize) -> Result<bool> {
    if t.element() == Element::F16 && !vec4(contiguous) {
        return Err(Error::shape(op, format!("{:?} of f16 is not a multiple of 4 long", t.shape())));
    }
    Ok(t.element() == Element::F16)
}

/// Whether rows of `contiguous` elements can be read four at a time.
pub(super) fn vec4(contiguous: usize) -> bool {
    contiguous.is_multiple_of(4)
}

/// Workgroups of 256 threads for `elements`, four a thread where `vec`.
pub(super) fn groups(elements: usize, vec: bool) -> u64 {
    elements.div_ceil(if vec { 1024 } else { 256 }) as u64
}

/// The cost of a kernel that touches `touched` words and computes `per_word` operations on each.
pub(super) fn streaming(touched: usize, per_word: f64) -> Cost {
    Cost { flops: touched as f64 * per_word, bytes: 4.0 * touched as f64 }
}
