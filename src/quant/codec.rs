//! The table of file formats: which device format each is split into, and its packing and unpacking.

use super::layout::{Layout, WeightFormat};
use super::{iq4, mxfp4, nf4, plain, q2_k, q3_k, q4, q4_k, q5, q6_k, q8};
use crate::dtype::DType;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// A block's bytes, one list a plane of the device format.
pub type Planes = Vec<Vec<u8>>;

/// The CPU half of a file's format. Functions are about one block; those of formats without blocks about any number of elements.
pub struct Codec {
    pub dtype: DType,
    /// What it is on the device.
    pub format: WeightFormat,
    /// Its values.
    pub unpack: fn(&[u8], &mut [f32]),
    /// Appends the block of these values.
    pub pack: fn(&[f32], &mut Vec<u8>),
    /// Whether it packs any number of blocks, since they depend on each other, or are none.
    pub packs_all: bool,
    /// Appends its parts to the planes; none where the file's bytes are the device's.
    pub split: Option<fn(&[u8], &mut Planes)>,
}

/// The table, in the order of [`DType::ALL`].
static CODECS: &[Codec] = &[
    plain::F32,
    plain::F16,
    plain::BF16,
    q8::Q8_0,
    q4::Q4_0,
    q4::Q4_1,
    iq4::IQ4_NL,
    q5::Q5_0,
    q5::Q5_1,
    q4_k::Q4_K,
    q4_k::Q5_K,
    q6_k::Q6_K,
    q3_k::Q3_K,
    q2_k::Q2_K,
    iq4::IQ4_XS,
    mxfp4::MXFP4,
    nf4::NF4,
    nf4::NF4_DOUBLE,
];

/// The row of a format.
pub fn codec(dtype: DType) -> &'static Codec {
    &CODECS[dtype as usize]
}

/// Decodes `bytes` of format `dtype` into `out`.
///
/// # Errors
/// [`Error::Shape`] if `bytes` is not exactly what `out.len()` elements take.
pub fn dequantise(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.file_bytes(out.len() as u64) != Some(bytes.len() as u64) {
        let what = format!("{} bytes are not {} elements of {dtype}", bytes.len(), out.len());
        return Err(Error::shape("dequantise", what));
    }
    let unpack = codec(dtype).unpack;
    if dtype.is_quantised() {
        let blocks = bytes.par_chunks_exact(dtype.block_bytes());
        let values = out.par_chunks_exact_mut(dtype.block_elements());
        blocks.zip(values).with_min_len(LEAST).for_each(|(block, out)| unpack(block, out));
    } else {
        unpack(bytes, out);
    }
    Ok(())
}

/// Blocks that are worth a thread.
const LEAST: usize = 4096;

/// Encodes `values` in format `dtype`.
///
/// # Errors
/// [`Error::Shape`] if `values` is no whole number of blocks.
pub fn quantise(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    let elements = dtype.block_elements();
    let Some(bytes) = dtype.file_bytes(values.len() as u64) else {
        let what = format!("{} elements are no whole number of {dtype} blocks of {elements}", values.len());
        return Err(Error::shape("quantise", what));
    };
    let pack = codec(dtype).pack;
    let some = |values: &[f32]| {
        let mut out = Vec::with_capacity(values.len() / elements * dtype.block_bytes());
        values.chunks_exact(elements).for_each(|block| pack(block, &mut out));
        out
    };
    if codec(dtype).packs_all {
        let mut out = Vec::with_capacity(bytes as usize);
        pack(values, &mut out);
        return Ok(out);
    }
    // in pieces, for all threads
    let pieces: Vec<Vec<u8>> = values.par_chunks(elements * PACKED).map(some).collect();
    Ok(pieces.concat())
}

/// Blocks that a thread packs at a time.
const PACKED: usize = 256;

/// Whole blocks of a file's format as the planes of its device format, `None` where they are the same bytes. The first block
/// begins a group of those planes that have something for several blocks.
pub fn split(dtype: DType, bytes: &[u8]) -> Option<Planes> {
    let codec = codec(dtype);
    let split = codec.split?;
    let Layout { planes, .. } = codec.format.layout();
    let some = |piece: &[u8]| {
        let blocks = piece.len() / dtype.block_bytes();
        let mut all: Planes = planes.iter().map(|p| Vec::with_capacity(p.bytes * blocks.div_ceil(p.blocks))).collect();
        piece.chunks_exact(dtype.block_bytes()).for_each(|block| split(block, &mut all));
        all
    };
    let mut whole: Planes = vec![Vec::new(); planes.len()];
    // in pieces, for all threads
    let pieces: Vec<Planes> = bytes.par_chunks(dtype.block_bytes() * LEAST).map(some).collect();
    for piece in pieces {
        whole.iter_mut().zip(piece).for_each(|(all, more)| all.extend(more));
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_types() {
        assert_eq!(CODECS.len(), DType::ALL.len());
        for (codec, dtype) in CODECS.iter().zip(DType::ALL) {
            assert_eq!(codec.dtype, *dtype);
            assert_eq!(codec.format.layout().block, dtype.block_elements(), "{dtype}");
            assert_eq!(codec.split.is_some(), dtype.is_quantised(), "{dtype}");
        }
    }

    #[test]
    fn planes_have_the_bytes_that_their_layout_says() {
        for dtype in DType::ALL.iter().filter(|d| d.is_quantised()) {
            let blocks = LEAST + 65; // more than a piece
            let bytes = vec![0x11; blocks * dtype.block_bytes()];
            let planes = split(*dtype, &bytes).unwrap();
            let format = WeightFormat::of(*dtype);
            let elements = (blocks * dtype.block_elements()) as u64;
            for (i, plane) in planes.iter().enumerate() {
                assert_eq!(plane.len() as u64, format.plane_offset(i, elements), "{dtype} plane {i}");
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert!(quantise(DType::Q8_0, &[0.0; 33]).unwrap_err().to_string().contains("33 elements"));
        let err = dequantise(DType::Q4_0, &[0; 18], &mut [0.0; 64]).unwrap_err().to_string();
        assert!(err.contains("18 bytes are not 64 elements of Q4_0"), "{err}");
        assert!(dequantise(DType::F32, &[0; 5], &mut [0.0; 1]).is_err());
    }
}
