//! Tensors on the device: contiguous, row-major, 32 bits an element, or 16 where only products read them. Transposition is
//! a flag of the product, not a layout. Quantised and 16-bit weights are a type of their own, [`Weight`].

mod weight;

pub use crate::quant::WeightFormat;
pub use weight::Weight;

use crate::device::{Buffer, Device, Slice};
use crate::error::{Error, Result};
use bytemuck::Pod;

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// `f32`, or `u32` where a function says so.
    #[default]
    F32,
    /// Two a word, in rows of an even length: what only products read that round their operands to f16 anyway. Kernels
    /// refuse it but for variants that say otherwise, see [`Launch`](crate::device::Launch).
    F16,
}

impl Element {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
        }
    }
}

/// A contiguous tensor in device memory.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    buffer: Buffer,
    /// Bytes into the buffer.
    offset: u64,
    shape: Vec<usize>,
    element: Element,
}

impl Tensor {
    /// Uninitialised memory for `shape`; `what` is its row in the ledger.
    ///
    /// # Errors
    /// Those of [`Device::alloc`].
    pub fn empty(device: &Device, shape: &[usize], what: &'static str) -> Result<Tensor> {
        Tensor::empty_of(Element::F32, device, shape, what)
    }

    /// The same of such elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of an odd number of f16; those of [`Device::alloc`].
    pub fn empty_of(element: Element, device: &Device, shape: &[usize], what: &'static str) -> Result<Tensor> {
        check_rows(element, shape)?;
        let bytes = element.bytes() * shape.iter().product::<usize>();
        let buffer = device.alloc(bytes.max(4) as u64, what)?;
        Ok(Tensor { device: device.clone(), buffer, offset: 0, shape: shape.to_vec(), element })
    }

    /// Zeros.
    pub fn zeros(device: &Device, shape: &[usize], what: &'static str) -> Result<Tensor> {
        let t = Tensor::empty(device, shape, what)?;
        t.clear()?;
        Ok(t)
    }

    /// From host memory; `data` holds the elements of `shape`: 4 bytes each, or 2 for f16.
    pub fn from_slice<T: Pod>(device: &Device, shape: &[usize], data: &[T], what: &'static str) -> Result<Tensor> {
        let element = if size_of::<T>() == 2 { Element::F16 } else { Element::F32 };
        let t = Tensor::empty_of(element, device, shape, what)?;
        t.write(data)?;
        Ok(t)
    }

    /// A part of this tensor's memory as a tensor of its own, `start` elements in. The byte offset must suit the
    /// device's alignment of bindings (256 bytes suits all).
    pub fn view(&self, start: usize, shape: &[usize]) -> Result<Tensor> {
        let elements: usize = shape.iter().product();
        let offset = self.offset + (self.element.bytes() * start) as u64;
        if start + elements > self.len() || !offset.is_multiple_of(self.device.caps().storage_alignment) {
            return Err(Error::shape("view", format!("{shape:?} at {start} of {:?}", self.shape)));
        }
        check_rows(self.element, shape)?;
        Ok(Tensor { offset, shape: shape.to_vec(), ..self.clone() })
    }

