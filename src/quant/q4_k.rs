//! Q4_K and Q5_K: two f16, eight groups of 32 with six bits of scale and of minimum, and nibbles; Q5_K has a fifth bit beside them.

use super::bits::put_codes;
use super::codec::Codec;
use super::layout::WeightFormat;
use super::search::Trials;
use super::superblock::{WithMinima, layered, put_layered};
use crate::dtype::DType;

pub(super) const Q4_K: Codec = Codec {
    dtype: DType::Q4_K,
    format: WeightFormat::Q4_K,
    unpack: |block, out| fields_4(block).unpack(out),
    pack: |values, out| {
        let b = WithMinima::pack(values, GROUP, 15, 63, Trials { first: -1.0, step: 0.1, count: 20 });
        b.put_floats(out);
        put_scales(out, &b);
        put_layered(out, b.codes.iter().copied(), GROUP, 4);
    },
    packs_all: false,
    split: Some(|block, planes| {
        let b = fields_4(block);
        put_codes::<4>(&mut planes[0], &b.codes);
        planes[1].extend(b.scales.iter().zip(&b.minima).flat_map(|(s, m)| [*s, *m]));
        planes[2].extend_from_slice(&block[..4]);
    }),
};

pub(super) const Q5_K: Codec = Codec {
    dtype: DType::Q5_K,
    format: WeightFormat::Q5_K,
    unpack: |block, out| fields_5(block).unpack(out),
    pack: |values, out| {
        let b = WithMinima::pack(values, GROUP, 31, 63, Trials { first: -0.5, step: 0.1, count: 15 });
        b.put_floats(out);
        put_scales(out, &b);
        put_layered(out, b.codes.iter().map(|q| q >> 4), GROUP, 1);
        put_layered(out, b.codes.iter().map(|q| q & 15), GROUP, 4);
    },
    packs_all: false,
    split: Some(|block, planes| {
        let b = fields_5(block);
        put_codes::<4>(&mut planes[0], &b.codes.iter().map(|q| q & 15).collect::<Vec<_>>());
        put_codes::<1>(&mut planes[1], &b.codes.iter().map(|q| q >> 4).collect::<Vec<_>>());
        planes[2].extend(b.scales.iter().zip(&b.minima).flat_map(|(s, m)| [*s, *m]));
        planes[3].extend_from_slice(&block[..4]);
    }),
};

/// Elements that share a scale.
const GROUP: usize = 32;

fn fields_4(block: &[u8]) -> WithMinima {
    fields(block, layered(&block[16..], GROUP, 4).collect())
}

fn fields_5(block: &[u8]) -> WithMinima {
    let fifth = layered(&block[16..48], GROUP, 1);
    fields(block, layered(&block[48..], GROUP, 4).zip(fifth).map(|(q, h)| q | h << 4).collect())
}

fn fields(block: &[u8], codes: Vec<u8>) -> WithMinima {
    let (d, dmin) = WithMinima::floats(block, 0);
    let s = &block[4..16];
    let upper = |j: usize| (s[j] >> 6) << 4;
    let scale = |j: usize| if j < 4 { s[j] & 63 } else { s[j + 4] & 15 | upper(j - 4) };
    let minimum = |j: usize| if j < 4 { s[j + 4] & 63 } else { s[j + 4] >> 4 | upper(j) };
    WithMinima { d, dmin, scales: (0..8).map(scale).collect(), minima: (0..8).map(minimum).collect(), codes }
}

/// The first four scales and minima have a byte each, whose two upper bits are of the last four.
fn put_scales(out: &mut Vec<u8>, b: &WithMinima) {
    let (s, m) = (&b.scales, &b.minima);
    out.extend((0..4).map(|j| s[j] | (s[j + 4] >> 4) << 6));
    out.extend((0..4).map(|j| m[j] | (m[j + 4] >> 4) << 6));
    out.extend((4..8).map(|j| s[j] & 15 | m[j] << 4));
}
