//! Mask files: safetensors with `<module>.row_offs` and `<module>.col_idx` (I32, CSR) for each module.

use super::safetensors::{OutTensor, SafetensorsFile, write_safetensors};
use crate::csr::CsrPattern;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

const ROW_OFFS: &str = ".row_offs";
const COL_IDX: &str = ".col_idx";

/// Reads the masks in `path` by Hugging Face's names of the linears. `shape_of` gives `(rows, cols)` of the model's
/// linear of a name, or `None` if there is none.
///
/// # Errors
/// [`Error::Io`], or [`Error::File`] naming the tensor: a linear that the model does not have, half of a pair, positions
/// outside of the matrix or out of order.
pub fn read_masks(
    path: &Path,
    shape_of: impl Fn(&str) -> Option<(usize, usize)>,
) -> Result<BTreeMap<String, CsrPattern>> {
    let file = SafetensorsFile::open(path)?;
    let mut masks = BTreeMap::new();
    for name in file.names() {
        let unknown = || Error::file(path, name, "is no tensor of a mask, whose names end in .row_offs and .col_idx");
        let module = name.strip_suffix(ROW_OFFS).or_else(|| name.strip_suffix(COL_IDX)).ok_or_else(unknown)?;
        if masks.contains_key(module) {
            continue;
        }
        let (rows, cols) = shape_of(module)
            .ok_or_else(|| Error::file(path, name, "the model has no such linear; the mask belongs to another one"))?;
        let own = file.get(&format!("{module}{ROW_OFFS}"))?.shape.iter().product::<usize>();
        if own != rows + 1 {
            let reason = format!(
                "is for {} rows, but this model's linear has {rows}; the mask belongs to another model",
                own as i64 - 1
            );
            return Err(Error::file(path, module, reason));
        }
        let col_idx = file.get(&format!("{module}{COL_IDX}"))?;
        // before any of it is read: the file may be a hole of any size
        if col_idx.data.len() > 4 * rows * cols {
            let is = col_idx.data.len();
            return Err(col_idx.error(format!("has {is} bytes of positions, more than [{rows}, {cols}] holds")));
        }
        let row_offs = file.get(&format!("{module}{ROW_OFFS}"))?.to_indices()?;
        let col_idx = col_idx.to_indices()?;
        let mask =
            CsrPattern::new(rows, cols, row_offs, col_idx).map_err(|reason| Error::file(path, module, reason))?;
        masks.insert(module.to_string(), mask);
    }
    if masks.is_empty() {
        return Err(Error::file(path, "masks", "the file holds none; make one with rugosa train ⟨save_mask⟩"));
    }
    Ok(masks)
}

/// Writes `masks` to `path`, whole or not at all.
///
/// # Errors
/// [`Error::Io`]; [`Error::Shape`] if a mask has more entries or columns than 31 bits can count.
pub fn write_masks(path: &Path, masks: &BTreeMap<String, CsrPattern>) -> Result<()> {
    let signed = |module: &str, values: &[u32]| {
        let all: Result<Vec<i32>, _> = values.iter().map(|&v| i32::try_from(v)).collect();
        all.map_err(|_| Error::shape("write_masks", format!("{module} has indices of more than 31 bits")))
    };
    let mut tensors = Vec::with_capacity(2 * masks.len());
    for (module, mask) in masks {
        let row_offs = signed(module, &mask.row_offs)?;
        let col_idx = signed(module, &mask.col_idx)?;
        tensors.push(OutTensor::i32(format!("{module}{ROW_OFFS}"), &[row_offs.len()], &row_offs).into_owned());
        tensors.push(OutTensor::i32(format!("{module}{COL_IDX}"), &[col_idx.len()], &col_idx).into_owned());
    }
    write_safetensors(path, &tensors, &BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(module: &str) -> Option<(usize, usize)> {
        matches!(module, "m.q_proj" | "m.up_proj").then_some((3, 40_000))
    }

    fn masks() -> BTreeMap<String, CsrPattern> {
        let wide = CsrPattern::from_flat(3, 40_000, &[5, 39_999, 119_999]).unwrap();
        let none = CsrPattern::from_flat(3, 40_000, &[]).unwrap();
        BTreeMap::from([("m.q_proj".to_string(), wide), ("m.up_proj".to_string(), none)])
    }

    #[test]
    fn masks_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.safetensors");
        write_masks(&path, &masks()).unwrap();
        assert_eq!(read_masks(&path, shape_of).unwrap(), masks());
    }

    #[test]
    fn bad_masks_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.safetensors");
        let rejects = |tensors: &[OutTensor<'_>], expected: &str| {
            write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
            let message = read_masks(&path, shape_of).unwrap_err().to_string();
            assert!(message.contains("mask.safetensors: ") && message.contains(expected), "{message}");
        };
        let offs = |v: &'static [i32]| OutTensor::i32("m.q_proj.row_offs", &[v.len()], v);
        let cols = |v: &'static [i32]| OutTensor::i32("m.q_proj.col_idx", &[v.len()], v);
        rejects(&[], "the file holds none");
        rejects(&[OutTensor::f32("m.q_proj.weight", &[1], &[0.0])], "is no tensor of a mask");
        rejects(&[OutTensor::i32("m.k_proj.row_offs", &[1], &[0])], "the model has no such linear");
        rejects(&[offs(&[0, 0, 0, 0])], "m.q_proj.col_idx: this tensor is missing");
        rejects(&[cols(&[])], "m.q_proj.row_offs: this tensor is missing");
        rejects(
            &[offs(&[0, 0, 0]), cols(&[])],
            "is for 2 rows, but this model's linear has 3; the mask belongs to another",
        );
        rejects(&[offs(&[0, 1, 1, 1]), cols(&[40_000])], "outside of the matrix");
        rejects(
            &[offs(&[0, 1, 1, 1]), cols(&[-1])],
            "m.q_proj.col_idx: holds the negative index -1: the file is damaged",
        );
        rejects(&[offs(&[0, 2, 2, 2]), cols(&[4, 4])], "not strictly ascending");
        // a hole of a quarter of a terabyte: refused before any of it is read
        let end = 16 + (1u64 << 38);
        let header = format!(
            "{{\"m.q_proj.row_offs\": {{\"dtype\": \"I32\", \"shape\": [4], \"data_offsets\": [0, 16]}}, \
             \"m.q_proj.col_idx\": {{\"dtype\": \"I32\", \"shape\": [{}], \"data_offsets\": [16, {end}]}}}}",
            1u64 << 36
        );
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
        let message = read_masks(&path, shape_of).unwrap_err().to_string();
        assert!(message.contains("bytes of positions, more than [3, 40000] holds"), "{message}");
        let err = read_masks(&dir.path().join("none"), shape_of).unwrap_err();
        assert!(matches!(err, Error::Io { .. }), "{err}");
    }
}
