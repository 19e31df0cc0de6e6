//! F32, F16, BF16 and GGUF's block formats Q8_0, Q4_0 and Q4_1, in the layouts of files.
//!
//! A block has 32 elements. Nibbles: byte `j` holds element `j` low and element `j + 16` high. Scales are f16 and come
//! first.

use crate::dtype::DType;
use crate::error::{Error, Result};
use bytemuck::pod_collect_to_vec;
use half::{bf16, f16};

const BLOCK: usize = 32;
const HALF: usize = BLOCK / 2;

/// Decodes `bytes` of format `dtype` into `out`.
///
/// # Errors
/// [`Error::Shape`] if `bytes` is not exactly what `out.len()` elements take.
pub fn dequantise(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check("dequantise", dtype, bytes.len(), out.len())?;
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
        DType::F16 => {
            let halves = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
            out.iter_mut().zip(halves).for_each(|(o, v)| *o = v);
        }
        DType::BF16 => {
            let halves = bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32());
            out.iter_mut().zip(halves).for_each(|(o, v)| *o = v);
        }
        DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => {
            for (block, out) in bytes.chunks_exact(dtype.block_bytes()).zip(out.chunks_exact_mut(BLOCK)) {
                decode_block(dtype, block, out);
            }
        }
    }
    Ok(())
}

fn decode_block(dtype: DType, block: &[u8], out: &mut [f32]) {
    let half_at = |i: usize| f16::from_le_bytes([block[i], block[i + 1]]).to_f32();
    let d = half_at(0);
    match dtype {
        DType::Q8_0 => out.iter_mut().zip(&block[2..]).for_each(|(o, &q)| *o = f32::from(q as i8) * d),
        DType::Q4_0 => {
            for (j, &q) in block[2..].iter().enumerate() {
                out[j] = (f32::from(q & 15) - 8.0) * d;
                out[j + HALF] = (f32::from(q >> 4) - 8.0) * d;
            }
        }
        _ => {
            let m = half_at(2);
            for (j, &q) in block[4..].iter().enumerate() {
                out[j] = f32::from(q & 15) * d + m;
                out[j + HALF] = f32::from(q >> 4) * d + m;
            }
        }
    }
}

/// Encodes `values` in format `dtype`, rounding as ggml's reference does.
///
/// # Errors
/// [`Error::Shape`] if `values` is no whole number of blocks.
pub fn quantise(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    let Some(bytes) = dtype.file_bytes(values.len() as u64) else {
        let reason = format!("{} elements are no whole number of {dtype} blocks of {BLOCK}", values.len());
        return Err(Error::shape("quantise", reason));
    };
    Ok(match dtype {
        DType::F32 => pod_collect_to_vec(values),
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => {
            let mut out = Vec::with_capacity(bytes as usize);
            values.chunks_exact(BLOCK).for_each(|block| encode_block(dtype, block, &mut out));
            out
        }
    })
}

fn encode_block(dtype: DType, block: &[f32], out: &mut Vec<u8>) {
    let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
    let put_half = |out: &mut Vec<u8>, v: f32| out.extend_from_slice(&f16::from_f32(v).to_le_bytes());
    let put_nibbles = |out: &mut Vec<u8>, nibble: &dyn Fn(f32) -> u8| {
        out.extend((0..HALF).map(|j| nibble(block[j]) | nibble(block[j + HALF]) << 4));
    };
    match dtype {
        DType::Q8_0 => {
            let d = block.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0;
            put_half(out, d);
            let id = inverse(d);
            out.extend(block.iter().map(|v| (v * id).round() as i8 as u8));
        }
        DType::Q4_0 => {
            // the extreme, with its sign, becomes -8, so that the side that has it uses the whole range
            let extreme = block.iter().fold(0f32, |a, &v| if v.abs() > a.abs() { v } else { a });
            let d = extreme / -8.0;
            put_half(out, d);
            let id = inverse(d);
            put_nibbles(out, &|v| ((v * id + 8.5) as u8).min(15));
        }
        _ => {
            let min = block.iter().fold(f32::INFINITY, |a, &v| a.min(v));
            let max = block.iter().fold(f32::NEG_INFINITY, |a, &v| a.max(v));
            let d = (max - min) / 15.0;
            put_half(out, d);
            put_half(out, min);
            let id = inverse(d);
            put_nibbles(out, &|v| (((v - min) * id + 0.5) as u8).min(15));
        }
    }
}

