//! Q6_K: sixteen groups of 16 with a signed byte of scale, an f16, and codes of four and two bits.

use super::bits::{half_at, put_codes, put_half};
use super::codec::Codec;
use super::layout::WeightFormat;
use super::superblock::{Symmetric, layered, put_layered};
use crate::dtype::DType;

pub(super) const Q6_K: Codec = Codec {
    dtype: DType::Q6_K,
    format: WeightFormat::Q6_K,
    unpack: |block, out| fields(block).unpack(out),
    pack: |values, out| {
        let b = Symmetric::pack(values, 16, 32, 127);
        put_layered(out, b.codes.iter().map(|q| q & 15), 64, 4);
        put_layered(out, b.codes.iter().map(|q| q >> 4), 32, 2);
        b.put_scales(out);
        put_half(out, b.d);
    },
    packs_all: false,
    split: Some(|block, planes| {
        let b = fields(block);
        put_codes::<4>(&mut planes[0], &b.codes.iter().map(|q| q & 15).collect::<Vec<_>>());
        put_codes::<2>(&mut planes[1], &b.codes.iter().map(|q| q >> 4).collect::<Vec<_>>());
        b.put_scales(&mut planes[2]);
        planes[3].extend_from_slice(&block[208..]);
    }),
};

fn fields(block: &[u8]) -> Symmetric {
    let upper = layered(&block[128..192], 32, 2);
    let codes = layered(&block[..128], 64, 4).zip(upper).map(|(q, h)| q | h << 4).collect();
    let scales = block[192..208].iter().map(|s| *s as i8).collect();
    Symmetric { d: half_at(block, 208), scales, codes, zero: 32 }
}
