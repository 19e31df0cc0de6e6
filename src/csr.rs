//! Sparse matrices in compressed sparse rows, the exchange format of masks and sparse adapters.

use crate::error::{Error, Result};

/// The positions of a sparse matrix `[rows, cols]`: row `n` owns `col_idx[row_offs[n]..row_offs[n + 1]]`, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrPattern {
    pub rows: usize,
    pub cols: usize,
    /// `[rows + 1]`
    pub row_offs: Vec<u32>,
    /// `[nnz]`
    pub col_idx: Vec<u32>,
}

/// A sparse matrix: a pattern and its values `[nnz]` in the same order.
#[derive(Clone, Debug, PartialEq)]
pub struct Csr {
    pub pattern: CsrPattern,
    pub values: Vec<f32>,
}

impl CsrPattern {
    /// Checks every invariant, so that later code may index without fear.
    ///
    /// # Errors
    /// A sentence that says which invariant is broken, for the caller to put a file and field to.
    pub fn new(rows: usize, cols: usize, row_offs: Vec<u32>, col_idx: Vec<u32>) -> Result<Self, String> {
        if row_offs.len() != rows + 1 {
            return Err(format!("row_offs has {} entries, expected {} (rows + 1)", row_offs.len(), rows + 1));
        }
        if row_offs[0] != 0 || row_offs[rows] as usize != col_idx.len() {
            return Err(format!(
                "row_offs runs from {} to {}, expected 0 to {}",
                row_offs[0],
                row_offs[rows],
                col_idx.len()
            ));
        }
        for (row, w) in row_offs.windows(2).enumerate() {
            if w[0] > w[1] || w[1] as usize > col_idx.len() {
                return Err(format!("row_offs falls or leaves the array at row {row}"));
            }
            let cols_of_row = &col_idx[w[0] as usize..w[1] as usize];
            if cols_of_row.windows(2).any(|c| c[0] >= c[1]) {
                return Err(format!("the columns of row {row} are not strictly ascending"));
            }
            if cols_of_row.last().is_some_and(|&c| c as usize >= cols) {
                return Err(format!("a column of row {row} is outside of the matrix, which has {cols}"));
            }
        }
        Ok(CsrPattern { rows, cols, row_offs, col_idx })
    }

    /// From flat indices `row * cols + col`, strictly ascending.
    ///
    /// # Errors
    /// [`Error::Shape`] if an index is out of order or outside of the matrix.
    pub fn from_flat(rows: usize, cols: usize, flat: &[u64]) -> Result<Self> {
        if flat.windows(2).any(|w| w[0] >= w[1]) || flat.last().is_some_and(|&i| i >= (rows * cols) as u64) {
            return Err(Error::shape("csr", "flat indices must be ascending and inside of the matrix"));
        }
        let mut row_offs = vec![0u32; rows + 1];
        let mut col_idx = Vec::with_capacity(flat.len());
        for &i in flat {
            row_offs[(i / cols as u64) as usize + 1] += 1;
            col_idx.push((i % cols as u64) as u32);
        }
        for n in 0..rows {
            row_offs[n + 1] += row_offs[n];
        }
        Ok(CsrPattern { rows, cols, row_offs, col_idx })
    }

    /// Patterns of some rows of a matrix as one pattern `[rows, cols]`: each with its first row, in their order, none over
    /// another. Entries keep their order, so values stand one behind the other as the patterns do.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit.
    pub fn stack(rows: usize, cols: usize, parts: &[(usize, &CsrPattern)]) -> Result<Self> {
        let mut row_offs = vec![0u32];
        let mut col_idx = Vec::with_capacity(parts.iter().map(|(_, p)| p.nnz()).sum());
        for (first, part) in parts {
            if *first + 1 < row_offs.len() || first + part.rows > rows || part.cols != cols {
                let what = format!("[{}, {}] at row {first} of [{rows}, {cols}]", part.rows, part.cols);
                return Err(Error::shape("csr", what));
            }
            let before = col_idx.len() as u32;
            row_offs.resize(first + 1, before);
            row_offs.extend(part.row_offs[1..].iter().map(|at| before + at));
            col_idx.extend(&part.col_idx);
        }
        row_offs.resize(rows + 1, col_idx.len() as u32);
        Ok(CsrPattern { rows, cols, row_offs, col_idx })
    }

    /// The pattern of some rows.
    pub fn rows_of(&self, rows: std::ops::Range<usize>) -> CsrPattern {
        let before = self.row_offs[rows.start];
        let row_offs = self.row_offs[rows.start..=rows.end].iter().map(|at| at - before).collect();
        let col_idx = self.col_idx[self.entries_of(rows.clone())].to_vec();
        CsrPattern { rows: rows.len(), cols: self.cols, row_offs, col_idx }
    }

    /// Where the entries of some rows stand.
    pub fn entries_of(&self, rows: std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.row_offs[rows.start] as usize..self.row_offs[rows.end] as usize
    }

    /// Stored entries.
    pub fn nnz(&self) -> usize {
        self.col_idx.len()
    }

    /// `(row, col)` of every entry, row by row.
    pub fn entries(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.row_offs
            .windows(2)
            .enumerate()
            .flat_map(|(n, w)| self.col_idx[w[0] as usize..w[1] as usize].iter().map(move |&k| (n as u32, k)))
    }
}

