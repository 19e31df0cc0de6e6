//! BF16 as F16. Of f16's range every bf16 is exact down to 2⁻¹⁷; below, it is rounded to a multiple of 2⁻²⁴.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;
/// Elements that are f32 at a time.
const CHUNK: usize = 1024;

/// Whether no finite value of `bf16` (little endian) becomes infinite in f16, which ends at 65,504.
pub fn fits_f16(bf16: &[u8]) -> bool {
    // the bits of 65,536 and of infinity; the bf16 below the former is 65,280
    let too_large = |b: &[u8]| (0x4780..0x7f80).contains(&(u16::from_le_bytes([b[0], b[1]]) & 0x7fff));
    // counted, not searched, so that it runs in vectors
    bf16.par_chunks(PIECE).all(|p| p.chunks_exact(2).map(|b| u32::from(too_large(b))).sum::<u32>() == 0)
}

/// The same numbers in f16, rounded to nearest even.
pub fn to_f16(bf16: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; bf16.len()];
    out.par_chunks_mut(PIECE).zip(bf16.par_chunks(PIECE)).for_each(|(out, piece)| {
        let (mut wide, mut halves) = ([0f32; CHUNK], [f16::ZERO; CHUNK]);
        for (out, from) in out.chunks_mut(2 * CHUNK).zip(piece.chunks(2 * CHUNK)) {
            let n = from.len() / 2;
            for (w, b) in wide.iter_mut().zip(from.chunks_exact(2)) {
                *w = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
            halves[..n].convert_from_f32_slice(&wide[..n]);
            for (o, h) in out.chunks_exact_mut(2).zip(&halves) {
                o.copy_from_slice(&h.to_le_bytes());
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn every_bf16_becomes_the_nearest_f16() {
        // three times, and some, so that chunks end within them
        let bits: Vec<u16> = (0..=u16::MAX).cycle().take(3 * 65_536 + 333).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let halves = to_f16(&bytes);
        assert_eq!(halves.len(), bytes.len());
        for (bits, h) in bits.iter().zip(halves.chunks_exact(2)) {
            let (from, got) = (bf16::from_bits(*bits), f16::from_le_bytes([h[0], h[1]]));
            let want = f16::from_f32(from.to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{from}: {got}, not {want}");
            if from.is_finite() && f32::from(from).abs() >= 2f32.powi(-17) && want.is_finite() {
                assert_eq!(got.to_f32(), from.to_f32());
            }
            let alone = bits.to_le_bytes();
            assert_eq!(fits_f16(&alone), !from.is_finite() || want.is_finite(), "{from}");
        }
        assert!(!fits_f16(&bytes) && fits_f16(&[]));
    }
}
