//! Storage formats of tensors, on disk and on the device.

use std::fmt;

/// How the elements of a tensor are stored. Quantised formats work on blocks of 32 along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    F16,
    BF16,
    /// GGUF: 32 signed bytes and an f16 scale.
    Q8_0,
    /// GGUF: 32 nibbles minus 8, and an f16 scale.
    Q4_0,
    /// GGUF: 32 nibbles, an f16 scale and an f16 minimum.
    Q4_1,
}

impl DType {
    /// Elements a block; rows are whole numbers of blocks.
    pub const fn block_elements(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => 32,
        }
    }

    /// Bytes a block takes in a file.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q8_0 => 34,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
        }
    }

    /// Bytes that `elements` elements take in a file; `None` if they are no whole number of blocks or overflow.
    pub fn file_bytes(self, elements: u64) -> Option<u64> {
        let block = self.block_elements() as u64;
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(self.block_bytes() as u64)).flatten()
    }

    /// Whether elements come in blocks with a scale.
    pub const fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q8_0 => "Q8_0",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
        })
    }
}
