//! Q2_K: sixteen groups of 16 with four bits of scale and of minimum, two f16, and codes of two bits.

use super::bits::put_codes;
use super::codec::Codec;
use super::layout::WeightFormat;
use super::search::Trials;
use super::superblock::{WithMinima, layered, put_layered};
use crate::dtype::DType;

pub(super) const Q2_K: Codec = Codec {
    dtype: DType::Q2_K,
    format: WeightFormat::Q2_K,
    unpack: |block, out| fields(block).unpack(out),
    pack: |values, out| {
        let b = WithMinima::pack(values, 16, 3, 15, Trials { first: -0.5, step: 0.1, count: 15 });
        out.extend(b.scales.iter().zip(&b.minima).map(|(s, m)| s | m << 4));
        put_layered(out, b.codes.iter().copied(), 32, 2);
        b.put_floats(out);
    },
    packs_all: false,
    split: Some(|block, planes| {
        put_codes::<2>(&mut planes[0], &fields(block).codes);
        planes[1].extend_from_slice(&block[..16]);
        planes[2].extend_from_slice(&block[80..]);
    }),
};

fn fields(block: &[u8]) -> WithMinima {
    let (d, dmin) = WithMinima::floats(block, 80);
    let scales = block[..16].iter().map(|b| b & 15).collect();
    let minima = block[..16].iter().map(|b| b >> 4).collect();
    WithMinima { d, dmin, scales, minima, codes: layered(&block[16..80], 32, 2).collect() }
}
