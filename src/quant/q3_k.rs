//! Q3_K: sixteen groups of 16 with six bits of scale, an f16, and codes of two bits and one.

use super::bits::{half_at, put_codes, put_half};
use super::codec::Codec;
use super::layout::WeightFormat;
use super::superblock::{Symmetric, layered, put_layered};
use crate::dtype::DType;

pub(super) const Q3_K: Codec = Codec {
    dtype: DType::Q3_K,
    format: WeightFormat::Q3_K,
    unpack: |block, out| fields(block).unpack(out),
    pack: |values, out| {
        let b = Symmetric::pack(values, 16, 4, 31);
        put_layered(out, b.codes.iter().map(|q| q >> 2), 32, 1);
        put_layered(out, b.codes.iter().map(|q| q & 3), 32, 2);
        let scales: Vec<u8> = b.scales.iter().map(|s| (s + 32) as u8).collect();
        put_layered(out, scales.iter().map(|s| s & 15), 8, 4);
        put_layered(out, scales.iter().map(|s| s >> 4), 4, 2);
        put_half(out, b.d);
    },
    packs_all: false,
    split: Some(|block, planes| {
        let b = fields(block);
        put_codes::<2>(&mut planes[0], &b.codes.iter().map(|q| q & 3).collect::<Vec<_>>());
        put_codes::<1>(&mut planes[1], &b.codes.iter().map(|q| q >> 2).collect::<Vec<_>>());
        b.put_scales(&mut planes[2]);
        planes[3].extend_from_slice(&block[108..]);
    }),
};

fn fields(block: &[u8]) -> Symmetric {
    let third = layered(&block[..32], 32, 1);
    let codes = layered(&block[32..96], 32, 2).zip(third).map(|(q, h)| q | h << 2).collect();
    let upper = layered(&block[104..108], 4, 2);
    let scales = layered(&block[96..104], 8, 4).zip(upper).map(|(s, h)| (s | h << 4) as i8 - 32).collect();
    Symmetric { d: half_at(block, 108), scales, codes, zero: 4 }
}
