//! Q8_0: an f16 scale and 32 signed bytes.

use super::bits::{half_at, inverse, largest, put_half};
use super::codec::{Codec, Planes};
use super::layout::WeightFormat;
use crate::dtype::DType;

pub(super) const Q8_0: Codec =
    Codec { dtype: DType::Q8_0, format: WeightFormat::Q8, unpack, pack, packs_all: false, split: Some(split) };

fn unpack(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(o, &q)| *o = f32::from(q as i8) * d);
}

/// Rounds as ggml's reference does.
fn pack(values: &[f32], out: &mut Vec<u8>) {
    let d = largest(values) / 127.0;
    put_half(out, d);
    let id = inverse(d);
    out.extend(values.iter().map(|v| (v * id).round() as i8 as u8));
}

fn split(block: &[u8], planes: &mut Planes) {
    planes[0].extend_from_slice(&block[2..]);
    planes[1].extend_from_slice(&block[..2]);
}
