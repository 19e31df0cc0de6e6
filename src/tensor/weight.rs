//! Frozen matrices in any storage format, as kernels decode them (`shaders/lib/weight.wgsl`).

use crate::device::{Buffer, Device, Slice};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};

/// Device layouts, by the number that shaders know them by. GGUF's blocks of 18, 20 and 34 bytes are split into words
/// of codes and words of scales, so that every load is aligned. Q4_0 becomes Q4 with minimum −8·scale, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum WeightFormat {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    Q8 = 3,
    Q4 = 4,
}

impl WeightFormat {
    /// All, for case tables.
    pub const ALL: [WeightFormat; 5] =
        [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16, WeightFormat::Q8, WeightFormat::Q4];

    /// The layout that a file's format is stored in.
    pub fn of(dtype: DType) -> WeightFormat {
        match dtype {
            DType::F32 => WeightFormat::F32,
            DType::F16 => WeightFormat::F16,
            DType::BF16 => WeightFormat::BF16,
            DType::Q8_0 => WeightFormat::Q8,
            DType::Q4_0 | DType::Q4_1 => WeightFormat::Q4,
        }
    }

    /// Whether elements come in blocks with a scale.
    pub fn is_quantised(self) -> bool {
        matches!(self, WeightFormat::Q8 | WeightFormat::Q4)
    }

    /// Whether rows can be put behind `elements` others: where their codes and scales would begin with a word.
    pub fn stacks(self, elements: u64) -> bool {
        match self {
            WeightFormat::F32 => true,
            WeightFormat::F16 | WeightFormat::BF16 => elements.is_multiple_of(2),
            WeightFormat::Q8 => elements.is_multiple_of(64),
            WeightFormat::Q4 => elements.is_multiple_of(32),
        }
    }

    /// Bytes on the device for `elements` elements.
    pub fn bytes(self, elements: u64) -> u64 {
        let bytes = match self {
            WeightFormat::F32 => 4 * elements,
            WeightFormat::F16 | WeightFormat::BF16 => 2 * elements,
            WeightFormat::Q8 => elements + (elements / 32).div_ceil(2) * 4,
            WeightFormat::Q4 => elements / 2 + elements / 32 * 4,
        };
        bytes.next_multiple_of(4)
    }
}

/// A frozen matrix `[rows = out_features, cols = in_features]`.
#[derive(Clone)]
pub struct Weight {
    device: Device,
    buffer: Buffer,
    /// Bytes into the buffer.
    offset: u64,
    format: WeightFormat,
    rows: usize,
    cols: usize,
}

impl Weight {
    /// Uploads a matrix stored in a file's format.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not hold `rows × cols` elements, or rows are no whole number of blocks.
    pub fn upload(device: &Device, dtype: DType, rows: usize, cols: usize, data: &[u8]) -> Result<Weight> {
        let weight = Weight::empty(device, WeightFormat::of(dtype), rows, cols, "weights")?;
        weight.put_rows(0, rows, dtype, data)?;
        Ok(weight)
    }