impl Csr {
    /// The values at the positions of `pattern`, of a matrix of the same shape, zero where there is none, and how many of the
    /// own are not among them.
    pub fn values_at(&self, pattern: &CsrPattern) -> (Vec<f32>, usize) {
        let mut values = vec![0.0; pattern.nnz()];
        let mut taken = 0;
        for row in 0..pattern.rows.min(self.pattern.rows) {
            let own = self.pattern.entries_of(row..row + 1);
            let columns = &self.pattern.col_idx[own.clone()];
            for at in pattern.entries_of(row..row + 1) {
                if let Ok(found) = columns.binary_search(&pattern.col_idx[at]) {
                    values[at] = self.values[own.start + found];
                    taken += 1;
                }
            }
        }
        (values, self.pattern.nnz() - taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A matrix's size and some of its entries, as flat indices.
    fn any_entries() -> impl Strategy<Value = (usize, usize, Vec<u64>)> {
        (1usize..20, 1usize..20).prop_flat_map(|(rows, cols)| {
            let flat = prop::collection::btree_set(0..(rows * cols) as u64, 0..=rows * cols);
            (Just(rows), Just(cols), flat.prop_map(|set| set.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn entries_there_and_back((rows, cols, flat) in any_entries()) {
            let p = CsrPattern::from_flat(rows, cols, &flat).unwrap();
            let back: Vec<u64> = p.entries().map(|(r, c)| u64::from(r) * cols as u64 + u64::from(c)).collect();
            prop_assert_eq!((p.nnz(), &back), (flat.len(), &flat));
            prop_assert_eq!(&CsrPattern::new(rows, cols, p.row_offs.clone(), p.col_idx.clone()).unwrap(), &p);
            // one index moved onto its neighbour, or out of the matrix
            if p.nnz() > 0 {
                let mut far = p.col_idx.clone();
                far[p.nnz() - 1] = cols as u32;
                prop_assert!(CsrPattern::new(rows, cols, p.row_offs.clone(), far).is_err());
                prop_assert!(CsrPattern::from_flat(rows, cols, &[&flat[..], &flat[flat.len() - 1..]].concat()).is_err());
            }
        }

        #[test]
        fn rows_cut_and_stacked_again((rows, cols, flat) in any_entries(), at: prop::sample::Index) {
            let p = CsrPattern::from_flat(rows, cols, &flat).unwrap();
            let cut = at.index(rows + 1);
            let (top, bottom) = (p.rows_of(0..cut), p.rows_of(cut..rows));
            prop_assert_eq!(top.nnz() + bottom.nnz(), p.nnz());
            prop_assert_eq!((p.entries_of(0..cut).len(), p.entries_of(cut..rows).len()), (top.nnz(), bottom.nnz()));
            prop_assert_eq!(&CsrPattern::stack(rows, cols, &[(0, &top), (cut, &bottom)]).unwrap(), &p);
            // with rows between them
            let apart = CsrPattern::stack(rows + 2, cols, &[(0, &top), (cut + 2, &bottom)]).unwrap();
            prop_assert_eq!(&apart.rows_of(0..cut), &top);
            prop_assert_eq!((apart.rows_of(cut..cut + 2).nnz(), &apart.rows_of(cut + 2..rows + 2)), (0, &bottom));
        }
    }

    #[test]
    fn flat_indices_become_rows() {
        let p = CsrPattern::from_flat(3, 4, &[1, 3, 8]).unwrap();
        assert_eq!((p.row_offs.as_slice(), p.col_idx.as_slice()), ([0, 2, 2, 3].as_slice(), [1, 3, 0].as_slice()));
        assert_eq!(p.entries().collect::<Vec<_>>(), [(0, 1), (0, 3), (2, 0)]);
        assert!(CsrPattern::from_flat(3, 4, &[12]).is_err());
    }

    #[test]
    fn patterns_stack() {
        let p = CsrPattern::from_flat(2, 4, &[1, 3, 4]).unwrap();
        let all = CsrPattern::stack(7, 4, &[(1, &p), (4, &p)]).unwrap();
        let entries: Vec<_> = all.entries().collect();
        assert_eq!(entries, [(1, 1), (1, 3), (2, 0), (4, 1), (4, 3), (5, 0)]);
        assert_eq!((all.rows_of(4..6), all.rows_of(0..1).nnz(), all.entries_of(4..6)), (p.clone(), 0, 3..6));
        assert_eq!(CsrPattern::new(7, 4, all.row_offs.clone(), all.col_idx.clone()).unwrap(), all);
        for (rows, parts) in [(5, [(1, &p), (4, &p)]), (7, [(1, &p), (2, &p)]), (7, [(4, &p), (1, &p)])] {
            assert!(CsrPattern::stack(rows, 4, &parts).is_err());
        }
    }

    #[test]
    fn values_move_to_another_pattern() {
        let old =
            Csr { pattern: CsrPattern::from_flat(3, 4, &[1, 3, 4, 11]).unwrap(), values: vec![1.0, 2.0, 3.0, 4.0] };
        assert_eq!(old.values_at(&old.pattern), (old.values.clone(), 0));
        let other = CsrPattern::from_flat(3, 4, &[0, 3, 4, 8, 11]).unwrap();
        assert_eq!(old.values_at(&other), (vec![0.0, 2.0, 3.0, 0.0, 4.0], 1));
        assert_eq!(old.values_at(&CsrPattern::from_flat(3, 4, &[]).unwrap()), (vec![], 4));
    }

    #[test]
    fn broken_invariants_are_named() {
        let bad = |offs: &[u32], cols: &[u32]| CsrPattern::new(2, 3, offs.to_vec(), cols.to_vec()).unwrap_err();
        assert!(bad(&[0, 1], &[0]).contains("rows + 1"));
        assert!(bad(&[0, 1, 3], &[0, 1]).contains("expected 0 to 2"));
        assert!(bad(&[0, 2, 2], &[1, 1]).contains("ascending"));
        assert!(bad(&[0, 1, 1], &[3]).contains("outside"));
        assert!(bad(&[0, 3, 2], &[0, 1]).contains("falls"));
    }
}
