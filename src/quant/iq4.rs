//! IQ4_NL: an f16 scale and 32 nibbles, each the number of one of 16 levels. IQ4_XS: an f16, eight groups of 32 with six bits of scale,
//! and nibbles.

use super::bits::{half_at, halves_of, inverse, largest, put_codes, put_half, put_halves};
use super::codec::Codec;
use super::layout::WeightFormat;
use super::search::best_scale;
use crate::dtype::DType;
use half::f16;

const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) const IQ4_NL: Codec = Codec {
    dtype: DType::IQ4_NL,
    format: WeightFormat::IQ4_NL,
    unpack: |block, out| {
        let d = half_at(block, 0);
        out.iter_mut().zip(halves_of(&block[2..])).for_each(|(o, q)| *o = d * level(q));
    },
    pack: |values, out| {
        put_half(out, scale(values));
        let id = inverse(half_at(out, out.len() - 2));
        put_halves(out, &std::array::from_fn(|i| nearest(values[i] * id)));
    },
    packs_all: false,
    split: Some(|block, planes| {
        put_codes::<4>(&mut planes[0], &halves_of(&block[2..]));
        planes[1].extend_from_slice(&block[..2]);
    }),
};

pub(super) const IQ4_XS: Codec = Codec {
    dtype: DType::IQ4_XS,
    format: WeightFormat::IQ4_XS,
    unpack: |block, out| {
        let (d, scales) = (half_at(block, 0), group_scales(block));
        for (g, out) in out.chunks_mut(32).enumerate() {
            let d = d * f32::from(scales[g]);
            out.iter_mut().zip(halves_of(&block[8 + 16 * g..])).for_each(|(o, q)| *o = d * level(q));
        }
    },
    pack: |values, out| {
        let wide: Vec<f32> = values.chunks(32).map(scale).collect();
        let d = f16::from_f32(largest(&wide) / 31.0).to_f32();
        put_half(out, d);
        let scales: Vec<i8> = wide.iter().map(|v| (v * inverse(d)).round().clamp(-31.0, 31.0) as i8).collect();
        let stored: Vec<u16> = scales.iter().map(|s| (i16::from(*s) + 32) as u16).collect();
        let upper = stored.iter().enumerate().fold(0, |all, (g, s)| all | (s >> 4) << (2 * g));
        out.extend(upper.to_le_bytes());
        out.extend(stored.chunks(2).map(|two| (two[0] & 15 | (two[1] & 15) << 4) as u8));
        for (group, scale) in values.chunks(32).zip(scales) {
            let id = inverse(d * f32::from(scale));
            put_halves(out, &std::array::from_fn(|i| nearest(group[i] * id)));
        }
    },
    packs_all: false,
    split: Some(|block, planes| {
        (0..8).for_each(|g| put_codes::<4>(&mut planes[0], &halves_of(&block[8 + 16 * g..])));
        planes[1].extend(group_scales(block).map(|s| s as u8));
        planes[2].extend_from_slice(&block[..2]);
    }),
};

/// The scales of the groups of an IQ4_XS block.
fn group_scales(block: &[u8]) -> [i8; 8] {
    let upper = u16::from_le_bytes([block[2], block[3]]);
    std::array::from_fn(|g| {
        let low = block[4 + g / 2] >> (4 * (g % 2)) & 15;
        let high = (upper >> (2 * g) & 3) as u8;
        (low | high << 4) as i8 - 32
    })
}

/// The scale of a group.
fn scale(values: &[f32]) -> f32 {
    best_scale(values, -127.0, |v| level(nearest(v)))
}

fn level(code: u8) -> f32 {
    f32::from(LEVELS[usize::from(code)])
}

/// The number of the level that is nearest.
fn nearest(value: f32) -> u8 {
    LEVELS.windows(2).filter(|w| value > (f32::from(w[0]) + f32::from(w[1])) / 2.0).count() as u8
}
