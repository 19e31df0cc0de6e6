//! NF4, the 4-bit format of QLoRA, in bitsandbytes' layout.
//!
//! Blocks of 64 along the flattened row-major matrix; each value is divided by its block's absolute maximum and becomes
//! the number of the nearest of 16 levels. Two codes a byte, the first in the high nibble. With double quantisation the
//! maxima, less their mean, are themselves stored as 8-bit codes in blocks of 256.

use super::bits::put_codes;
use super::codec::Codec;
use super::layout::WeightFormat;
use crate::dtype::DType;
use crate::error::{Error, Result};
pub use crate::io::nf4::{LEVELS, dynamic_map};

/// Values that share a maximum.
pub const BLOCK: usize = 64;
/// Maxima that share a second maximum.
pub const BLOCK2: usize = 256;

/// A code for 0, which fills the last byte where the count is odd.
const ZERO: u8 = 7;

/// A quantised tensor of `len` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    pub len: usize,
    /// `[ceil(len / 2)]`, first value in the high nibble
    pub codes: Vec<u8>,
    /// `[ceil(len / 64)]`
    pub absmax: Absmax,
}

/// The maxima of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    Plain(Vec<f32>),
    Double(DoubleQuantised),
}

/// Maxima in 8 bits: `dynamic_map[code] * absmax[i / 256] + offset`.
#[derive(Clone, Debug, PartialEq)]
pub struct DoubleQuantised {
    pub codes: Vec<u8>,
    /// `[ceil(codes / 256)]`
    pub absmax: Vec<f32>,
    /// The mean of the maxima.
    pub offset: f32,
}

/// Quantises `values`; the last block may be shorter.
///
/// # Errors
/// [`Error::NonFinite`] if a value is infinite or no number.
pub fn quantise(values: &[f32], double: bool) -> Result<Nf4> {
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite { what: "nf4".into(), reason: format!("value {i} is {}", values[i]) });
    }
    let mut absmax = Vec::with_capacity(values.len().div_ceil(BLOCK));
    let mut codes = Vec::with_capacity(values.len().div_ceil(2));
    let mids = midpoints(&LEVELS);
    for block in values.chunks(BLOCK) {
        let max = block.iter().fold(0f32, |a, v| a.max(v.abs()));
        absmax.push(max);
        let code = |v: f32| nearest(v / divisor(max), &mids);
        codes.extend(block.chunks(2).map(|pair| code(pair[0]) << 4 | pair.get(1).map_or(ZERO, |&v| code(v))));
    }
    let absmax = if double { Absmax::Double(double_quantise(&absmax)) } else { Absmax::Plain(absmax) };
    Ok(Nf4 { len: values.len(), codes, absmax })
}

impl Nf4 {
    /// The values again.
    pub fn dequantise(&self) -> Vec<f32> {
        let restored;
        let absmax = match &self.absmax {
            Absmax::Plain(absmax) => absmax,
            Absmax::Double(d) => {
                restored = d.dequantise();
                &restored
            }
        };
        let code = |i: usize| if i.is_multiple_of(2) { self.codes[i / 2] >> 4 } else { self.codes[i / 2] & 15 };
        (0..self.len).map(|i| LEVELS[usize::from(code(i))] * absmax[i / BLOCK]).collect()
    }
}

fn double_quantise(values: &[f32]) -> DoubleQuantised {
    let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
    let offset = (sum / values.len().max(1) as f64) as f32;
    let mids = midpoints(dynamic_map());
    let mut codes = Vec::with_capacity(values.len());
    let mut absmax = Vec::with_capacity(values.len().div_ceil(BLOCK2));
    for block in values.chunks(BLOCK2) {
        let max = block.iter().fold(0f32, |a, v| a.max((v - offset).abs()));
        absmax.push(max);
        codes.extend(block.iter().map(|v| nearest((v - offset) / divisor(max), &mids)));
    }
    DoubleQuantised { codes, absmax, offset }
}

impl DoubleQuantised {
    /// The maxima again.
    pub fn dequantise(&self) -> Vec<f32> {
        let map = dynamic_map();
        self.codes
            .iter()
            .enumerate()
            .map(|(i, &c)| map[usize::from(c)] * self.absmax[i / BLOCK2] + self.offset)
            .collect()
    }
}

/// What a block is divided by: a block of zeros by one.
fn divisor(max: f32) -> f32 {
    if max > 0.0 { max } else { 1.0 }
}

fn midpoints(levels: &[f32]) -> Vec<f64> {
    levels.windows(2).map(|w| (f64::from(w[0]) + f64::from(w[1])) / 2.0).collect()
}

/// The number of the nearest level; exactly between two, the lower one.
fn nearest(v: f32, mids: &[f64]) -> u8 {
    mids.partition_point(|&m| m < f64::from(v)) as u8
}

/// In memory: a block's largest absolute value, and its codes, the first of two in the high nibble.
pub(super) const NF4: Codec = Codec {
    dtype: DType::NF4,
    format: WeightFormat::NF4,
    unpack: |block, out| unpack(&block[4..], single_at(block, 0), out),
    pack: |values, out| {
        let q = finite(values);
        let Absmax::Plain(absmax) = &q.absmax else { return };
        for (absmax, codes) in absmax.iter().zip(q.codes.chunks(BLOCK / 2)) {
            out.extend(absmax.to_le_bytes());
            out.extend(codes);
        }
    },
    packs_all: true,
    split: Some(|block, planes| {
        put_codes::<4>(&mut planes[0], &nibbles(&block[4..]));
        planes[1].extend_from_slice(&block[..4]);
    }),
};

