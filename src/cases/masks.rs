//! Random masks: spread evenly, or gathered in few rows and columns as masks of gradients are.

use crate::csr::CsrPattern;
use crate::error::Result;
use crate::rng::Rng;

/// Where entries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum MaskKind {
    /// Anywhere
    Uniform,
    /// Half of the entries in a sixteenth of the rows, half in a sixteenth of the columns
    Clustered,
}

/// One row, and one column, in so many are busy in a clustered mask.
const BUSY: usize = 16;

/// A mask of exactly `nnz` entries of a matrix `[rows, cols]`, the same for the same seed of `rng`. A clustered mask that
/// would fill its busy rows and columns lies more evenly.
///
/// # Errors
/// As [`CsrPattern::from_flat`].
pub fn random_mask(kind: MaskKind, rows: usize, cols: usize, nnz: usize, rng: &mut Rng) -> Result<CsrPattern> {
    let nnz = nnz.min(rows * cols);
    let busy_rows = chosen(rows, rng);
    let busy_cols = chosen(cols, rng);
    let any = |n: usize, rng: &mut Rng| rng.below(n as u64) as usize;
    let mut flat: Vec<u64> = Vec::with_capacity(nnz);
    let mut rounds = 0;
    while flat.len() < nnz {
        for _ in flat.len()..nnz {
            // where places run out the rest goes anywhere
            let clustered = kind == MaskKind::Clustered && rounds < 4;
            let (row, col) = match (clustered, clustered && rng.below(2) == 0) {
                (true, true) => (busy_rows[any(busy_rows.len(), rng)], any(cols, rng)),
                (true, false) => (any(rows, rng), busy_cols[any(busy_cols.len(), rng)]),
                (false, _) => (any(rows, rng), any(cols, rng)),
            };
            flat.push((row * cols + col) as u64);
        }
        flat.sort_unstable();
        flat.dedup();
        rounds += 1;
    }
    CsrPattern::from_flat(rows, cols, &flat)
}

/// One in [`BUSY`] of `0..n`, at least one.
fn chosen(n: usize, rng: &mut Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut all);
    all.truncate((n / BUSY).max(1));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_their_entries_and_repeat() {
        for kind in [MaskKind::Uniform, MaskKind::Clustered] {
            for (rows, cols, nnz) in [(100, 60, 300), (7, 5, 35), (64, 64, 1), (3, 3, 0)] {
                let make = || random_mask(kind, rows, cols, nnz, &mut Rng::new(1, 2)).unwrap();
                let mask = make();
                assert_eq!((mask.nnz(), mask.rows, mask.cols), (nnz, rows, cols));
                assert_eq!(mask, make());
            }
        }
    }

    #[test]
    fn clustered_masks_gather_in_rows_and_columns() {
        let busiest = |kind| {
            let mask = random_mask(kind, 320, 320, 1000, &mut Rng::new(3, 4)).unwrap();
            let mut by_row: Vec<u32> = mask.row_offs.windows(2).map(|w| w[1] - w[0]).collect();
            by_row.sort_unstable_by_key(|n| std::cmp::Reverse(*n));
            by_row[..20].iter().sum::<u32>()
        };
        // a sixteenth of the rows
        assert!(busiest(MaskKind::Uniform) < 200, "{}", busiest(MaskKind::Uniform));
        assert!(busiest(MaskKind::Clustered) > 450, "{}", busiest(MaskKind::Clustered));
    }
}
