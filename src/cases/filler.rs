//! Random operands, made where they are used: a block of random values goes to the device, and copies of it from random
//! places fill tensors and weights of any size, so that gigabytes of them cost the host a few megabytes and no time.

use super::masks::{MaskKind, random_mask};
use crate::device::{Buffer, Device, Slice};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::sparse::SparseIndex;
use crate::quant;
use crate::rng::Rng;
use crate::tensor::{Element, Tensor, Weight, WeightFormat};
use std::collections::HashMap;

/// Bytes of a block.
const BLOCK: usize = 16 << 20;
/// Copies start at multiples of so many bytes.
const STEP: u64 = 256;
/// The standard deviation of values, as weights are initialised.
const DEVIATION: f32 = 0.02;
/// Values that are drawn for a block, and then repeated.
const SAMPLE: usize = 1 << 18;

/// Makes operands with values of a standard deviation of 0.02 around 0.
pub struct Filler {
    device: Device,
    rng: Rng,
    blocks: HashMap<(WeightFormat, usize), Buffer>,
}

impl Filler {
    pub fn new(device: &Device) -> Filler {
        Filler { device: device.clone(), rng: Rng::named(1, "random operands"), blocks: HashMap::new() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor of f32.
    pub fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.tensor_of(Element::F32, shape)
    }

    /// A tensor of f32 or f16.
    pub fn tensor_of(&mut self, element: Element, shape: &[usize]) -> Result<Tensor> {
        let t = Tensor::empty_of(element, &self.device, shape, "bench")?;
        let format = if element == Element::F16 { WeightFormat::F16 } else { WeightFormat::F32 };
        self.copies(&t.slice(), (format, 0))?;
        Ok(t)
    }

    /// A tensor of u32 that `value` gives for each index.
    pub fn indices(&self, n: usize, value: impl Fn(usize) -> usize) -> Result<Tensor> {
        let data: Vec<u32> = (0..n).map(|i| value(i) as u32).collect();
        Tensor::from_slice(&self.device, &[n], &data, "bench")
    }

    /// Who sees whom in causal segments of so many tokens, the last perhaps shorter, `[tokens]` each: the first key and one past
    /// the last of each query, and the first query and one past the last of each key.
    pub fn segments(&self, tokens: usize, segment: usize) -> Result<[Tensor; 4]> {
        let first = |t: usize| t / segment * segment;
        Ok([
            self.indices(tokens, first)?,
            self.indices(tokens, |t| t + 1)?,
            self.indices(tokens, |t| t)?,
            self.indices(tokens, |t| (first(t) + segment).min(tokens))?,
        ])
    }

    /// A matrix `[rows, cols]` in the device's layout of a file's format.
    pub fn matrix(&mut self, dtype: DType, rows: usize, cols: usize) -> Result<Weight> {
        let weight = Weight::empty(&self.device, WeightFormat::of(dtype), rows, cols, "bench")?;
        self.fill(&weight)?;
        Ok(weight)
    }

    /// A random mask of a matrix `[rows, cols]`, and values for it.
    pub fn mask(&mut self, kind: MaskKind, rows: usize, cols: usize, density: f64) -> Result<(SparseIndex, Tensor)> {
        let nnz = ((rows * cols) as f64 * density) as usize;
        let pattern = random_mask(kind, rows, cols, nnz.max(1), &mut self.rng)?;
        Ok((SparseIndex::new(&self.device, &pattern)?, self.tensor(&[pattern.nnz()])?))
    }

    /// Overwrites `weight`.
    pub fn fill(&mut self, weight: &Weight) -> Result<()> {
        let (all, format) = (weight.slice(), weight.format());
        let elements = (weight.rows() * weight.cols()) as u64;
        (0..format.layout().planes.len()).try_for_each(|i| {
            let (at, end) = (format.plane_at(i, elements), format.plane_at(i + 1, elements));
            self.copies(&Slice { offset: all.offset + at, len: end - at, ..all.clone() }, (format, i))
        })
    }

    fn copies(&mut self, to: &Slice, kind: (WeightFormat, usize)) -> Result<()> {
        let block = self.block(kind)?;
        let mut done = 0;
        while done < to.len {
            let start = self.rng.below(BLOCK as u64 / 2 / STEP) * STEP;
            let len = (BLOCK as u64 - start).min(to.len - done);
            self.device.copy(&block.range(start, len), &Slice { offset: to.offset + done, len, ..to.clone() })?;
            done += len;
        }
        Ok(())
    }

    /// A plane of a format with random values.
    fn block(&mut self, kind: (WeightFormat, usize)) -> Result<Buffer> {
        if let Some(block) = self.blocks.get(&kind) {
            return Ok(block.clone());
        }
        let block = self.device.alloc(BLOCK as u64, "scratch")?;
        self.device.upload(&block.range(0, BLOCK as u64), &bytes(kind, &mut self.rng))?;
        self.blocks.insert(kind, block.clone());
        Ok(block)
    }
}

/// [`BLOCK`] bytes of plane `i` of random values in a format.
fn bytes((format, i): (WeightFormat, usize), rng: &mut Rng) -> Vec<u8> {
    // any file format that is stored so; there is one for each
    let dtype = DType::ALL.iter().copied().find(|d| WeightFormat::of(*d) == format).unwrap_or(DType::F32);
    let values: Vec<f32> = (0..SAMPLE).map(|_| DEVIATION * rng.normal() as f32).collect();
    let packed = quant::quantise(dtype, &values).unwrap_or_default();
    let plane = quant::split(dtype, &packed).map_or(packed, |mut planes| planes.swap_remove(i));
    plane.into_iter().cycle().take(BLOCK).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_each_format_hold_values_of_the_same_deviation() {
        for format in WeightFormat::ALL {
            let dtype = DType::ALL.iter().copied().find(|d| WeightFormat::of(*d) == format).unwrap();
            let values: Vec<f32> = (0..SAMPLE).map(|_| DEVIATION * Rng::new(1, 1).normal() as f32).collect();
            assert_eq!(values.len() % dtype.block_elements(), 0, "{dtype}");
            for i in 0..format.layout().planes.len() {
                let bytes = bytes((format, i), &mut Rng::new(1, 1));
                assert_eq!(bytes.len(), BLOCK);
                assert!(bytes[..64].iter().any(|b| *b != bytes[0]), "{format:?}: plane {i} is one byte over and over");
            }
        }
    }
}