/// In memory: the code of a block's largest absolute value, what it is multiplied by and what is added to it, and the block's codes.
pub(super) const NF4_DOUBLE: Codec = Codec {
    dtype: DType::NF4_DOUBLE,
    format: WeightFormat::NF4_DOUBLE,
    unpack: |block, out| {
        let absmax = dynamic_map()[usize::from(block[0])] * single_at(block, 1) + single_at(block, 5);
        unpack(&block[9..], absmax, out);
    },
    pack: |values, out| {
        let q = finite(values);
        let Absmax::Plain(absmax) = &q.absmax else { return };
        let d = double_quantise(absmax);
        for (i, codes) in q.codes.chunks(BLOCK / 2).enumerate() {
            out.push(d.codes[i]);
            out.extend(d.absmax[i / BLOCK2].to_le_bytes());
            out.extend(d.offset.to_le_bytes());
            out.extend(codes);
        }
    },
    packs_all: true,
    split: Some(|block, planes| {
        put_codes::<4>(&mut planes[0], &nibbles(&block[9..]));
        // 64 blocks share the pair, which are within one group of 256
        if planes[2].len().is_multiple_of(64) {
            planes[1].extend_from_slice(&block[1..9]);
        }
        planes[2].push(block[0]);
    }),
};

fn single_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The codes in order.
fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|i| if i % 2 == 0 { bytes[i / 2] >> 4 } else { bytes[i / 2] & 15 })
}

fn unpack(codes: &[u8], absmax: f32, out: &mut [f32]) {
    out.iter_mut().zip(nibbles(codes)).for_each(|(o, q)| *o = LEVELS[usize::from(q)] * absmax);
}

/// Values that are not finite become 0: a codec has no error for them, their checkpoint does.
fn finite(values: &[f32]) -> Nf4 {
    let whole: Vec<f32> = values.iter().map(|v| if v.is_finite() { *v } else { 0.0 }).collect();
    quantise(&whole, false).unwrap_or(Nf4 { len: 0, codes: Vec::new(), absmax: Absmax::Plain(Vec::new()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::safetensors::SafetensorsFile;

    fn golden() -> SafetensorsFile {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nf4.safetensors");
        SafetensorsFile::open(path.as_ref()).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn levels_are_the_references() {
        let golden = golden();
        let f32s = |name: &str| golden.get(name).unwrap().to_f32().unwrap();
        assert_eq!(bits(&LEVELS), bits(&f32s("levels")));
        assert_eq!(bits(dynamic_map()), bits(&f32s("dynamic_map")));
    }

    #[test]
    fn every_bit_is_the_references() {
        let golden = golden();
        let f32s = |name: &str| golden.get(name).unwrap().to_f32().unwrap();
        let w = f32s("W");
        let plain = quantise(&w, false).unwrap();
        assert_eq!(plain.codes, golden.get("packed").unwrap().data);
        assert_eq!(plain.absmax, Absmax::Plain(f32s("absmax")));
        assert_eq!(bits(&plain.dequantise()), bits(&f32s("dequant")));

        let double = quantise(&w, true).unwrap();
        assert_eq!(double.codes, plain.codes);
        let Absmax::Double(d) = &double.absmax else { panic!("double quantisation was asked for") };
        assert_eq!(d.codes, golden.get("dq.absmax_codes").unwrap().data);
        assert_eq!(bits(&d.absmax), bits(&f32s("dq.absmax2")));
        assert_eq!(bits(&[d.offset]), bits(&f32s("dq.offset")));
        assert_eq!(bits(&d.dequantise()), bits(&f32s("dq.absmax_restored")));
        assert_eq!(bits(&double.dequantise()), bits(&f32s("dq.dequant")));

        // and so are the blocks that weights are made of
        for (dtype, want) in [(DType::NF4, "dequant"), (DType::NF4_DOUBLE, "dq.dequant")] {
            let blocks = super::super::quantise(dtype, &w).unwrap();
            let mut values = vec![0.0; w.len()];
            super::super::dequantise(dtype, &blocks, &mut values).unwrap();
            assert_eq!(bits(&values), bits(&f32s(want)), "{dtype}");
        }
    }

    #[test]
    fn edge_cases_are_the_references() {
        let golden = golden();
        let f32s = |name: &str| golden.get(name).unwrap().to_f32().unwrap();
        let edge = quantise(&f32s("edge.W"), false).unwrap();
        let unpacked: Vec<u8> = edge.codes.iter().flat_map(|c| [c >> 4, c & 15]).collect();
        assert_eq!(unpacked, golden.get("edge.codes").unwrap().data);
        assert_eq!(edge.absmax, Absmax::Plain(f32s("edge.absmax")));
        assert_eq!(bits(&edge.dequantise()), bits(&f32s("edge.dequant")));
    }

    #[test]
    fn any_length_and_no_infinity() {
        for n in [0, 1, 63, 65, 127] {
            let values: Vec<f32> = (0..n).map(|i| if i % 3 == 0 { 2.0 } else { -2.0 }).collect();
            for double in [false, true] {
                let restored = quantise(&values, double).unwrap().dequantise();
                assert_eq!(restored, values, "{n} values, double: {double}");
            }
        }
        let err = quantise(&[0.0, f32::NAN], false).unwrap_err().to_string();
        assert_eq!(err, "nf4: value 1 is NaN");
    }
}