    /// Uploads `rows` rows in a file's format, from row `first` on: matrices one below the other make one weight so,
    /// where [`WeightFormat::stacks`] allows it.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not hold the rows, or they do not fit there.
    pub fn put_rows(&self, first: usize, rows: usize, dtype: DType, data: &[u8]) -> Result<()> {
        let cols = self.cols;
        let (before, elements) = ((first * cols) as u64, (rows * cols) as u64);
        let fits = cols.is_multiple_of(dtype.block_elements())
            && dtype.file_bytes(elements) == Some(data.len() as u64)
            && WeightFormat::of(dtype) == self.format
            && first + rows <= self.rows
            && self.format.stacks(before);
        if !fits {
            let what = format!("{} bytes for {dtype} [{rows}, {cols}] at row {first} of {}", data.len(), self.rows);
            return Err(Error::shape("weight", what));
        }
        // scales lie behind all codes of the whole weight
        let scales = 4 * u64::from(self.scales_at());
        let put = |at: u64, bytes: &[u8]| match bytes {
            [] => Ok(()),
            bytes => self.device.upload(&self.buffer.range(self.offset + at, bytes.len() as u64), bytes),
        };
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => put(self.format.bytes(before), data),
            DType::Q8_0 => {
                put(before, &q8_codes(data))?;
                put(scales + before / 32 * 2, &q8_scales(data))
            }
            DType::Q4_0 | DType::Q4_1 => {
                let has_minimum = dtype == DType::Q4_1;
                put(before / 2, &q4_codes(data, has_minimum))?;
                put(scales + before / 32 * 4, &q4_scales(data, has_minimum))
            }
        }
    }

    /// Uninitialised.
    pub fn empty(device: &Device, format: WeightFormat, rows: usize, cols: usize, what: &'static str) -> Result<Self> {
        let buffer = device.alloc(format.bytes(rows as u64 * cols as u64).max(4), what)?;
        Ok(Weight { device: device.clone(), buffer, offset: 0, format, rows, cols })
    }

    /// A tensor `[rows, cols]` as a weight that shares its memory.
    ///
    /// # Errors
    /// [`Error::Shape`] for anything but a matrix.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (rows, cols) = tensor.dims2("weight")?;
        let format = match tensor.element() {
            Element::F32 => WeightFormat::F32,
            Element::F16 => WeightFormat::F16,
        };
        Weight::over(tensor, format, rows, cols)
    }

    /// The words of a tensor as a weight that shares its memory.
    ///
    /// # Errors
    /// [`Error::Shape`] where a weight `[rows, cols]` has more words or fewer.
    pub fn over(tensor: &Tensor, format: WeightFormat, rows: usize, cols: usize) -> Result<Self> {
        if format.bytes((rows * cols) as u64) != (tensor.element().bytes() * tensor.len()) as u64 {
            return Err(Error::shape("weight", format!("{:?} as {format:?} [{rows}, {cols}]", tensor.shape())));
        }
        let (buffer, offset) = tensor.memory();
        Ok(Weight { device: tensor.device().clone(), buffer, offset, format, rows, cols })
    }

    /// An f32 weight as a tensor that shares its memory.
    ///
    /// # Errors
    /// [`Error::Shape`] for other formats.
    pub fn as_tensor(&self) -> Result<Tensor> {
        if self.format != WeightFormat::F32 {
            return Err(Error::shape("weight", format!("{:?} is no f32 tensor", self.format)));
        }
        Ok(Tensor::over(&self.device, self.buffer.clone(), self.offset, &[self.rows, self.cols]))
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether another weight or tensor holds the same memory.
    pub fn is_shared(&self) -> bool {
        self.buffer.is_shared()
    }

    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// out_features
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// in_features
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The codes and, behind them, the scales.
    pub fn slice(&self) -> Slice {
        self.buffer.range(self.offset, self.format.bytes(self.rows as u64 * self.cols as u64).max(4))
    }

    /// Where the scales start, in words; 0 without scales.
    pub fn scales_at(&self) -> u32 {
        let elements = self.rows * self.cols;
        match self.format {
            WeightFormat::Q8 => (elements / 4) as u32,
            WeightFormat::Q4 => (elements / 8) as u32,
            _ => 0,
        }
    }
}

/// The codes of blocks of (f16 scale, 32 × i8).
fn q8_codes(data: &[u8]) -> Vec<u8> {
    data.chunks_exact(34).flat_map(|block| &block[2..]).copied().collect()
}

/// Their scales, two a word.
fn q8_scales(data: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = data.chunks_exact(34).flat_map(|block| &block[..2]).copied().collect();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Bytes of scale and minimum before the codes of a block.
fn q4_header(has_minimum: bool) -> usize {
    if has_minimum { 4 } else { 2 }
}

/// The codes, in order, of blocks of (f16 scale, [f16 minimum,] 16 bytes: element i low, i + 16 high).
fn q4_codes(data: &[u8], has_minimum: bool) -> Vec<u8> {
    let header = q4_header(has_minimum);
    let mut out = Vec::with_capacity(data.len());
    for block in data.chunks_exact(header + 16) {
        let codes = &block[header..];
        let nibble = |i: usize| if i < 16 { codes[i] & 15 } else { codes[i - 16] >> 4 };
        out.extend((0..16).map(|byte| nibble(2 * byte) | nibble(2 * byte + 1) << 4));
    }
    out
}

/// Their (scale, minimum).
fn q4_scales(data: &[u8], has_minimum: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() / 4);
    for block in data.chunks_exact(q4_header(has_minimum) + 16) {
        out.extend_from_slice(&block[..2]);
        if has_minimum {
            out.extend_from_slice(&block[2..4]);
        } else {
            let scale = half::f16::from_le_bytes([block[0], block[1]]);
            out.extend_from_slice(&half::f16::from_f32(-8.0 * scale.to_f32()).to_le_bytes());
        }
    }
    out
}
