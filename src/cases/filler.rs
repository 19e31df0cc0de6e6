//! Random operands, made where they are used: a block of random values goes to the device, and copies of it from random
//! places fill tensors and weights of any size, so that gigabytes of them cost the host a few megabytes and no time.

use super::masks::{MaskKind, random_mask};
use crate::device::{Buffer, Device, Slice};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::sparse::SparseIndex;
use crate::rng::Rng;
use crate::tensor::{Element, Tensor, Weight, WeightFormat};
use half::{bf16, f16};
use std::collections::HashMap;

/// Bytes of a block.
const BLOCK: usize = 16 << 20;
/// Copies start at multiples of so many bytes.
const STEP: u64 = 256;
/// The standard deviation of values, as weights are initialised.
const DEVIATION: f32 = 0.02;

/// Makes operands with values of a standard deviation of 0.02 around 0.
pub struct Filler {
    device: Device,
    rng: Rng,
    blocks: HashMap<(WeightFormat, bool), Buffer>,
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
        self.copies(&t.slice(), (format, false))?;
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
        if !format.is_quantised() {
            return self.copies(&all, (format, false));
        }
        let codes = 4 * u64::from(weight.scales_at());
        self.copies(&Slice { len: codes, ..all.clone() }, (format, false))?;
        self.copies(&Slice { offset: all.offset + codes, len: all.len - codes, ..all }, (format, true))
    }

    fn copies(&mut self, to: &Slice, kind: (WeightFormat, bool)) -> Result<()> {
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

    /// Random values of a format, or random scales.
    fn block(&mut self, kind: (WeightFormat, bool)) -> Result<Buffer> {
        if let Some(block) = self.blocks.get(&kind) {
            return Ok(block.clone());
        }
        let block = self.device.alloc(BLOCK as u64, "scratch")?;
        self.device.upload(&block.range(0, BLOCK as u64), &bytes(kind, &mut self.rng))?;
        self.blocks.insert(kind, block.clone());
        Ok(block)
    }
}
/// [`BLOCK`] bytes of values of a format, or of scales.
fn bytes((format, scales): (WeightFormat, bool), rng: &mut Rng) -> Vec<u8> {
    // uniform: √12 deviations wide
    let mut value = || (rng.uniform() as f32 - 0.5) * DEVIATION * 12f32.sqrt();
    match (format, scales) {
        (WeightFormat::F32, _) => (0..BLOCK / 4).flat_map(|_| value().to_le_bytes()).collect(),
        (WeightFormat::F16, _) => (0..BLOCK / 2).flat_map(|_| f16::from_f32(value()).to_le_bytes()).collect(),
        (WeightFormat::BF16, _) => (0..BLOCK / 2).flat_map(|_| bf16::from_f32(value()).to_le_bytes()).collect(),
        (WeightFormat::Q8 | WeightFormat::Q4, false) => {
            (0..BLOCK / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect()
        }
        // signed bytes and nibbles, uniform: their deviations are 256/√12 and 16/√12
        (WeightFormat::Q8, true) => {
            let scale = |r: f32| f16::from_f32(DEVIATION * 12f32.sqrt() / 256.0 * (0.5 + r)).to_le_bytes();
            (0..BLOCK / 2).flat_map(|_| scale(rng.uniform() as f32)).collect()
        }
        (WeightFormat::Q4, true) => {
            let pair = |r: f32| {
                let scale = DEVIATION * 12f32.sqrt() / 16.0 * (0.5 + r);
                [f16::from_f32(scale).to_le_bytes(), f16::from_f32(-7.5 * scale).to_le_bytes()].concat()
            };
            (0..BLOCK / 4).flat_map(|_| pair(rng.uniform() as f32)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_each_format_hold_values_of_the_same_deviation() {
        let spread = |values: Vec<f32>| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            (mean.abs(), (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt())
        };
        let halves =
            |b: &[u8]| b.chunks_exact(2).map(|c| f16::from_le_bytes([c[0], c[1]]).to_f32()).collect::<Vec<_>>();
        for format in WeightFormat::ALL {
            let rng = &mut Rng::new(1, 1);
            let codes = bytes((format, false), rng);
            assert_eq!(codes.len(), BLOCK);
            let codes = &codes[..1 << 16];
            let values = match format {
                WeightFormat::F32 => bytemuck::pod_collect_to_vec(codes),
                WeightFormat::F16 => halves(codes),
                WeightFormat::BF16 => {
                    codes.chunks_exact(2).map(|c| bf16::from_le_bytes([c[0], c[1]]).to_f32()).collect()
                }
                WeightFormat::Q8 => {
                    let scales = halves(&bytes((format, true), rng));
                    codes.iter().enumerate().map(|(i, c)| f32::from(*c as i8) * scales[i / 32]).collect()
                }
                WeightFormat::Q4 => {
                    let scales = halves(&bytes((format, true), rng));
                    let value = |i: usize, c: u8| f32::from(c) * scales[i / 32 * 2] + scales[i / 32 * 2 + 1];
                    let nibbles = codes.iter().flat_map(|c| [c & 15, c >> 4]);
                    nibbles.enumerate().map(|(i, c)| value(i, c)).collect()
                }
            };
            let (mean, deviation) = spread(values);
            assert!(mean < 0.001 && (0.018..0.023).contains(&deviation), "{format:?}: {mean} {deviation}");
        }
    }
}
