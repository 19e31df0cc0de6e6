//! The operations of the case table at sizes that are worth timing: what `rugosa bench kernels` runs.
//!
//! A row here is an operation of the table with operands of a model's size, without a reference: what it computes is
//! held by the table's rows. Beside it stands the work that cannot be avoided, from which its floor follows.

mod activations;
mod products;
mod short_conv;

use super::Filler;
use crate::device::Cost;
use crate::dtype::DType;
use crate::error::Result;
use crate::io::config::ModelConfig;
use crate::kernels::plan;
use crate::tensor::Element;

/// An operation to time.
pub struct Speed {
    /// The operation's name in the case table; with `what`, the row's name.
    pub op: &'static str,
    /// Shapes, formats, variants.
    pub what: String,
    /// The work that cannot be avoided: the operations of its products, and each operand moved once.
    pub floor: Cost,
    /// `what` of the row of the same operation that this one is compared with.
    pub baseline: Option<String>,
    make: Make,
}

/// A row of operation `op`.
pub fn speed(
    op: &'static str,
    what: impl Into<String>,
    floor: Cost,
    make: impl Fn(&mut Filler) -> Result<Job> + 'static,
) -> Speed {
    Speed { op, what: what.into(), floor, baseline: None, make: Box::new(make) }
}

/// Runs the operation once; records only.
pub type Job = Box<dyn Fn() -> Result<()>>;
type Make = Box<dyn Fn(&mut Filler) -> Result<Job>>;

/// What is timed.
#[derive(Clone, Debug)]
pub struct SpeedSizes {
    /// Models whose layers give the shapes, with the names of the rows.
    pub models: Vec<(&'static str, ModelConfig)>,
    /// Tokens that go through a layer at once.
    pub tokens: usize,
    /// Formats of frozen weights.
    pub weights: Vec<DType>,
    pub rank: usize,
    /// Share of a matrix's entries in its mask.
    pub density: f64,
    /// Sizes of square products.
    pub squares: Vec<usize>,
    /// Whether activations are stored as f16 where a step on matrix units stores them so.
    pub halves: bool,
    /// The shapes that the original's sparse kernels were measured at too: matrices of a model of 7 billion weights.
    pub original: bool,
}

impl SpeedSizes {
    /// What the operands of a linear with a weight `[out, inn]` are made of.
    fn operands(&self, out: usize, inn: usize) -> Element {
        if self.halves { plan::operands_on_units(self.tokens, out, inn) } else { Element::F32 }
    }

    /// What is made of rows of `cols` elements for such linears.
    fn activation(&self, cols: usize) -> Element {
        self.operands(cols, cols)
    }
}

impl Speed {
    /// Compared with the row `what` of the same operation.
    fn over(self, what: String) -> Speed {
        Speed { baseline: Some(what).filter(|w| *w != self.what), ..self }
    }

    /// Makes the operands.
    ///
    /// # Errors
    /// Those of the device.
    pub fn prepare(&self, filler: &mut Filler) -> Result<Job> {
        (self.make)(filler)
    }

    /// Operation, shapes, formats, variants.
    pub fn name(&self) -> String {
        format!("{} {}", self.op, self.what)
    }
}

/// All rows for `sizes`. Shapes that several matrices of a model share are there once.
pub fn speeds(sizes: &SpeedSizes) -> Vec<Speed> {
    let mut all = products::speeds(sizes);
    all.extend(activations::speeds(sizes));
    all.extend(short_conv::speeds(sizes));
    all
}

/// Bytes of so many f32.
fn words(n: usize) -> f64 {
    4.0 * n as f64
}

/// A floor of bytes alone: of so many f32 that are read or written.
fn moved(n: usize) -> Cost {
    Cost { flops: 0.0, bytes: words(n) }
}
