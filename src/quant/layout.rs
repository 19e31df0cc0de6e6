//! How weights lie on the device: each format as planes of aligned words, and what the shaders' fragment of it does.

use crate::dtype::DType;

/// What one part of all blocks takes: so many bytes for so many blocks. A plane starts with a whole word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    pub bytes: usize,
    pub blocks: usize,
}

/// The layout of a device format. The planes of a weight lie one behind the other: first all blocks' codes, then what belongs
/// to them, so that no load straddles a word.
#[derive(Debug)]
pub struct Layout {
    pub format: WeightFormat,
    /// Elements a block.
    pub block: usize,
    pub planes: &'static [Plane],
    /// The decoding; none for formats that are no blocks, which kernels read themselves.
    pub fragment: Option<Fragment>,
}

/// The shaders' half of a format of blocks; `shaders/lib/weight.wgsl` says what its text declares.
#[derive(Debug)]
pub struct Fragment {
    /// The name that shaders include it by, and its text.
    pub name: &'static str,
    pub text: &'static str,
    /// Neighbours whose codes are loaded at once: 4 or 8.
    pub unit: u32,
    /// Elements that have one scale.
    pub shares: u32,
    /// Whether an element is more than a code times a scale.
    pub has_minimum: bool,
}

/// The fragment in `shaders/lib/formats/<name>.wgsl`.
macro_rules! fragment {
    ($name:literal, unit $unit:literal, shares $shares:literal, minimum $minimum:literal) => {
        Some(Fragment {
            name: concat!("lib/formats/", $name, ".wgsl"),
            text: include_str!(concat!("../../shaders/lib/formats/", $name, ".wgsl")),
            unit: $unit,
            shares: $shares,
            has_minimum: $minimum,
        })
    };
}

/// A plane of `bytes` bytes a block.
const fn each(bytes: usize) -> Plane {
    Plane { bytes, blocks: 1 }
}

/// Declares the formats, a line each: elements of a block, planes, fragment. Their numbers follow from their order.
macro_rules! formats {
    ($($name:ident: $block:literal in [$($plane:expr),*], $fragment:expr;)*) => {
        /// Device formats, by the number that shaders know them by (`WFMT`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types)] // ggml's names
        #[repr(u32)]
        pub enum WeightFormat { $($name),* }

        static LAYOUTS: [Layout; WeightFormat::ALL.len()] = [$(Layout {
            format: WeightFormat::$name,
            block: $block,
            planes: &[$($plane),*],
            fragment: $fragment,
        }),*];

        impl WeightFormat {
            /// All, in the order of their numbers.
            pub const ALL: [WeightFormat; [$($block),*].len()] = [$(WeightFormat::$name),*];
        }
    };
}

formats! {
    F32: 1 in [each(4)], None;
    F16: 1 in [each(2)], None;
    BF16: 1 in [each(2)], None;
    Q8: 32 in [each(32), each(2)], fragment!("q8", unit 4, shares 32, minimum false);
    Q4: 32 in [each(16), each(4)], fragment!("q4", unit 8, shares 32, minimum true);
    IQ4_NL: 32 in [each(16), each(2)], fragment!("iq4_nl", unit 8, shares 32, minimum false);
    Q5: 32 in [each(16), each(4), each(4)], fragment!("q5", unit 8, shares 32, minimum true);
    Q4_K: 256 in [each(128), each(16), each(4)], fragment!("q4_k", unit 8, shares 32, minimum true);
    Q5_K: 256 in [each(128), each(32), each(16), each(4)], fragment!("q5_k", unit 8, shares 32, minimum true);
    Q6_K: 256 in [each(128), each(64), each(16), each(2)], fragment!("q6_k", unit 8, shares 16, minimum false);
    Q3_K: 256 in [each(64), each(32), each(16), each(2)], fragment!("q3_k", unit 8, shares 16, minimum false);
    Q2_K: 256 in [each(64), each(16), each(4)], fragment!("q2_k", unit 8, shares 16, minimum true);
    IQ4_XS: 256 in [each(128), each(8), each(2)], fragment!("iq4_xs", unit 8, shares 32, minimum false);
    MXFP4: 32 in [each(16), each(1)], fragment!("mxfp4", unit 8, shares 32, minimum false);
    NF4: 64 in [each(32), each(4)], fragment!("nf4", unit 8, shares 64, minimum false);
    NF4_DOUBLE: 64 in [each(32), Plane { bytes: 8, blocks: 64 }, each(1)],
        fragment!("nf4_double", unit 8, shares 64, minimum false);
}

