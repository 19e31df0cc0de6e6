//! What rows share: references with error bounds, guard words, random data.

use crate::csr::CsrPattern;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::quant::{dequantise, quantise};
use crate::rng::Rng;
use crate::tensor::{Element, Tensor};
use half::f16;

/// Units in the last place of f32, relative to 1.
pub const EPS: f64 = f32::EPSILON as f64;

/// A reference and how far rounding in f32 may carry a result from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Near {
    pub value: f64,
    pub bound: f64,
}

impl Near {
    /// A value that must be met exactly.
    pub fn exactly(value: impl Into<f64>) -> Near {
        Near { value: value.into(), bound: 0.0 }
    }

    /// The same of a result that is stored as `element`. WGSL takes either of the f16 beside a number: a unit in the last
    /// place is 2⁻¹⁰ of it at most, or the least f16.
    pub fn stored_as(self, element: Element) -> Near {
        match element {
            Element::F32 => self,
            Element::F16 => {
                let rounding = (self.value.abs() + self.bound) / 1024.0 + 2f64.powi(-24);
                Near { bound: self.bound + rounding, ..self }
            }
        }
    }
}

/// A sum in f64 and the sum of its terms' magnitudes, which bounds what rounding in f32 can do to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact {
    pub value: f64,
    pub magnitude: f64,
    pub terms: usize,
}

impl Exact {
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// A value that is rounded a handful of times but not summed.
    pub fn of(value: f64) -> Self {
        Exact { value, magnitude: value.abs(), terms: 1 }
    }

    /// A sum of these terms.
    pub fn sum(terms: impl IntoIterator<Item = f64>) -> Self {
        let mut e = Exact::default();
        terms.into_iter().for_each(|t| e.add(t));
        e
    }

    /// The same where results are rounded `factor` times as often on the way.
    pub fn looser(mut self, factor: f64) -> Self {
        self.magnitude *= factor;
        self
    }

    /// Errors of a sum of n terms grow as √n where they are independent; each product and each addition rounds once.
    /// Four standard deviations, and two roundings of the result.
    pub fn bound(&self) -> f64 {
        EPS * (4.0 * (self.terms as f64).sqrt() + 2.0) * self.magnitude + f64::from(f32::MIN_POSITIVE)
    }
}

impl From<Exact> for Near {
    fn from(e: Exact) -> Near {
        Near { value: e.value, bound: e.bound() }
    }
}

/// Random values whose products neither vanish nor explode.
pub fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// Random positions, some rows and columns favoured as RoSA's masks favour them.
///
/// # Errors
/// Those of [`CsrPattern::from_flat`].
pub fn random_pattern(rng: &mut Rng, rows: usize, cols: usize, density: f64) -> Result<CsrPattern> {
    let flat: Vec<u64> = (0..(rows * cols) as u64)
        .filter(|i| {
            let favoured = (i / cols as u64).is_multiple_of(7) || (i % cols as u64).is_multiple_of(11);
            rng.uniform() < if favoured { 4.0 * density } else { density }
        })
        .collect();
    CsrPattern::from_flat(rows, cols, &flat)
}

/// The bytes of a matrix in a file's format, and the values that they stand for.
///
/// # Errors
/// Those of [`quantise`].
pub fn stored(dtype: DType, values: &[f32]) -> Result<(Vec<u8>, Vec<f32>)> {
    let bytes = quantise(dtype, values)?;
    let mut back = vec![0.0; values.len()];
    dequantise(dtype, &bytes, &mut back)?;
    Ok((bytes, back))
}

/// An output tensor with poison in it and guard words around it.
pub struct Guarded {
    whole: Tensor,
    pub tensor: Tensor,
}

/// Quiet NaNs with payloads that no computation makes.
const POISON: u32 = 0x7fc0_dead;
const POISON16: u16 = 0x7ead;
/// Elements in front and behind; 256 bytes is the strictest alignment of a binding.
const GUARD: usize = 64;
const GUARD16: usize = 128;

impl Guarded {
    /// Poison.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn new(device: &Device, shape: &[usize]) -> Result<Self> {
        Guarded::of(Element::F32, device, shape)
    }

    /// Poison for an output of such elements.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn of(element: Element, device: &Device, shape: &[usize]) -> Result<Self> {
        let len: usize = shape.iter().product();
        if element == Element::F16 {
            let whole = Tensor::from_slice(device, &[len + 2 * GUARD16], &vec![POISON16; len + 2 * GUARD16], "test")?;
            let tensor = whole.view(GUARD16, shape)?;
            return Ok(Guarded { whole, tensor });
        }
        let whole = Tensor::from_slice(device, &[len + 2 * GUARD], &vec![POISON; len + 2 * GUARD], "test")?;
        let tensor = whole.view(GUARD, shape)?;
        Ok(Guarded { whole, tensor })
    }

    /// With values instead of poison, for kernels that accumulate.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn holding(device: &Device, shape: &[usize], values: &[f32]) -> Result<Self> {
        let g = Guarded::new(device, shape)?;
        g.tensor.write(values)?;
        Ok(g)
    }

    /// The words of the output, f16 as the f32 that they are, or a sentence on a word in the guards that was touched or one of
    /// the output that was not written.
    ///
    /// # Errors
    /// Those of reading back.
    pub fn words(&self) -> Result<Result<Vec<u32>, String>> {
        match self.whole.element() {
            Element::F32 => Ok(inside(&self.whole.read()?, POISON, GUARD)),
            Element::F16 => {
                let halves = inside(&self.whole.read::<u16>()?, POISON16, GUARD16);
                Ok(halves.map(|h| h.into_iter().map(|h| f16::from_bits(h).to_f32().to_bits()).collect()))
            }
        }
    }
}

/// What lies between the guards, if they still hold poison, and it none.
fn inside<T: Copy + PartialEq>(words: &[T], poison: T, guard: usize) -> Result<Vec<T>, String> {
    let end = words.len() - guard;
    if let Some(i) = (0..words.len()).find(|&i| (i < guard || i >= end) && words[i] != poison) {
        return Err(format!("wrote outside of its output, at {}", i as i64 - guard as i64));
    }
    let inside = &words[guard..end];
    match inside.iter().position(|w| *w == poison) {
        Some(i) => Err(format!("element {i} of {} was not written", inside.len())),
        None => Ok(inside.to_vec()),
    }
}