fn check(op: &'static str, dtype: DType, bytes: usize, elements: usize) -> Result<()> {
    if dtype.file_bytes(elements as u64) == Some(bytes as u64) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{bytes} bytes are not {elements} elements of {dtype}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn values(n: usize) -> Vec<f32> {
        let mut rng = Rng::new(3, 0);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn round_trip(dtype: DType, values: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; values.len()];
        dequantise(dtype, &quantise(dtype, values).unwrap(), &mut out).unwrap();
        out
    }

    #[test]
    fn layouts_are_those_of_the_files() {
        let mut block = vec![0u8; 20];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-1.0).to_le_bytes());
        block[4] = 0xf3; // element 0 is 3, element 16 is 15
        let mut out = [0.0; 32];
        dequantise(DType::Q4_1, &block, &mut out).unwrap();
        assert_eq!((out[0], out[16], out[1]), (0.5, 6.5, -1.0));
        let q4_0 = [&block[..2], &block[4..]].concat();
        dequantise(DType::Q4_0, &q4_0, &mut out).unwrap();
        assert_eq!((out[0], out[16], out[1]), (-2.5, 3.5, -4.0));
        let mut q8_0 = vec![0u8; 34];
        q8_0[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        (q8_0[2], q8_0[33]) = (0x80, 7);
        dequantise(DType::Q8_0, &q8_0, &mut out).unwrap();
        assert_eq!((out[0], out[31]), (-256.0, 14.0));
    }

    #[test]
    fn errors_stay_within_half_a_step() {
        let values = values(32 * 40);
        for (i, block) in values.chunks(32).enumerate() {
            let max = block.iter().fold(f32::MIN, |a, &v| a.max(v));
            let min = block.iter().fold(f32::MAX, |a, &v| a.min(v));
            let extreme = max.max(-min);
            // half a step, and the rounding of the scale to 11 bits; Q4_0 may cut a whole step off the short side
            let scale_error = extreme * 2f32.powi(-10);
            for (dtype, bound) in [
                (DType::Q8_0, extreme / 254.0 + scale_error),
                (DType::Q4_0, extreme / 8.0 + scale_error),
                (DType::Q4_1, (max - min) / 30.0 + 2.0 * scale_error),
            ] {
                for (v, w) in block.iter().zip(round_trip(dtype, block)) {
                    assert!((v - w).abs() <= bound, "{dtype} block {i}: {v} became {w}, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn exact_values_survive() {
        let halves: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) / 4.0).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(round_trip(dtype, &halves), halves, "{dtype}");
        }
        assert_eq!(round_trip(DType::BF16, &[1.0 + 2f32.powi(-8)]), [1.0]); // a tie goes to the even neighbour
        let mut bytes: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 7.0).collect();
        bytes[0] = -127.0;
        assert_eq!(round_trip(DType::Q8_0, &bytes), bytes);
        let nibbles: Vec<f32> = (0..32).map(|i| f32::from(i as u8 % 16) - 8.0).collect();
        assert_eq!(round_trip(DType::Q4_0, &nibbles), nibbles);
        assert_eq!(round_trip(DType::Q4_1, &nibbles), nibbles);
        for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_1] {
            assert_eq!(round_trip(dtype, &[0.0; 32]), [0.0; 32], "{dtype}");
        }
        assert_eq!(round_trip(DType::Q4_1, &[3.0; 32]), [3.0; 32]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert!(quantise(DType::Q8_0, &[0.0; 33]).unwrap_err().to_string().contains("33 elements"));
        let err = dequantise(DType::Q4_0, &[0; 18], &mut [0.0; 64]).unwrap_err().to_string();
        assert!(err.contains("18 bytes are not 64 elements of Q4_0"), "{err}");
        assert!(dequantise(DType::F32, &[0; 5], &mut [0.0; 1]).is_err());
    }
}
