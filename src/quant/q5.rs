//! Q5_0 and Q5_1: an f16 scale, in Q5_1 an f16 minimum, 32 fifth bits and 32 nibbles. On the device both are Q5, with a minimum:
//! that of Q5_0 is −16·scale, exactly.

use super::bits::{extreme, half_at, halves_of, inverse, put_codes, put_half, put_halves, range};
use super::codec::{Codec, Planes};
use super::layout::WeightFormat;
use crate::dtype::DType;

pub(super) const Q5_0: Codec = Codec {
    dtype: DType::Q5_0,
    format: WeightFormat::Q5,
    unpack: |block, out| {
        let d = half_at(block, 0);
        out.iter_mut().zip(codes(&block[2..])).for_each(|(o, q)| *o = d * (f32::from(q) - 16.0));
    },
    pack: pack_0,
    packs_all: false,
    split: Some(|block, planes| {
        split_codes(&codes(&block[2..]), planes);
        planes[2].extend_from_slice(&block[..2]);
        put_half(&mut planes[2], -16.0 * half_at(block, 0));
    }),
};

pub(super) const Q5_1: Codec = Codec {
    dtype: DType::Q5_1,
    format: WeightFormat::Q5,
    unpack: |block, out| {
        let (d, m) = (half_at(block, 0), half_at(block, 2));
        out.iter_mut().zip(codes(&block[4..])).for_each(|(o, q)| *o = d * f32::from(q) + m);
    },
    pack: pack_1,
    packs_all: false,
    split: Some(|block, planes| {
        split_codes(&codes(&block[4..]), planes);
        planes[2].extend_from_slice(&block[..4]);
    }),
};

fn codes(bytes: &[u8]) -> [u8; 32] {
    let low = halves_of(&bytes[4..]);
    std::array::from_fn(|i| low[i] | (bytes[i / 8] >> (i % 8) & 1) << 4)
}

fn put(out: &mut Vec<u8>, codes: [u8; 32]) {
    put_codes::<1>(out, &codes.map(|q| q >> 4));
    put_halves(out, &codes.map(|q| q & 15));
}

fn split_codes(codes: &[u8; 32], planes: &mut Planes) {
    put_codes::<4>(&mut planes[0], &codes.map(|q| q & 15));
    put_codes::<1>(&mut planes[1], &codes.map(|q| q >> 4));
}

/// Rounds as ggml's reference does: the extreme, with its sign, becomes −16.
fn pack_0(values: &[f32], out: &mut Vec<u8>) {
    let d = extreme(values) / -16.0;
    put_half(out, d);
    let id = inverse(d);
    put(out, std::array::from_fn(|i| ((values[i] * id + 16.5) as u8).min(31)));
}

/// Rounds as ggml's reference does.
fn pack_1(values: &[f32], out: &mut Vec<u8>) {
    let (min, max) = range(values);
    let d = (max - min) / 31.0;
    put_half(out, d);
    put_half(out, min);
    let id = inverse(d);
    put(out, std::array::from_fn(|i| (((values[i] - min) * id + 0.5) as u8).min(31)));
}
