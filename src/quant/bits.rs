//! Fields of blocks: f16 scales and packed codes.

use half::f16;

/// The f16 at byte `at` of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

pub(super) fn put_half(out: &mut Vec<u8>, value: f32) {
    out.extend_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// 1 / d, of which a block of zeros has none.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The codes of a block whose byte `j` holds element `j` low and element `j + 16` high.
pub(super) fn halves_of(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// The way back.
pub(super) fn put_halves(out: &mut Vec<u8>, codes: &[u8; 32]) {
    out.extend((0..16).map(|j| codes[j] | codes[j + 16] << 4));
}

/// Codes of `BITS` bits one behind the other, the first in the lowest bits of the first byte.
pub(super) fn put_codes<const BITS: usize>(out: &mut Vec<u8>, codes: &[u8]) {
    let byte = |some: &[u8]| some.iter().enumerate().fold(0, |b, (i, c)| b | c << (BITS * i));
    out.extend(codes.chunks_exact(8 / BITS).map(byte));
}

/// The largest of them without its sign.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// The largest of them by its size, with its sign.
pub(super) fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |a, &v| if v.abs() > a.abs() { v } else { a })
}

/// The least and the greatest.
pub(super) fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
}