    /// Rows of a matrix: a view where a binding may start there, else a copy in the ledger's row `what`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no such rows.
    pub fn rows(&self, first: usize, rows: usize, what: &'static str) -> Result<Tensor> {
        let (all, cols) = self.dims2("rows")?;
        if first + rows > all {
            return Err(Error::shape("rows", format!("{first}..{} of {:?}", first + rows, self.shape)));
        }
        let offset = self.offset + (self.element.bytes() * first * cols) as u64;
        if offset.is_multiple_of(self.device.caps().storage_alignment) {
            return self.view(first * cols, &[rows, cols]);
        }
        let copy = Tensor::empty_of(self.element, &self.device, &[rows, cols], what)?;
        self.device.copy(&self.buffer.range(offset, copy.bytes()), &copy.slice())?;
        Ok(copy)
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", format!("{:?} to {shape:?}", self.shape)));
        }
        check_rows(self.element, shape)?;
        Ok(Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn element(&self) -> Element {
        self.element
    }

    /// A tensor of f32 over memory that is there.
    fn over(device: &Device, buffer: Buffer, offset: u64, shape: &[usize]) -> Tensor {
        Tensor { device: device.clone(), buffer, offset, shape: shape.to_vec(), element: Element::F32 }
    }

    /// The buffer, and where in it the elements start, in bytes.
    fn memory(&self) -> (Buffer, u64) {
        (self.buffer.clone(), self.offset)
    }

    /// Whether another tensor holds the same memory.
    pub fn is_shared(&self) -> bool {
        self.buffer.is_shared()
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[rows, cols]` of a matrix; a vector is one row.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than two dimensions.
    pub fn dims2(&self, op: &'static str) -> Result<(usize, usize)> {
        match *self.shape.as_slice() {
            [rows, cols] => Ok((rows, cols)),
            [cols] => Ok((1, cols)),
            _ => Err(Error::shape(op, format!("a matrix was expected, found {:?}", self.shape))),
        }
    }

    /// Checks the shape for `op`'s argument `name`.
    pub fn expect_shape(&self, op: &'static str, name: &str, shape: &[usize]) -> Result<&Self> {
        if self.shape == shape {
            return Ok(self);
        }
        Err(Error::shape(op, format!("{name} has shape {:?}, expected {shape:?}", self.shape)))
    }

    /// Checks the number of elements for `op`'s argument `name`.
    pub fn expect_len(&self, op: &'static str, name: &str, len: usize) -> Result<&Self> {
        if self.len() == len {
            return Ok(self);
        }
        Err(Error::shape(op, format!("{name} has {} elements, expected {len}", self.len())))
    }

    /// Bytes of all elements.
    fn bytes(&self) -> u64 {
        (self.element.bytes() * self.len()) as u64
    }

    /// What a kernel binds: exactly the elements.
    pub fn slice(&self) -> Slice {
        Slice { half: self.element == Element::F16, ..self.buffer.range(self.offset, self.bytes().max(4)) }
    }

    /// Overwrites all elements.
    pub fn write<T: Pod>(&self, data: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        if bytes.len() as u64 != self.bytes() || !self.suits::<T>() {
            return Err(Error::shape("write", format!("{} bytes into {self:?}", bytes.len())));
        }
        if bytes.is_empty() { Ok(()) } else { self.device.upload(&self.slice(), bytes) }
    }

    /// Whether `T` can stand for elements, for several, or for bytes of them.
    fn suits<T>(&self) -> bool {
        size_of::<T>() == 1 || (size_of::<T>() == 2) == (self.element == Element::F16)
    }

    /// Reads all elements back and waits. Not for hot loops.
    ///
    /// # Errors
    /// [`Error::Shape`] if elements are of another size than `T`; those of the device.
    pub fn read<T: Pod>(&self) -> Result<Vec<T>> {
        if !self.suits::<T>() {
            return Err(Error::shape("read", format!("{self:?} as elements of {} bytes", size_of::<T>())));
        }
        if self.is_empty() {
            return Ok(Vec::new());
        }
        Ok(bytemuck::pod_collect_to_vec(&self.device.download(&self.slice())?))
    }

    /// Sets all elements to zero.
    pub fn clear(&self) -> Result<()> {
        self.device.clear(&self.slice())
    }

    /// A copy in memory of its own.
    pub fn duplicate(&self, what: &'static str) -> Result<Tensor> {
        let t = Tensor::empty_of(self.element, &self.device, &self.shape, what)?;
        self.device.copy(&self.slice(), &t.slice())?;
        Ok(t)
    }

    /// The same activation, which nobody else holds: a copy, where somebody does.
    pub fn unshared(self) -> Result<Tensor> {
        if self.is_shared() { self.duplicate("activations") } else { Ok(self) }
    }
}

/// Refuses rows of an odd number of f16.
fn check_rows(element: Element, shape: &[usize]) -> Result<()> {
    match shape.last() {
        Some(cols) if element == Element::F16 && cols % 2 == 1 => {
            Err(Error::shape("tensor", format!("rows of f16 are of an even length, those of {shape:?} are not")))
        }
        _ => Ok(()),
    }
}

impl std::fmt::Debug for Tensor {
    /// The shape; contents are on the device.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let element = if self.element == Element::F16 { " of f16" } else { "" };
        write!(f, "Tensor{:?}{element}", self.shape)
    }
}
