//! IQ4_NL: an f16 scale and 32 nibbles, each the number of one of 16 levels.

use super::bits::{extreme, half_at, halves_of, inverse, put_codes, put_half, put_halves};
use super::codec::Codec;
use super::layout::WeightFormat;
use crate::dtype::DType;

const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) const IQ4_NL: Codec = Codec {
    dtype: DType::IQ4_NL,
    format: WeightFormat::IQ4_NL,
    unpack: |block, out| {
        let d = half_at(block, 0);
        out.iter_mut().zip(halves_of(&block[2..])).for_each(|(o, q)| *o = d * level(q));
    },
    pack: |values, out| {
        let d = extreme(values) / -127.0;
        put_half(out, d);
        let id = inverse(d);
        put_halves(out, &std::array::from_fn(|i| nearest(values[i] * id)));
    },
    split: Some(|block, planes| {
        put_codes::<4>(&mut planes[0], &halves_of(&block[2..]));
        planes[1].extend_from_slice(&block[..2]);
    }),
};

fn level(code: u8) -> f32 {
    f32::from(LEVELS[usize::from(code)])
}

/// The number of the level that is nearest.
fn nearest(value: f32) -> u8 {
    LEVELS.windows(2).filter(|w| value > (f32::from(w[0]) + f32::from(w[1])) / 2.0).count() as u8
}
