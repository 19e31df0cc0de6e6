//! NF4, the 4-bit format of QLoRA, in bitsandbytes' layout.
//!
//! Blocks of 64 along the flattened row-major matrix; each value is divided by its block's absolute maximum and becomes
//! the number of the nearest of 16 levels. Two codes a byte, the first in the high nibble. With double quantisation the
//! maxima, less their mean, are themselves stored as 8-bit codes in blocks of 256.

use crate::error::{Error, Result};
use std::sync::OnceLock;

/// Values that share a maximum.
pub const BLOCK: usize = 64;
/// Maxima that share a second maximum.
pub const BLOCK2: usize = 256;

/// The levels: quantiles of the normal distribution with an exact zero, scaled to [-1, 1].
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

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

/// The 256 levels of the maxima: for each of 7 decades twice as many as in the one below, evenly spaced, with both
/// signs; and 0 and 1.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut levels = [0f64; 256];
        levels[1] = 1.0;
        let mut at = 2;
        for e in 0..7 {
            let n = 1 << e;
            let edge = |i: i32| 0.1 + 0.9 * f64::from(i) / f64::from(n);
            for i in 0..n {
                let level = 10f64.powi(e - 6) * (edge(i) + edge(i + 1)) / 2.0;
                levels[at] = level;
                levels[at + 1] = -level;
                at += 2;
            }
        }
        levels.sort_by(f64::total_cmp);
        levels.map(|v| v as f32)
    })
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
