//! Frozen matrices in any storage format, as kernels decode them (`shaders/lib/weight.wgsl`).

use crate::device::{Buffer, Device, Slice};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::quant::{self, WeightFormat};
use crate::tensor::{Element, Tensor};

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
        let put = |at: u64, bytes: &[u8]| match bytes {
            [] => Ok(()),
            bytes => self.device.upload(&self.buffer.range(self.offset + at, bytes.len() as u64), bytes),
        };
        match quant::split(dtype, data) {
            None => put(self.format.plane_offset(0, before), data),
            Some(planes) => planes.into_iter().enumerate().try_for_each(|(i, mut plane)| {
                // a last plane of halves may end within a word
                plane.resize(plane.len().next_multiple_of(4), 0);
                put(self.plane_at(i) + self.format.plane_offset(i, before), &plane)
            }),
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

    /// All planes: the codes and, behind them, the scales.
    pub fn slice(&self) -> Slice {
        self.buffer.range(self.offset, self.format.bytes(self.elements()).max(4))
    }

    /// Where what belongs to the codes starts, in words; 0 in formats without scales.
    pub fn scales_at(&self) -> u32 {
        if self.format.is_quantised() { (self.plane_at(1) / 4) as u32 } else { 0 }
    }

    /// The byte that a plane of its format starts at.
    fn plane_at(&self, i: usize) -> u64 {
        self.format.plane_at(i, self.elements())
    }

    fn elements(&self) -> u64 {
        self.rows as u64 * self.cols as u64
    }
}
