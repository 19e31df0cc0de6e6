//! Products: dense ones in three layouts, the fused RoSA linear, and the masked product (SDDMM by tiles).
//!
//! Each function checks shapes, asks [`ProductPlan::choose`] how the product is computed on this device, and carries that out with
//! the kernels of [`super::matmul`] (tiles in workgroup memory), [`super::simd`] (registers) or [`super::coop`] (matrix units).

use super::parts::in_parts;
use super::plan::{self, Execution, ProductPlan, SparseAt};
use super::problem::{Kind, Linear, LowRank, Problem};
use super::sparse_index::SparseIndex;
use super::spmm::add_sparse_product;
use super::target::Target;
pub use super::tile::Layout;
use super::tuned::Measured;
use super::{coop, decode, launch, library, matmul as tiled, plan_log, simd};
use crate::device::{Cost, Device, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor, Weight, WeightFormat};

/// How the result of a product is written.
#[derive(Clone, Copy)]
pub struct Out<'a> {
    /// Into this tensor instead of a new one.
    pub to: Option<&'a Tensor>,
    /// Add to what is there.
    pub accumulate: bool,
    /// Elements between rows of the output and the first column written, where a part of a wider one is meant.
    pub stride_column: Option<(usize, usize)>,
    pub scale: f32,
    /// Row of the ledger for a new output.
    pub what: &'static str,
}

impl Default for Out<'_> {
    fn default() -> Self {
        Out { to: None, accumulate: false, stride_column: None, scale: 1.0, what: "activations" }
    }
}

impl<'a> Out<'a> {
    /// A new tensor, scaled.
    pub fn scaled(scale: f32) -> Self {
        Out { scale, ..Out::default() }
    }

    /// Adds to `to`.
    pub fn add_to(to: &'a Tensor) -> Self {
        Out { to: Some(to), accumulate: true, ..Out::default() }
    }

    /// Overwrites `to`.
    pub fn into(to: &'a Tensor) -> Self {
        Out { to: Some(to), ..Out::default() }
    }

    /// The tensor to write a result `[m, n]` to, the elements between its rows, and its first column.
    pub(super) fn tensor(
        &self,
        device: &Device,
        op: &'static str,
        m: usize,
        n: usize,
    ) -> Result<(Tensor, (usize, usize))> {
        let (stride, column) = self.stride_column.unwrap_or((n, 0));
        let c = match self.to {
            None => Tensor::empty(device, &[m, stride], self.what)?,
            Some(c) => c.clone(),
        };
        if c.len() != m * stride || column + n > stride || (self.to.is_none() && self.accumulate) {
            return Err(Error::shape(op, format!("output {:?} for [{m}, {n}]", c.shape())));
        }
        Ok((c, (stride, column)))
    }
}

/// An operand as it is stored.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// On matrix units rounded to f16 when it is loaded, if it is not f16 already.
    Tensor(&'a Tensor),
    /// A matrix in [`WeightFormat::F16`].
    Weight(&'a Weight),
}

impl Operand<'_> {
    fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Operand::Tensor(t) => t.dims2("matmul"),
            Operand::Weight(w) if w.format() == WeightFormat::F16 => Ok((w.rows(), w.cols())),
            Operand::Weight(w) => Err(Error::shape("matmul", format!("an operand in {:?}", w.format()))),
        }
    }

    fn slice(&self) -> Slice {
        match self {
            Operand::Tensor(t) => t.slice(),
            Operand::Weight(w) => Slice { half: true, ..w.slice() },
        }
    }

    fn format(&self) -> WeightFormat {
        match self {
            Operand::Tensor(t) => stored(t),
            Operand::Weight(_) => WeightFormat::F16,
        }
    }
}

/// What a tensor holds, as a format.
pub(super) fn stored(t: &Tensor) -> WeightFormat {
    match t.element() {
        Element::F32 => WeightFormat::F32,
        Element::F16 => WeightFormat::F16,
    }
}

