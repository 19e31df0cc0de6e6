//! MXFP4: a byte of exponent, and 32 floats of four bits.

use super::bits::{halves_of, largest, put_codes, put_halves};
use super::codec::Codec;
use super::layout::WeightFormat;
use crate::dtype::DType;

/// Twice the values, so that they are whole; the scale is half as large for it.
const LEVELS: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

pub(super) const MXFP4: Codec = Codec {
    dtype: DType::MXFP4,
    format: WeightFormat::MXFP4,
    unpack: |block, out| {
        let d = scale(block[0]);
        out.iter_mut().zip(halves_of(&block[1..])).for_each(|(o, q)| *o = d * LEVELS[usize::from(q)]);
    },
    pack: |values, out| {
        let most = largest(values);
        // as in ggml's reference
        let e = if most > 0.0 { (most.log2().floor() - 2.0 + 127.0).clamp(0.0, 254.0) as u8 } else { 0 };
        out.push(e);
        let d = scale(e);
        put_halves(out, &std::array::from_fn(|i| nearest(values[i], d)));
    },
    packs_all: false,
    split: Some(|block, planes| {
        put_codes::<4>(&mut planes[0], &halves_of(&block[1..]));
        planes[1].push(block[0]);
    }),
};

/// 2^(e − 128), of which the least two are no normal numbers.
fn scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

fn nearest(value: f32, d: f32) -> u8 {
    let error = |q: &u8| (d * LEVELS[usize::from(*q)] - value).abs();
    (0..16).min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(0)
}
