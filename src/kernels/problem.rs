//! A product as its plan sees it: what is to be computed, not how.

use super::tile::Layout;
use crate::tensor::WeightFormat;
use std::fmt;

/// A product, as far as its plan depends on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub layout: Layout,
    /// `[m, n, k]` of `C[m, n] = Σk …`.
    pub shape: [usize; 3],
    /// Elements of a row of each operand, as they lie in memory.
    pub row_lengths: [usize; 2],
    /// What each operand is stored in.
    pub formats: [WeightFormat; 2],
    /// Elements between rows of the output, and its first column.
    pub stride_column: (usize, usize),
    pub accumulate: bool,
    pub kind: Kind,
}

/// What else the product's kernel does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Nothing: the product of two tensors.
    Dense,
    /// It adds a linear's adapter and bias; the second operand is the weight.
    Linear(Linear),
    /// It keeps the entries of a mask only (SDDMM).
    Masked,
}

/// What is added to a linear's product.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Linear {
    /// Entries of S, if there is one.
    pub sparse: Option<usize>,
    pub low_rank: Option<LowRank>,
    pub bias: bool,
}

/// Of U (or V): its rank in this linear, elements between its rows, and its first column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    pub rank: usize,
    pub stride: usize,
    pub column: usize,
}

impl LowRank {
    pub(super) fn is_multiple_of(&self, width: usize) -> bool {
        self.rank > 0 && [self.rank, self.stride, self.column].iter().all(|x| x.is_multiple_of(width))
    }
}

impl Problem {
    fn linear(&self) -> Option<&Linear> {
        match &self.kind {
            Kind::Linear(linear) => Some(linear),
            _ => None,
        }
    }

    pub(super) fn sparse(&self) -> Option<usize> {
        self.linear().and_then(|linear| linear.sparse)
    }

    pub(super) fn low_rank(&self) -> Option<LowRank> {
        self.linear().and_then(|linear| linear.low_rank)
    }

    /// Columns of U and V; 0 without them.
    pub fn rank(&self) -> usize {
        self.low_rank().map_or(0, |l| l.rank)
    }

    pub(super) fn bias(&self) -> bool {
        self.linear().is_some_and(|linear| linear.bias)
    }

    /// Whether rows of both operands can be read four elements at a time.
    pub(super) fn reads_vec4(&self) -> bool {
        self.row_lengths.iter().all(|l| l.is_multiple_of(4))
    }

    /// Whether parts of the sum can be added up afterwards: they are copies of the whole output.
    pub(super) fn can_split(&self) -> bool {
        matches!(self.kind, Kind::Masked) || (!self.bias() && self.stride_column.0 == self.shape[1])
    }

    /// Whether columns of the output can be stored `width` at a time.
    pub(super) fn stores(&self, width: usize) -> bool {
        let (stride, column) = self.stride_column;
        [self.shape[1], stride, column].iter().all(|x| x.is_multiple_of(width))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n, k] = self.shape;
        let name = match self.kind {
            Kind::Dense => "matmul",
            Kind::Linear(_) => "rosa_linear",
            Kind::Masked => "sddmm",
        };
        write!(f, "{name} {:?} {m}x{n}x{k} {:?}·{:?}", self.layout, self.formats[0], self.formats[1])?;
        if let Some(nnz) = self.sparse() {
            write!(f, " S {nnz}")?;
        }
        self.low_rank().map_or(Ok(()), |l| write!(f, " rank {}", l.rank))
    }
}