/// How the input of a linear with a weight `[out, inn]`, and the gradient of its output, are best stored: as f16 where this
/// device's matrix units take every product of the linear, all of which round them to f16, forward, backward and that of a
/// dense gradient. The low-rank products and the sparse gradient read either.
pub fn operands(device: &Device, tokens: usize, out: usize, inn: usize) -> Element {
    plan::operands(&Target::of(device), tokens, out, inn)
}

/// `C = scale · op(A) · op(B)`, f32. Shapes as in [`Layout`].
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn matmul(layout: Layout, a: &Tensor, b: &Tensor, out: Out<'_>) -> Result<Tensor> {
    let (device, [a, b]) = (a.device(), [Operand::Tensor(a), Operand::Tensor(b)]);
    let (c, problem) = dense(layout, a, b, device, &out)?;
    let plan = choose(device, &problem);
    run_dense(&plan, &problem, [a, b], &c, out)
}

/// [`matmul`] on matrix units, whatever the device's precision.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together, or a length along memory is no multiple of 8;
/// [`Error::Invalid`] on a device without matrix units.
pub fn matmul_on_units(
    layout: Layout,
    a: Operand<'_>,
    b: Operand<'_>,
    device: &Device,
    out: Out<'_>,
) -> Result<Tensor> {
    let target = Target::of(device);
    let Some(units) = target.coop_matrix else {
        return Err(Error::invalid("matmul", format!("{} has no matrix units", device.caps().name)));
    };
    let (c, problem) = dense(layout, a, b, device, &out)?;
    let (stride, column) = problem.stride_column;
    if problem.row_lengths.iter().any(|l| l % 8 != 0) || [stride, column].iter().any(|x| x % 4 != 0) {
        let what = format!("{layout:?} of {:?} and {:?} on matrix units", a.dims()?, b.dims()?);
        return Err(Error::shape("matmul", what));
    }
    let plan = ProductPlan::by(Execution::CoopMatrix(units), &target, &problem, Measured::on(device));
    run_dense(&plan, &problem, [a, b], &c, out)
}

/// The output and the problem of a dense product.
fn dense(layout: Layout, a: Operand<'_>, b: Operand<'_>, device: &Device, out: &Out<'_>) -> Result<(Tensor, Problem)> {
    let ((a0, a1), (b0, b1)) = (a.dims()?, b.dims()?);
    let (m, n, k, k_b) = match layout {
        Layout::Nt => (a0, b0, a1, b1),
        Layout::Nn => (a0, b1, a1, b0),
        Layout::Tn => (a1, b1, a0, b0),
    };
    if k != k_b {
        return Err(Error::shape("matmul", format!("{layout:?} of [{a0}, {a1}] and [{b0}, {b1}]")));
    }
    let (c, stride_column) = out.tensor(device, "matmul", m, n)?;
    let problem = Problem {
        layout,
        shape: [m, n, k],
        row_lengths: [a1, b1],
        formats: [a.format(), b.format()],
        stride_column,
        accumulate: out.accumulate,
        kind: Kind::Dense,
    };
    Ok((c, problem))
}