impl Plane {
    /// Bytes of the plane for so many blocks.
    fn of(self, blocks: u64) -> u64 {
        blocks.div_ceil(self.blocks as u64) * self.bytes as u64
    }
}

impl WeightFormat {
    /// The layout that a file's format is stored in.
    pub fn of(dtype: DType) -> WeightFormat {
        super::codec(dtype).format
    }

    /// The format with this number.
    pub fn numbered(number: u32) -> Option<WeightFormat> {
        WeightFormat::ALL.into_iter().find(|f| *f as u32 == number)
    }

    pub fn layout(self) -> &'static Layout {
        &LAYOUTS[self as usize]
    }

    /// Whether elements come in blocks with a scale.
    pub fn is_quantised(self) -> bool {
        self.layout().fragment.is_some()
    }

    /// Whether tests combine it with everything else that specialises a kernel. Others differ from Q8 and Q4 by the text of
    /// their fragment alone.
    pub fn is_in_every_combination(self) -> bool {
        self as u32 <= WeightFormat::Q4 as u32
    }

    /// Whether decoding an element takes a good deal more than a code times a scale, plus a minimum.
    pub fn is_dear_to_decode(self) -> bool {
        self as u32 > WeightFormat::Q4 as u32
    }

    /// Neighbours that kernels decode at once; 1 where they read single elements.
    pub fn unit(self) -> u32 {
        self.layout().fragment.as_ref().map_or(1, |f| f.unit)
    }

    /// Whether rows can be put behind `elements` others: where their part of each plane would begin with a word.
    pub fn stacks(self, elements: u64) -> bool {
        let Layout { block, planes, .. } = self.layout();
        let blocks = elements / *block as u64;
        let begins = |p: &Plane| blocks.is_multiple_of(p.blocks as u64) && p.of(blocks).is_multiple_of(4);
        elements.is_multiple_of(*block as u64) && planes.iter().all(begins)
    }

    /// Bytes on the device for `elements` elements.
    pub fn bytes(self, elements: u64) -> u64 {
        self.plane_at(self.layout().planes.len(), elements)
    }

    /// The byte that plane `i` of a weight of so many elements starts at; behind the last one, the weight's bytes.
    pub fn plane_at(self, i: usize, elements: u64) -> u64 {
        let Layout { block, planes, .. } = self.layout();
        let blocks = elements.div_ceil(*block as u64);
        planes[..i].iter().map(|p| p.of(blocks).next_multiple_of(4)).sum()
    }

    /// The byte in plane `i` that the part of the blocks behind `elements` elements starts at.
    pub fn plane_offset(self, i: usize, elements: u64) -> u64 {
        let Layout { block, planes, .. } = self.layout();
        planes[i].of(elements / *block as u64)
    }
}

/// The fragments of all formats, by the name that shaders include them by.
pub fn fragments() -> impl Iterator<Item = &'static Fragment> {
    LAYOUTS.iter().filter_map(|l| l.fragment.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_numbers_and_take_what_their_planes_do() {
        for (i, layout) in LAYOUTS.iter().enumerate() {
            let format = layout.format;
            assert_eq!((format as usize, WeightFormat::numbered(i as u32)), (i, Some(format)));
            let blocks = 3 * 64 * 7;
            let elements = (blocks * layout.block) as u64;
            let words: u64 = layout.planes.iter().map(|p| p.of(blocks as u64).next_multiple_of(4)).sum();
            assert_eq!(format.bytes(elements), words, "{format:?}");
            let Some(fragment) = &layout.fragment else { continue };
            assert!(fragment.name.ends_with(".wgsl") && [4, 8].contains(&fragment.unit));
            assert!((layout.block as u32).is_multiple_of(fragment.shares) && fragment.shares.is_multiple_of(8));
        }
    }

    #[test]
    fn matrices_stack_where_every_plane_begins_with_a_word() {
        assert!(WeightFormat::F32.stacks(1) && !WeightFormat::F16.stacks(1) && WeightFormat::BF16.stacks(2));
        assert!(!WeightFormat::Q8.stacks(32) && WeightFormat::Q8.stacks(64));
        assert!(!WeightFormat::Q4.stacks(16) && WeightFormat::Q4.stacks(32));
    }
}
