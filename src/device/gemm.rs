//! Dense products by a library of the backend's, where its [`Caps`](super::Caps) have [`Feature::Gemm`](super::Feature::Gemm).

use super::{Device, Slice};
use crate::error::{Error, Result};

/// An operand of a [`Gemm`], row-major; f16 where its slice says so, else f32.
#[derive(Clone)]
pub struct GemmOperand {
    pub slice: Slice,
    /// Elements between rows, and the column where the operand starts.
    pub stride: usize,
    pub column: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

/// `C (+)= scale · op(A) · op(B) + bias`, f32 sums. Operands are both f16 or both f32.
#[derive(Clone)]
pub struct Gemm {
    /// `[m, n, k]`.
    pub shape: [usize; 3],
    pub a: GemmOperand,
    pub b: GemmOperand,
    /// `[m, stride]` of f32, never transposed.
    pub c: GemmOperand,
    /// `[n]` of f32.
    pub bias: Option<Slice>,
    pub scale: f32,
    pub accumulate: bool,
    /// Whether f32 operands may be rounded to as many digits as f16 has.
    pub rounds: bool,
}

impl GemmOperand {
    /// Bytes of an element.
    pub fn element(&self) -> usize {
        if self.slice.half { 2 } else { 4 }
    }

    /// Whether `rows × cols` of it lie inside of its slice.
    fn fits(&self, [rows, cols]: [usize; 2]) -> bool {
        let [rows, cols] = if self.transposed { [cols, rows] } else { [rows, cols] };
        let last = (rows.max(1) - 1) * self.stride + self.column + cols;
        self.column + cols <= self.stride && (last * self.element()) as u64 <= self.slice.len
    }
}

impl Gemm {
    /// That the shapes fit into the slices.
    fn check(&self) -> Result<()> {
        let [m, n, k] = self.shape;
        let bias = self.bias.as_ref().is_none_or(|b| b.len >= 4 * n as u64);
        let kinds = self.a.slice.half == self.b.slice.half && !self.c.slice.half && !self.c.transposed;
        if bias && kinds && self.a.fits([m, k]) && self.b.fits([k, n]) && self.c.fits([m, n]) {
            return Ok(());
        }
        Err(Error::shape("gemm", format!("operands that are no [{m}, {k}] and [{k}, {n}]")))
    }
}

impl Device {
    /// Computes a product with the backend's library.
    ///
    /// # Errors
    /// [`Error::Shape`] where operands do not fit, or there is no such library; those of the backend.
    pub fn gemm(&self, gemm: &Gemm) -> Result<()> {
        gemm.check()?;
        self.note_write(&gemm.c.slice);
        self.0.backend.gemm(gemm)?;
        let look = |watch: std::sync::Arc<super::Watch>| watch.look_at(&*self.0.backend, "gemm", [&gemm.c.slice]);
        self.watched().map_or(Ok(()), look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let device = Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())));
        let operand = |rows: usize, cols: usize| {
            let slice = device.alloc(4 * (rows * cols) as u64, "test").unwrap().range(0, 4 * (rows * cols) as u64);
            GemmOperand { slice, stride: cols, column: 0, transposed: false }
        };
        let (a, b, c) = (operand(64, 32), operand(128, 32), operand(64, 128));
        let b = GemmOperand { transposed: true, ..b };
        let good = Gemm { shape: [64, 128, 32], a, b, c, bias: None, scale: 1.0, accumulate: false, rounds: false };
        device.gemm(&good).unwrap();
        let half = |o: &GemmOperand| GemmOperand { slice: Slice { half: true, ..o.slice.clone() }, ..o.clone() };
        for bad in [
            Gemm { shape: [65, 128, 32], ..good.clone() },
            Gemm { shape: [64, 129, 32], ..good.clone() },
            Gemm { shape: [64, 128, 33], ..good.clone() },
            Gemm { a: half(&good.a), ..good.clone() },
            Gemm { c: half(&good.c), ..good.clone() },
            Gemm { c: GemmOperand { column: 4, ..good.c.clone() }, ..good.clone() },
            // room behind the last row is not the rows' own
            Gemm { c: GemmOperand { column: 64, ..operand(65, 128) }, ..good.clone() },
            Gemm { bias: Some(good.a.slice.clone()), shape: [64, 128, 32], a: operand(63, 32), ..good.clone() },
        ] {
            assert!(matches!(device.gemm(&bad), Err(Error::Shape { .. })), "{:?}", bad.shape);
        }
    }
}