fn run_dense(
    plan: &ProductPlan,
    problem: &Problem,
    [a, b]: [Operand<'_>; 2],
    c: &Tensor,
    out: Out<'_>,
) -> Result<Tensor> {
    let [m, n, k] = problem.shape.map(|l| l as f64);
    let slices = [a.slice(), b.slice()];
    if plan.execution == Execution::Library {
        library::dense(problem, slices, c, out.scale)?;
        return Ok(c.clone());
    }
    let cost = Cost { flops: 2.0 * m * n * k, bytes: (slices[0].len + slices[1].len) as f64 + 4.0 * m * n };
    let params = plan.params(problem, out.scale);
    in_parts(plan.parts, c, out.scale, out.accumulate, |accumulate, to| {
        let spec = match plan.execution {
            Execution::Tiled | Execution::Library => tiled::dense_spec(plan, problem, accumulate),
            Execution::Registers { lanes } => {
                let loads = simd::Loads::of(c.device(), lanes, plan, problem, &slices, WeightFormat::F32);
                simd::dense_spec(loads, plan, problem, accumulate)
            }
            Execution::CoopMatrix(units) => coop::dense_spec(units, plan, problem, accumulate),
        };
        let [a, b] = slices.clone();
        launch(c.device(), &spec, &[a, b, to.slice()], &params, plan.groups(problem), cost)
    })?;
    Ok(c.clone())
}

/// The plan of this device for `problem`, told to whoever listens.
fn choose(device: &Device, problem: &Problem) -> ProductPlan {
    let plan = ProductPlan::choose(&Target::of(device), problem, Measured::on(device));
    plan_log::tell(problem, &plan);
    plan
}

/// `ds [nnz] += (dYᵀ·X)` at the mask, by whole tiles: dY `[tokens, rows]`, X `[tokens, cols]`. Shapes are the caller's
/// to check.
pub(super) fn masked_product(dy: &Tensor, x: &Tensor, index: &SparseIndex, ds: &Tensor) -> Result<()> {
    let device = dy.device();
    let (tokens, _) = dy.dims2("sddmm")?;
    let (m, n) = (index.rows(), index.cols());
    let problem = Problem {
        layout: Layout::Tn,
        shape: [m, n, tokens],
        row_lengths: [m, n],
        formats: [stored(dy), stored(x)],
        stride_column: (0, 0),
        accumulate: true,
        kind: Kind::Masked,
    };
    let plan = choose(device, &problem);
    let mut params = plan.params(&problem, 1.0);
    (params.bucket_cols, params.s_positions) = (index.bucket_cols() as u32, index.positions_at() as u32);
    params.nnz = index.nnz() as u32;
    let cost = Cost { flops: 2.0 * (m * n) as f64 * tokens as f64, bytes: (dy.slice().len + x.slice().len) as f64 };
    in_parts(plan.parts, ds, 1.0, true, |accumulate, to| {
        let spec = match plan.execution {
            Execution::CoopMatrix(units) => coop::masked_spec(units, &plan, &problem, accumulate),
            _ => tiled::masked_spec(&plan, accumulate),
        };
        let bindings = [dy.slice(), x.slice(), index.tensor().slice(), to.slice()];
        launch(device, &spec, &bindings, &params, plan.groups(&problem), cost)
    })
}

/// The adapter's part in a fused linear.
#[derive(Clone, Copy, Default)]
pub struct Fused<'a> {
    /// Index and values of S `[out, in]`.
    pub sparse: Option<(&'a SparseIndex, &'a Tensor)>,
    /// Forward: U `[tokens, ≥ rank]` (already scaled by s) and B `[out, rank]`. Backward: V `[tokens, ≥ rank]` and A
    /// `[rank, in]`. The number is the first column of U or V that belongs to this linear.
    pub low_rank: Option<(&'a Tensor, usize, &'a Tensor)>,
    /// `[out]`; forward only.
    pub bias: Option<&'a Tensor>,
}

