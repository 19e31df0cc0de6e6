//! Values through every format and back: how far they may move, and what comes back unchanged.

use super::{dequantise, nf4, quantise};
use crate::dtype::DType;
use half::{bf16, f16};
use proptest::prelude::*;

/// Blocks of values whose sizes are anything that f16 scales can hold.
fn any_blocks() -> impl Strategy<Value = Vec<f32>> {
    let block = (prop::collection::vec(-1.0f32..1.0, 32), -6i32..6)
        .prop_map(|(values, power)| -> Vec<f32> { values.into_iter().map(|v| v * 2f32.powi(power)).collect() });
    prop::collection::vec(block, 1..6).prop_map(|blocks| blocks.concat())
}

fn there_and_back(dtype: DType, values: &[f32]) -> Vec<f32> {
    let bytes = quantise(dtype, values).unwrap();
    assert_eq!(Some(bytes.len() as u64), dtype.file_bytes(values.len() as u64));
    let mut back = vec![f32::NAN; values.len()];
    dequantise(dtype, &bytes, &mut back).unwrap();
    back
}

/// The largest of them, without signs.
fn most(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

proptest! {
    #[test]
    fn floats_round_to_the_nearest(values in prop::collection::vec(any::<f32>(), 0..40)) {
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&there_and_back(DType::F32, &values)), bits(&values));
        let halves: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
        prop_assert_eq!(bits(&there_and_back(DType::F16, &halves)), bits(&halves));
        let brains: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        prop_assert_eq!(bits(&there_and_back(DType::BF16, &brains)), bits(&brains));
    }

    #[test]
    fn blocks_stay_within_half_a_step(values in any_blocks()) {
        for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_1] {
            let back = there_and_back(dtype, &values);
            for (block, got) in values.chunks(32).zip(back.chunks(32)) {
                let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
                // the step, its codes, and the largest number that is rounded to f16
                let (step, codes, stored) = match dtype {
                    DType::Q8_0 => (most(block) / 127.0, 127.0, 0.0),
                    DType::Q4_0 => (most(block) / 8.0, 8.0, 0.0),
                    _ => ((high - low) / 15.0, 15.0, low.abs()),
                };
                // in Q4_0 the side without the extreme has codes up to 7: what lies beyond is cut by up to a step
                let share = if dtype == DType::Q4_0 { 1.0 } else { 0.5 };
                // half of f16's last place, or of its smallest number
                let rounding = (codes * step + stored) / 2048.0 + (codes + 1.0) * 2f32.powi(-25);
                for (v, g) in block.iter().zip(got) {
                    prop_assert!((v - g).abs() <= share * step + rounding + 1e-6 * most(block), "{dtype}: {v} became {g}, step {step}");
                }
            }
        }
    }

    #[test]
    fn what_a_format_holds_comes_back(codes in prop::collection::vec(0u8..16, 32), scale in 1u16..1000, down in 0u16..1000) {
        // both ends of the range are there, so the scale is found again
        let mut codes = codes;
        (codes[3], codes[17]) = (0, 15);
        let (d, m) = (f32::from(scale) / 1024.0, -f32::from(down) / 16.0);
        let signed: Vec<f32> = codes.iter().map(|q| (f32::from(*q) - 8.0) * d).collect();
        prop_assert_eq!(there_and_back(DType::Q4_0, &signed), signed);
        let shifted: Vec<f32> = codes.iter().map(|q| f32::from(*q) * d + m).collect();
        for (want, got) in shifted.iter().zip(there_and_back(DType::Q4_1, &shifted)) {
            prop_assert!((want - got).abs() <= 15.0 * d / 1024.0, "{want} became {got}");
        }
        let mut bytes: Vec<f32> = codes.iter().map(|q| (f32::from(*q) - 8.0) * 7.0 * d).collect();
        bytes[5] = 127.0 * d;
        prop_assert_eq!(there_and_back(DType::Q8_0, &bytes), bytes);
    }

    #[test]
    fn nf4_takes_the_nearest_level(values in prop::collection::vec(-8.0f32..8.0, 0..200)) {
        let q = nf4::quantise(&values, false).unwrap();
        let back = q.dequantise();
        prop_assert_eq!(back.len(), values.len());
        for (block, got) in values.chunks(nf4::BLOCK).zip(back.chunks(nf4::BLOCK)) {
            let max = most(block);
            for (v, g) in block.iter().zip(got) {
                let nearest = nf4::LEVELS.iter().map(|l| (l * max - v).abs()).fold(f32::MAX, f32::min);
                prop_assert!((v - g).abs() <= nearest + 1e-5 * max, "{v} became {g}");
            }
        }
        // levels stay what they are
        prop_assert_eq!(nf4::quantise(&back, false).unwrap(), q);
        // maxima in 8 bits cost little more
        let double = nf4::quantise(&values, true).unwrap().dequantise();
        prop_assert!(double.iter().zip(&back).all(|(d, b)| (d - b).abs() <= 0.25 * most(&values)), "{double:?}");
    }
}
