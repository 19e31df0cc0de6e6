//! Whether stored numbers are finite, looked at before anything is computed with them: one that is not spreads over all
//! results, and nothing there tells where it came from.

use crate::dtype::{DType, Float};
use rayon::prelude::*;

/// Bytes that a thread looks at at a time, about.
const PIECE: usize = 1 << 20;

/// The flat index of the first element of `data`, whole blocks of `dtype`, that is NaN or infinite; of quantised ones that of
/// the first block whose scale or minimum is, or is too large for what kernels make of it.
pub fn first_non_finite(dtype: DType, data: &[u8]) -> Option<usize> {
    let block = dtype.block_bytes();
    let at = match *dtype.floats() {
        // one test in the loop, which runs in vectors then
        [one] => find(data, block, |b| is_bad(one, b)),
        [one, two] => find(data, block, |b| is_bad(one, b) || is_bad(two, b)),
        ref all => find(data, block, |b| all.iter().any(|f| is_bad(*f, b))),
    }?;
    Some(at * dtype.block_elements())
}

/// Whether all bits of a float's exponent are set.
#[inline(always)]
fn is_bad(float: Float, b: &[u8]) -> bool {
    let pair = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
    match float {
        Float::F32(at) => pair(at + 2) & 0x7f80 == 0x7f80,
        Float::BF16(at) => pair(at) & 0x7f80 == 0x7f80,
        Float::F16(at) => pair(at) & 0x7c00 == 0x7c00,
        // the exponent is in bits 10 to 14
        Float::F16Times(at, power) => pair(at) & 0x7fff > 0x7bff - (power << 10),
    }
}

/// The first block that is `bad`.
fn find(data: &[u8], block: usize, bad: impl Fn(&[u8]) -> bool + Sync) -> Option<usize> {
    let blocks = PIECE / block;
    let first = |(i, piece): (usize, &[u8])| {
        // counted, not searched, so that it runs in vectors
        let count: u32 = piece.chunks_exact(block).map(|b| u32::from(bad(b))).sum();
        if count == 0 { None } else { piece.chunks_exact(block).position(&bad).map(|at| i * blocks + at) }
    };
    data.par_chunks(blocks * block).enumerate().find_map_first(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// `number` in the place of the block that element `at` of `n` is in, `offset` bytes behind the block's start.
    fn plant(dtype: DType, n: usize, at: usize, offset: usize, number: &[u8]) -> Option<usize> {
        let mut data = vec![0x11u8; dtype.file_bytes(n as u64).unwrap() as usize];
        let start = at / dtype.block_elements() * dtype.block_bytes() + offset;
        data[start..][..number.len()].copy_from_slice(number);
        first_non_finite(dtype, &data)
    }

    #[test]
    fn each_kind_is_found_in_each_format() {
        let n = 3_200_000; // several pieces
        for at in [0, 31 * 32, n / 2, n - 32] {
            for x in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (half, brain) = (f16::from_f32(x).to_le_bytes(), bf16::from_f32(x).to_le_bytes());
                assert_eq!(plant(DType::F32, n, at, 0, &x.to_le_bytes()), Some(at));
                assert_eq!(plant(DType::F16, n, at, 0, &half), Some(at));
                assert_eq!(plant(DType::BF16, n, at, 0, &brain), Some(at));
                assert_eq!(plant(DType::Q8_0, n, at, 0, &half), Some(at));
                assert_eq!(plant(DType::Q4_0, n, at, 0, &half), Some(at));
                assert_eq!(plant(DType::Q4_1, n, at, 0, &half), Some(at));
                assert_eq!(plant(DType::Q4_1, n, at, 2, &half), Some(at));
                // codes may be anything
                assert_eq!(plant(DType::Q8_0, n, at, 2, &half), None);
                assert_eq!(plant(DType::Q4_1, n, at, 4, &half), None);
            }
            for x in [f32::MAX, f32::MIN, -0.0, f32::from_bits(1)] {
                assert_eq!(plant(DType::F32, n, at, 0, &x.to_le_bytes()), None);
            }
            assert_eq!(plant(DType::F16, n, at, 0, &f16::MAX.to_le_bytes()), None);
            assert_eq!(plant(DType::BF16, n, at, 0, &bf16::MIN.to_le_bytes()), None);
        }
        assert_eq!(first_non_finite(DType::F32, &[]), None);
        // the device has their minima, -8 and -16 times the scale, as f16
        for (dtype, most) in [(DType::Q4_0, 8188.0), (DType::Q5_0, 4094.0)] {
            for sign in [1.0, -1.0] {
                let half = |x: f32| f16::from_f32(sign * x).to_le_bytes();
                assert_eq!(plant(dtype, n, 64, 0, &half(most)), None);
                assert_eq!(plant(dtype, n, 64, 0, &half(most * 1.001)), Some(64));
            }
        }
    }
}