/// Forward `Y = X·(W+S)ᵀ + U·Bᵀ + bias` (`Nt`: X `[tokens, in]` to Y `[tokens, out]`) or backward
/// `dX = dY·(W+S) + V·A` (`Nn`: dY `[tokens, out]` to dX `[tokens, in]`) in one kernel.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rosa_linear(layout: Layout, x: &Tensor, w: &Weight, fused: Fused<'_>, out: Out<'_>) -> Result<Tensor> {
    let device = x.device();
    let (c, problem) = linear(layout, x, w, &fused, &out)?;
    let plan = choose(device, &problem);
    let copy = plan.scratch.map(|to| decode::scratch(&plan, w, fused.sparse, to)).transpose()?;
    let w = copy.as_ref().unwrap_or(w);
    if plan.execution == Execution::Library {
        let added = library::Added { low_rank: fused.low_rank, bias: fused.bias };
        library::linear(&problem, x, w, &added, &c, out.scale)?;
        return Ok(c);
    }
    let operands = LinearOperands::new(x, w, &fused, &plan)?;
    let mut params = plan.params(&problem, out.scale);
    (params.w_scales, params.w_cols) = (w.scales_at(), w.cols() as u32);
    if let Some((index, _)) = operands.sparse {
        (params.bucket_cols, params.s_positions) = (index.bucket_cols() as u32, index.positions_at() as u32);
    }
    let [m, n, k] = problem.shape;
    let cost = Cost {
        flops: 2.0 * (m * n) as f64 * (k + problem.rank()) as f64,
        bytes: (x.slice().len + w.slice().len) as f64 + 4.0 * c.len() as f64,
    };
    in_parts(plan.parts, &c, out.scale, out.accumulate, |accumulate, to| {
        let (spec, bindings) = operands.launch(device, &plan, &problem, accumulate, to.slice());
        launch(device, &spec, &bindings, &params, plan.groups(&problem), cost)
    })?;
    if let (SparseAt::Separate, Some(sparse)) = (plan.sparse, fused.sparse) {
        add_sparse_product(layout, x, sparse, out.scale, (&c, problem.stride_column))?;
    }
    Ok(c)
}

/// The output and the problem of a fused linear, whose operands fit together.
fn linear(layout: Layout, x: &Tensor, w: &Weight, fused: &Fused<'_>, out: &Out<'_>) -> Result<(Tensor, Problem)> {
    const OP: &str = "rosa_linear";
    let refuse = |what: String| Err(Error::shape(OP, what));
    let (m, k) = x.dims2(OP)?;
    let (n, k_w) = match layout {
        Layout::Nt => (w.rows(), w.cols()),
        Layout::Nn => (w.cols(), w.rows()),
        Layout::Tn => return refuse("there is no weight gradient of a frozen weight".into()),
    };
    if k != k_w {
        return refuse(format!("{layout:?} of x {:?} and W [{}, {}]", x.shape(), w.rows(), w.cols()));
    }
    if let Some((index, values)) = fused.sparse {
        let s = (index.rows(), index.cols(), index.nnz());
        if s != (w.rows(), w.cols(), values.len()) {
            return refuse(format!("S [{}, {}] on W [{}, {}]", s.0, s.1, w.rows(), w.cols()));
        }
    }
    let (c, stride_column) = out.tensor(x.device(), OP, m, n)?;
    let low_rank = match fused.low_rank {
        None => None,
        Some((u, column, v)) => {
            let ((u_rows, stride), (v0, v1)) = (u.dims2(OP)?, v.dims2(OP)?);
            let (rank, v_n) = if layout == Layout::Nt { (v1, v0) } else { (v0, v1) };
            if u_rows != m || v_n != n || column + rank > stride {
                return refuse(format!("low-rank {:?} at {column} and {:?} for [{m}, {n}]", u.shape(), v.shape()));
            }
            Some(LowRank { rank, stride, column })
        }
    };
    if let Some(bias) = fused.bias {
        bias.expect_shape(OP, "bias", &[n])?;
    }
    let sparse = fused.sparse.map(|(index, _)| index.nnz());
    let problem = Problem {
        layout,
        shape: [m, n, k],
        row_lengths: [k, w.cols()],
        formats: [stored(x), w.format()],
        stride_column,
        accumulate: out.accumulate,
        kind: Kind::Linear(Linear { sparse, low_rank, bias: fused.bias.is_some() }),
    };
    Ok((c, problem))
}

/// What a fused linear's kernel reads.
struct LinearOperands<'a> {
    x: Slice,
    /// W as the kernel reads it, and its format.
    w: (Slice, WeightFormat),
    /// S, where the kernel adds it.
    sparse: Option<(&'a SparseIndex, &'a Tensor)>,
    u: Slice,
    v: Slice,
    bias: Slice,
    dummy: Slice,
}

