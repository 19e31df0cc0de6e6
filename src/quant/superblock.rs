//! What ggml's blocks of 256 share: elements in groups with a scale each, itself a few bits that count in a scale of the block.

use super::bits::{half_at, inverse, largest};
use super::search::{Trials, scale_and_minimum, symmetric_scale};
use half::f16;

/// A block whose elements are d · scale · code − dmin · minimum.
pub(super) struct WithMinima {
    pub d: f32,
    pub dmin: f32,
    /// Of each group.
    pub scales: Vec<u8>,
    pub minima: Vec<u8>,
    pub codes: Vec<u8>,
}

impl WithMinima {
    /// In groups of so many elements, with codes up to `most`, scales and minima up to `steps`. The errors of large values count
    /// for more.
    pub fn pack(values: &[f32], group: usize, most: u8, steps: u8, trials: Trials) -> WithMinima {
        let size = |group: &[f32]| (group.iter().map(|v| v * v).sum::<f32>() / group.len() as f32).sqrt();
        let fit = |group: &[f32]| {
            let size = size(group);
            let weights: Vec<f32> = group.iter().map(|v| size + v.abs()).collect();
            scale_and_minimum(group, &weights, most, trials)
        };
        let (wide, low): (Vec<f32>, Vec<f32>) = values.chunks(group).map(fit).unzip();
        let counted = |all: &[f32]| {
            let d = rounded(largest(all) / f32::from(steps));
            let id = inverse(d);
            (d, all.iter().map(|v| (v * id).round().clamp(0.0, f32::from(steps)) as u8).collect::<Vec<u8>>())
        };
        let ((d, scales), (dmin, minima)) = (counted(&wide), counted(&low));
        let code = |(i, v): (usize, &f32)| {
            let at = i / group;
            let id = inverse(d * f32::from(scales[at]));
            ((v + dmin * f32::from(minima[at])) * id).round().clamp(0.0, f32::from(most)) as u8
        };
        let codes = values.iter().enumerate().map(code).collect();
        WithMinima { d, dmin, scales, minima, codes }
    }

    /// The values.
    pub fn unpack(&self, out: &mut [f32]) {
        let group = out.len() / self.scales.len();
        for ((out, codes), (scale, minimum)) in
            out.chunks_mut(group).zip(self.codes.chunks(group)).zip(self.scales.iter().zip(&self.minima))
        {
            let (scale, minimum) = (self.d * f32::from(*scale), self.dmin * f32::from(*minimum));
            out.iter_mut().zip(codes).for_each(|(o, q)| *o = scale * f32::from(*q) - minimum);
        }
    }

    /// d and dmin, as files have them.
    pub fn put_floats(&self, out: &mut Vec<u8>) {
        out.extend([self.d, self.dmin].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
    }

    /// d and dmin of a file.
    pub fn floats(block: &[u8], at: usize) -> (f32, f32) {
        (half_at(block, at), half_at(block, at + 2))
    }
}

/// A block whose elements are d · scale · (code − zero).
pub(super) struct Symmetric {
    pub d: f32,
    /// Of each group.
    pub scales: Vec<i8>,
    pub codes: Vec<u8>,
    /// The code that stands for 0.
    pub zero: u8,
}

impl Symmetric {
    /// In groups of so many elements, with scales from −steps to steps.
    pub fn pack(values: &[f32], group: usize, zero: u8, steps: u8) -> Symmetric {
        let wide: Vec<f32> = values.chunks(group).map(|g| symmetric_scale(g, zero)).collect();
        let d = rounded(largest(&wide) / f32::from(steps));
        let (id, most) = (inverse(d), f32::from(steps));
        let scales: Vec<i8> = wide.iter().map(|v| (v * id).round().clamp(-most, most) as i8).collect();
        let code = |(i, v): (usize, &f32)| {
            let id = inverse(d * f32::from(scales[i / group]));
            let zero = f32::from(zero);
            ((v * id).round() + zero).clamp(0.0, 2.0 * zero - 1.0) as u8
        };
        let codes = values.iter().enumerate().map(code).collect();
        Symmetric { d, scales, codes, zero }
    }

    /// The values.
    pub fn unpack(&self, out: &mut [f32]) {
        let group = out.len() / self.scales.len();
        for ((out, codes), scale) in out.chunks_mut(group).zip(self.codes.chunks(group)).zip(&self.scales) {
            let scale = self.d * f32::from(*scale);
            let value = |q: &u8| scale * f32::from(*q as i8 - self.zero as i8);
            out.iter_mut().zip(codes).for_each(|(o, q)| *o = value(q));
        }
    }

    /// The scales' bytes.
    pub fn put_scales(&self, out: &mut Vec<u8>) {
        out.extend(self.scales.iter().map(|s| *s as u8));
    }
}

/// The value that an f16 keeps of `value`.
fn rounded(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

/// Codes whose bits lie in layers: byte `j` of each part of `stride` bytes holds elements j, j + stride … of the part, `bits` bits
/// each, the first lowest.
pub(super) fn layered(bytes: &[u8], stride: usize, bits: usize) -> impl Iterator<Item = u8> + '_ {
    let mask = ((1u16 << bits) - 1) as u8;
    bytes
        .chunks(stride)
        .flat_map(move |part| (0..8 / bits).flat_map(move |l| part.iter().map(move |b| b >> (bits * l) & mask)))
}

/// The way back.
pub(super) fn put_layered(out: &mut Vec<u8>, codes: impl Iterator<Item = u8>, stride: usize, bits: usize) {
    let codes: Vec<u8> = codes.collect();
    for part in codes.chunks(stride * 8 / bits) {
        let byte = |j: usize| (0..8 / bits).fold(0, |b, l| b | part[l * stride + j] << (bits * l));
        out.extend((0..stride).map(byte));
    }
}
