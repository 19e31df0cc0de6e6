//! Storage formats of tensors in files: what a block of each is.

use std::fmt;

/// A float of a block, by the byte that it starts at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F32(usize),
    F16(usize),
    /// An f16 of which so many times as much is an f16 too: 2 to this power.
    F16Times(usize, u16),
    BF16(usize),
}

/// What is known of a file's format without unpacking it.
struct Facts {
    name: &'static str,
    /// ggml's number of the type; none for formats that only safetensors have.
    gguf: Option<u32>,
    /// Elements and bytes of a block.
    elements: usize,
    bytes: usize,
    /// The block's floats: its numbers, or its scales.
    floats: &'static [Float],
}

/// Declares the formats and their facts, a line each.
macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident: $gguf:expr, $elements:literal in $bytes:literal, [$($float:expr),*];)*) => {
        /// How the elements of a tensor are stored in a file. Quantised formats work on blocks along a row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types)] // ggml's names
        pub enum DType { $($(#[$doc])* $name,)* }

        const FACTS: &[Facts] = &[$(Facts {
            name: stringify!($name),
            gguf: $gguf,
            elements: $elements,
            bytes: $bytes,
            floats: &[$($float),*],
        }),*];

        impl DType {
            /// All, in the order of their declaration.
            pub const ALL: &[DType] = &[$(DType::$name),*];
        }
    };
}

use Float::{BF16 as Brain, F16 as Half, F16Times as HalfTimes, F32 as Single};

formats! {
    F32: Some(0), 1 in 4, [Single(0)];
    F16: Some(1), 1 in 2, [Half(0)];
    BF16: Some(30), 1 in 2, [Brain(0)];
    /// 32 signed bytes and an f16 scale.
    Q8_0: Some(8), 32 in 34, [Half(0)];
    /// 32 nibbles minus 8, and an f16 scale.
    Q4_0: Some(2), 32 in 18, [HalfTimes(0, 3)];
    /// 32 nibbles, an f16 scale and an f16 minimum.
    Q4_1: Some(3), 32 in 20, [Half(0), Half(2)];
    /// 32 nibbles that name levels, and an f16 scale.
    IQ4_NL: Some(20), 32 in 18, [Half(0)];
    /// 32 codes of five bits minus 16, and an f16 scale.
    Q5_0: Some(6), 32 in 22, [HalfTimes(0, 4)];
    /// 32 codes of five bits, an f16 scale and an f16 minimum.
    Q5_1: Some(7), 32 in 24, [Half(0), Half(2)];
    /// 256 nibbles; for each 32 six bits of scale and of minimum, and two f16 that they count in.
    Q4_K: Some(12), 256 in 144, [Half(0), Half(2)];
    /// The same with codes of five bits.
    Q5_K: Some(13), 256 in 176, [Half(0), Half(2)];
    /// 256 codes of six bits minus 32; for each 16 a signed byte of scale, and an f16 that they count in.
    Q6_K: Some(14), 256 in 210, [Half(208)];
    /// 256 codes of three bits minus 4; for each 16 six bits of scale, and an f16 that they count in.
    Q3_K: Some(11), 256 in 110, [Half(108)];
    /// 256 codes of two bits; for each 16 four bits of scale and of minimum, and two f16 that they count in.
    Q2_K: Some(10), 256 in 84, [Half(80), Half(82)];
    /// 256 nibbles that name levels; for each 32 six bits of scale, and an f16 that they count in.
    IQ4_XS: Some(23), 256 in 136, [Half(0)];
    /// 32 floats of four bits, and the exponent of their scale.
    MXFP4: Some(39), 32 in 17, [];
    /// bitsandbytes: 64 nibbles that name levels, and an f32 scale.
    NF4: None, 64 in 36, [Single(0)];
    /// The same with a scale of eight bits, and two f32 that those of many blocks count in.
    NF4_DOUBLE: None, 64 in 41, [Single(1), Single(5)];
}

impl DType {
    const fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// The name that messages and case rows have.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// ggml's number of the type, where GGUF files have it.
    pub const fn gguf_type(self) -> Option<u32> {
        self.facts().gguf
    }

    /// Elements a block; rows are whole numbers of blocks.
    pub const fn block_elements(self) -> usize {
        self.facts().elements
    }

    /// Bytes a block takes in a file.
    pub const fn block_bytes(self) -> usize {
        self.facts().bytes
    }

    /// The floats of a block: its numbers, or its scales and minima.
    pub const fn floats(self) -> &'static [Float] {
        self.facts().floats
    }

    /// Bytes that `elements` elements take in a file; `None` if they are no whole number of blocks or overflow.
    pub fn file_bytes(self, elements: u64) -> Option<u64> {
        let block = self.block_elements() as u64;
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(self.block_bytes() as u64)).flatten()
    }

    /// Bits an element, scales included.
    pub const fn bits(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_elements() as f64
    }

    /// Whether elements come in blocks with a scale.
    pub const fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
