//! Where the masks lie.

use crate::csr::CsrPattern;
use crate::error::{Error, Result};
use crate::io::safetensors::SafetensorsFile;
use std::path::Path;

/// Entries of a mask that are read, at most: more is no file of ours.
const MOST: usize = 1 << 31;
/// The share of rows, or columns, that is called the fullest.
pub const FULLEST: f64 = 0.05;

/// The mask of a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// `model.layers.0.self_attn.q_proj`
    pub module: String,
    /// Entries of each row and column.
    pub rows: Vec<u32>,
    pub cols: Vec<u32>,
}

impl Mask {
    fn of(module: &str, pattern: &CsrPattern) -> Mask {
        let mut cols = vec![0; pattern.cols];
        pattern.col_idx.iter().for_each(|c| cols[*c as usize] += 1);
        let rows = pattern.row_offs.windows(2).map(|w| w[1] - w[0]).collect();
        Mask { module: module.to_owned(), rows, cols }
    }

    /// Entries.
    pub fn entries(&self) -> u64 {
        self.rows.iter().map(|n| u64::from(*n)).sum()
    }

    /// Share of the weight's entries that are in it.
    pub fn density(&self) -> f64 {
        self.entries() as f64 / (self.rows.len() * self.cols.len()).max(1) as f64
    }

    /// The layer, and the rest of the name's last part.
    pub fn place(&self) -> (Option<usize>, &str) {
        let layer = self.module.split('.').find_map(|part| part.parse().ok());
        (layer, self.module.rsplit('.').next().unwrap_or(&self.module))
    }
}

/// The share of all entries that the fullest [`FULLEST`] of rows or columns have.
pub fn concentration(counts: &[u32]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let sum = |counts: &[u32]| counts.iter().map(|n| u64::from(*n)).sum::<u64>();
    let top = ((FULLEST * counts.len() as f64).ceil() as usize).min(counts.len());
    sum(&sorted[..top]) as f64 / sum(&sorted).max(1) as f64
}

/// The masks of a file of masks or of an adapter; none where there are none in it.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where something is wrong in it.
pub fn read(path: &Path) -> Result<Vec<Mask>> {
    const SUFFIX: &str = ".row_offs";
    let file = SafetensorsFile::open(path)?;
    let mut masks = Vec::new();
    for name in file.names().filter(|name| name.ends_with(SUFFIX) && !name.contains("spa.tr_")) {
        let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
        let (row_offs, col_idx) = (file.get(name)?, file.get(&format!("{stem}.col_idx"))?);
        if row_offs.data.len() > 4 * MOST || col_idx.data.len() > 4 * MOST {
            return Err(Error::file(path, name, "has more entries than a mask can have"));
        }
        let (row_offs, col_idx) = (row_offs.to_indices()?, col_idx.to_indices()?);
        let module = stem.strip_suffix(".rosa_spa").unwrap_or(stem);
        // A says how many columns there are; without it the last one that is used does
        let a = file.get(&format!("{module}.rosa_A.weight")).ok().and_then(|a| a.shape.get(1).copied());
        let last = col_idx.iter().max().map_or(0, |c| *c as usize + 1);
        let (rows, cols) = (row_offs.len().saturating_sub(1), a.unwrap_or(last).max(last));
        if cols > MOST {
            return Err(Error::file(path, name, "has more columns than a matrix can have"));
        }
        let pattern =
            CsrPattern::new(rows, cols, row_offs, col_idx).map_err(|reason| Error::file(path, name, reason))?;
        masks.push(Mask::of(module.strip_prefix("base_model.model.").unwrap_or(module), &pattern));
    }
    masks.sort_by(|a, b| a.place().cmp(&b.place()));
    Ok(masks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::mask::write_masks;
    use std::collections::BTreeMap;

    #[test]
    fn rows_and_columns_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("masks.safetensors");
        let pattern = CsrPattern::from_flat(3, 4, &[0, 2, 6, 10]).unwrap();
        let named = |layer: usize| (format!("model.layers.{layer}.mlp.up_proj"), pattern.clone());
        write_masks(&path, &BTreeMap::from([named(10), named(9)])).unwrap();
        let masks = read(&path).unwrap();
        assert_eq!(masks.iter().map(|m| m.place()).collect::<Vec<_>>(), [(Some(9), "up_proj"), (Some(10), "up_proj")]);
        // the last column that is used is the third
        assert_eq!((&masks[0].rows, &masks[0].cols), (&vec![2, 1, 1], &vec![1, 0, 3]));
        assert_eq!((masks[0].entries(), masks[0].density()), (4, 4.0 / 9.0));
        assert_eq!((concentration(&masks[0].cols), concentration(&[0, 0])), (0.75, 0.0));
    }
}