impl<'a> LinearOperands<'a> {
    fn new(x: &Tensor, w: &Weight, fused: &Fused<'a>, plan: &ProductPlan) -> Result<Self> {
        let dummy = x.device().dummy()?;
        let or_dummy = |t: Option<&Tensor>| t.map_or(dummy.clone(), Tensor::slice);
        Ok(LinearOperands {
            x: x.slice(),
            w: (w.slice(), w.format()),
            sparse: fused.sparse.filter(|_| plan.sparse == SparseAt::Tile),
            u: or_dummy(fused.low_rank.map(|(u, ..)| u)),
            v: or_dummy(fused.low_rank.map(|(.., v)| v)),
            bias: or_dummy(fused.bias),
            dummy,
        })
    }

    /// The kernel that writes to `to` (or adds to it), and its bindings.
    fn launch(
        &self,
        device: &Device,
        plan: &ProductPlan,
        problem: &Problem,
        accumulate: bool,
        to: Slice,
    ) -> (KernelSpec, Vec<Slice>) {
        let (w, format) = &self.w;
        let variant = plan.variant(problem, *format, accumulate);
        let mut bindings = vec![self.x.clone(), w.clone()];
        let spec = match plan.execution {
            Execution::Registers { lanes } => {
                let loads = simd::Loads::of(device, lanes, plan, problem, &[self.x.clone(), w.clone()], *format);
                simd::rosa_spec(loads, &variant, plan.stores_vec2, plan.low_rank_width >= 2)
            }
            Execution::Tiled | Execution::Library => tiled::rosa_spec(&variant),
            Execution::CoopMatrix(units) => {
                coop::rosa_spec(units, &variant, problem.formats[0] as u32, problem.shape[2])
            }
        };
        if !matches!(plan.execution, Execution::Registers { .. }) {
            let sparse = self.sparse.map(|(index, values)| [index.tensor().slice(), values.slice()]);
            bindings.extend(sparse.unwrap_or_else(|| [self.dummy.clone(), self.dummy.clone()]));
        }
        bindings.extend([self.u.clone(), self.v.clone(), self.bias.clone(), to]);
        (spec, bindings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::{Caps, DeviceClass, Feature};

    #[test]
    fn the_kernels_of_the_plan_are_launched() {
        let caps = DryBackend::caps_for_tests();
        let features = vec![Feature::Subgroup, Feature::Int64];
        let class = DeviceClass::Software;
        let software = Caps { class, subgroup_min: 8, subgroup_max: 8, features, ..caps.clone() };
        let [discrete, software] = [caps, software].map(|caps| Device::new(Box::new(DryBackend::new(caps))));
        let launched = |device: &Device, tokens: usize| {
            let w = Weight::empty(device, WeightFormat::BF16, 256, 128, "test").unwrap();
            let index = SparseIndex::unknown(device, 256, 128, 328).unwrap();
            let values = Tensor::empty(device, &[328], "test").unwrap();
            let x = Tensor::empty(device, &[tokens, 128], "test").unwrap();
            let fused = Fused { sparse: Some((&index, &values)), ..Fused::default() };
            device.note_launches(true);
            rosa_linear(Layout::Nt, &x, &w, fused, Out::default()).unwrap();
            device.note_launches(false).iter().map(|s| s.kernel.name).collect::<Vec<_>>()
        };
        assert_eq!(launched(&discrete, 767), ["rosa_linear"]);
        assert_eq!(launched(&discrete, 768), ["decode_f32", "rosa_linear"]);
        // of 1 % of the entries
        let features = vec![Feature::Gemm];
        let library = Device::new(Box::new(DryBackend::new(Caps { features, ..DryBackend::caps_for_tests() })));
        assert_eq!(launched(&library, 256), ["decode_f32"]);
        assert_eq!(launched(&software, 99), ["rosa_linear_simd", "spmm"]);
        assert_eq!(launched(&software, 100), ["densify", "sparse_add", "rosa_linear_simd"]);
    }
}
