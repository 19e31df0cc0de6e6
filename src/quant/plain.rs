//! F32, F16 and BF16: a block is a number. What is packed and unpacked here may be any number of them.

use super::codec::Codec;
use super::layout::WeightFormat;
use crate::dtype::DType;
use half::{bf16, f16};

pub(super) const F32: Codec = Codec {
    dtype: DType::F32,
    format: WeightFormat::F32,
    unpack: |bytes, out| bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
    pack: |values, out| out.extend_from_slice(bytemuck::cast_slice(values)),
    packs_all: true,
    split: None,
};

pub(super) const F16: Codec = Codec {
    dtype: DType::F16,
    format: WeightFormat::F16,
    unpack: |bytes, out| each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
    pack: |values, out| out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
    packs_all: true,
    split: None,
};

pub(super) const BF16: Codec = Codec {
    dtype: DType::BF16,
    format: WeightFormat::BF16,
    unpack: |bytes, out| each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
    pack: |values, out| out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
    packs_all: true,
    split: None,
};

fn each(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; 2]) -> f32) {
    out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, b)| *o = value([b[0], b[1]]));
}
