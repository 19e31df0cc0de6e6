//! Weights in FP8 with a scale for each block of 128 × 128, as folders of safetensors hold them: decoded to BF16 while they are read.
//!
//! `X.weight` is F8_E4M3 `[rows, cols]`, `X.weight_scale_inv` F32 or BF16 `[⌈rows / 128⌉, ⌈cols / 128⌉]`, or one number for all.

use super::safetensors::{Dtype, RawTensor, SafetensorsFolder};
use crate::error::Result;
use half::bf16;

const BLOCK: usize = 128;
/// What the name of the scales ends in.
const SCALES: &str = "_scale_inv";

/// Whether a tensor of this name belongs to a weight in FP8.
pub(super) fn is_part(name: &str) -> bool {
    name.ends_with(&format!(".weight{SCALES}")) || name.ends_with(".activation_scale")
}

/// Whether it is such a weight.
pub(super) fn is_fp8(raw: &RawTensor<'_>) -> bool {
    raw.dtype == Dtype::F8_E4M3
}

/// The weight `name`, times its scales, in BF16.
///
/// # Errors
/// [`crate::error::Error::File`] where there are no scales, or of another shape.
pub(super) fn to_bf16(folder: &SafetensorsFolder, name: &str, raw: &RawTensor<'_>) -> Result<Vec<u8>> {
    let [rows, cols] = *raw.shape else {
        return Err(raw.error(format!("is F8_E4M3 of shape {:?}, no matrix: take the model in BF16", raw.shape)));
    };
    let missing = || {
        let reason =
            "has the type F8_E4M3, but no weight_scale_inv beside it: download the model again, or take it in BF16";
        raw.error(reason)
    };
    let scales = folder.get(&format!("{name}{SCALES}")).ok_or_else(missing)??;
    let values = scales.to_finite()?;
    let across = cols.div_ceil(BLOCK);
    let wanted = [rows.div_ceil(BLOCK), across];
    if values.len() != 1 && scales.shape != wanted {
        let reason = format!(
            "has the shape {:?}; {wanted:?} is read, blocks of {BLOCK} x {BLOCK} of the weight, or one number: take the model in BF16",
            scales.shape
        );
        return Err(scales.error(reason));
    }
    let scale =
        |i: usize| if values.len() == 1 { values[0] } else { values[i / cols / BLOCK * across + i % cols / BLOCK] };
    let table: [f32; 256] = std::array::from_fn(|code| e4m3(code as u8));
    let value = |(i, code): (usize, &u8)| bf16::from_f32(table[usize::from(*code)] * scale(i)).to_le_bytes();
    Ok(raw.data.iter().enumerate().flat_map(value).collect())
}

/// A sign, four bits of exponent and three of fraction, without infinities.
fn e4m3(code: u8) -> f32 {
    let (e, fraction) = (code >> 3 & 15, f32::from(code & 7));
    let size = match (e, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 8.0 * 2f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(i32::from(e) - 7),
    };
    if code >> 7 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::safetensors::{OutTensor, write_safetensors};
    use std::collections::BTreeMap;

    #[test]
    fn each_block_has_its_own_scale_also_where_the_last_ones_are_cut() {
        let (rows, cols) = (130, 260);
        let dir = tempfile::tempdir().unwrap();
        let scales: Vec<f32> = (0..6).map(|i| 2f32.powi(i)).collect();
        let codes = vec![0x38u8; rows * cols]; // ones
        let all = [
            OutTensor { name: "a.weight".into(), dtype: Dtype::F8_E4M3, shape: vec![rows, cols], data: codes.into() },
            OutTensor::f32("a.weight_scale_inv", &[2, 3], &scales),
        ];
        write_safetensors(&dir.path().join("model.safetensors"), &all, &BTreeMap::new()).unwrap();
        let folder = SafetensorsFolder::open(dir.path()).unwrap();
        let raw = folder.get("a.weight").unwrap().unwrap();
        let bytes = to_bf16(&folder, "a.weight", &raw).unwrap();
        let value = |row: usize, col: usize| {
            let at = 2 * (row * cols + col);
            bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
        };
        assert_eq!([(0, 0), (127, 127), (127, 128), (0, 259)].map(|(r, c)| value(r, c)), [1.0, 1.0, 2.0, 4.0]);
        assert_eq!([(128, 0), (129, 255), (129, 256)].map(|(r, c)| value(r, c)), [8.0, 16.0, 32.0]);
    }

    #[test]
    fn codes_are_the_standards() {
        for (code, value) in [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x38, 1.0), (0x3c, 1.5), (0x7e, 448.0), (0xb8, -1.0)]
        {
            assert_eq!(e4m3(code), value);
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }
}
