//! Q4_0 and Q4_1: an f16 scale, in Q4_1 an f16 minimum, and 32 nibbles. On the device both are Q4, with a minimum: that of
//! Q4_0 is −8·scale, exactly.

use super::bits::{extreme, half_at, halves_of, inverse, put_codes, put_half, put_halves, range};
use super::codec::{Codec, Planes};
use super::layout::WeightFormat;
use crate::dtype::DType;

pub(super) const Q4_0: Codec = Codec {
    dtype: DType::Q4_0,
    format: WeightFormat::Q4,
    unpack: |block, out| {
        let d = half_at(block, 0);
        out.iter_mut().zip(halves_of(&block[2..])).for_each(|(o, q)| *o = (f32::from(q) - 8.0) * d);
    },
    pack: pack_0,
    packs_all: false,
    split: Some(|block, planes| {
        put_codes::<4>(&mut planes[0], &halves_of(&block[2..]));
        planes[1].extend_from_slice(&block[..2]);
        put_half(&mut planes[1], -8.0 * half_at(block, 0));
    }),
};

pub(super) const Q4_1: Codec = Codec {
    dtype: DType::Q4_1,
    format: WeightFormat::Q4,
    unpack: |block, out| {
        let (d, m) = (half_at(block, 0), half_at(block, 2));
        out.iter_mut().zip(halves_of(&block[4..])).for_each(|(o, q)| *o = f32::from(q) * d + m);
    },
    pack: pack_1,
    packs_all: false,
    split: Some(split_1),
};

/// Rounds as ggml's reference does: the extreme, with its sign, becomes −8, so that the side that has it uses the whole range.
fn pack_0(values: &[f32], out: &mut Vec<u8>) {
    let d = extreme(values) / -8.0;
    put_half(out, d);
    let id = inverse(d);
    put_halves(out, &std::array::from_fn(|i| ((values[i] * id + 8.5) as u8).min(15)));
}

/// Rounds as ggml's reference does.
fn pack_1(values: &[f32], out: &mut Vec<u8>) {
    let (min, max) = range(values);
    let d = (max - min) / 15.0;
    put_half(out, d);
    put_half(out, min);
    let id = inverse(d);
    put_halves(out, &std::array::from_fn(|i| (((values[i] - min) * id + 0.5) as u8).min(15)));
}

fn split_1(block: &[u8], planes: &mut Planes) {
    put_codes::<4>(&mut planes[0], &halves_of(&block[4..]));
    planes[1].extend_from_slice(&block[..4]);
}
