//! The rotary tables of a layer.

use crate::kernels::rope::RopeTable;

/// One table, or one for short sequences and one for long ones.
#[derive(Clone, Debug)]
pub struct Rope {
    short: RopeTable,
    long: Option<RopeTable>,
}

impl From<RopeTable> for Rope {
    fn from(table: RopeTable) -> Self {
        Rope { short: table, long: None }
    }
}

impl Rope {
    /// `short` is for sequences of as many tokens as it has positions.
    pub fn by_length(short: RopeTable, long: RopeTable) -> Rope {
        Rope { short, long: Some(long) }
    }

    /// The table of a pass whose longest sequence has so many tokens.
    pub fn table(&self, tokens: usize) -> &RopeTable {
        self.long.as_ref().filter(|_| tokens > self.short.positions()).unwrap_or(&self.short)
    }

    /// How many positions there are.
    pub fn positions(&self) -> usize {
        self.table(usize::MAX).positions()
    }
}
