//! The formats with blocks of 32: layouts, bounds, exact values.

use super::{dequantise, quantise};
use crate::dtype::DType;
use crate::io::safetensors::SafetensorsFile;
use crate::rng::Rng;
use half::f16;

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

fn fixture() -> SafetensorsFile {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/blocks.safetensors");
    SafetensorsFile::open(path.as_ref()).unwrap()
}

#[test]
fn blocks_unpack_to_what_ggufs_own_reader_makes_of_them() {
    let fixture = fixture();
    for dtype in DType::ALL.iter().filter(|d| d.is_quantised() && d.gguf_type().is_some()) {
        let want = fixture.get(&format!("{dtype}.values")).unwrap().to_f32().unwrap();
        let mut values = vec![f32::NAN; want.len()];
        dequantise(*dtype, fixture.get(dtype.name()).unwrap().data, &mut values).unwrap();
        for (i, (got, want)) in values.iter().zip(&want).enumerate() {
            // a zero's sign alone may differ
            assert!(got.to_bits() == want.to_bits() || *got == 0.0 && *want == 0.0, "{dtype} {i}: {got}, not {want}");
        }
    }
}

#[test]
fn what_is_packed_stays_as_near_as_its_bits_allow() {
    let values = values(256 * 64);
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    for dtype in DType::ALL.iter().filter(|d| d.is_quantised()) {
        let back = round_trip(*dtype, &values);
        let error = norm(&mut values.iter().zip(&back).map(|(v, w)| v - w)) / norm(&mut values.iter().copied());
        // codes spread over some six deviations; those of levels are finer in the middle
        let bits = (dtype.bits() - 0.25).floor().min(8.0) as i32;
        let bound = 2.5 * 2f64.powi(-bits);
        assert!(error < bound, "{dtype}: {error:.4}, not below {bound:.4}");
        // and again it is what it was
        let again = round_trip(*dtype, &back);
        let moved = norm(&mut back.iter().zip(&again).map(|(v, w)| v - w)) / norm(&mut back.iter().copied());
        assert!(moved < bound / 2.0, "{dtype} moves by {moved}");
    }
}
