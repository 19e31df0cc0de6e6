//! Rotary position embedding: `shaders/rope.wgsl`. What turns the parts of one matrix is in [`super::heads`].
//!
//! Angles come from a table made on the host: WGSL promises sine and cosine only for arguments in [−π, π], and an f32
//! product of a position near 131,072 with a frequency is off by up to 4·10⁻³ radians. In f64 on the host both are
//! exact to an f32's last bit, and a load is cheaper than a sine.

use super::output::{To, distinct, halves, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Device, Grid, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Turned copies of the heads.
    ROPE, "rope", "rope.wgsl", RopeParams, [read("angles"), read("at"), read("x"), write("y").half_if("OUT16")]
);
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RopeParams {
    grid: Grid,
    tokens: u32,
    heads: u32,
    half: u32,
    positions: u32,
    sign: f32,
    turned: u32,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Those that are half of what turns apart.
    #[default]
    Halves,
    /// Neighbours.
    Neighbours,
}

/// Sines and cosines on the device, for positions from 0.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[positions, head_dim]`: cosines, then sines.
    angles: Tensor,
    layout: RopeLayout,
    /// Pairs of elements that turn; the others have an angle of zero.
    turned: usize,
}

impl RopeTable {
    /// A table `[positions, head_dim]` for `inv_freq [head_dim / 2]`, multiplied by `attention_factor` (1 unless the scaling
    /// says otherwise).
    ///
    /// # Errors
    /// [`Error::Shape`] without positions or frequencies; those of an allocation.
    pub fn new(device: &Device, inv_freq: &[f64], positions: usize, attention_factor: f64) -> Result<RopeTable> {
        RopeTable::partial(device, inv_freq, 2 * inv_freq.len(), RopeLayout::Halves, positions, attention_factor)
    }

    /// The same for heads of which the first `2 · inv_freq.len()` elements turn.
    ///
    /// # Errors
    /// As [`RopeTable::new`]; [`Error::Shape`] for more frequencies than a head has pairs.
    pub fn partial(
        device: &Device,
        inv_freq: &[f64],
        head_dim: usize,
        layout: RopeLayout,
        positions: usize,
        attention_factor: f64,
    ) -> Result<RopeTable> {
        let at = |t: usize, j: usize| match inv_freq.get(j) {
            Some(w) => (t as f64 * w).sin_cos(),
            None => (0.0, 1.0),
        };
        let factor = |j: usize| if j < inv_freq.len() { attention_factor } else { 1.0 };
        let pair = |t: usize, j: usize| {
            let (sin, cos) = at(t, j);
            [cos * factor(j), sin * factor(j)]
        };
        if inv_freq.is_empty() || 2 * inv_freq.len() > head_dim {
            return Err(Error::shape("rope", format!("{} frequencies of heads of {head_dim}", inv_freq.len())));
        }
        RopeTable::of(device, head_dim, positions, pair).map(|table| RopeTable {
            layout,
            turned: inv_freq.len(),
            ..table
        })
    }

    /// A table that turns nothing and multiplies by `factor`, a function of the position; the last one that it is given
    /// for holds for all behind it.
    ///
    /// # Errors
    /// As [`RopeTable::new`].
    pub fn scaling(
        device: &Device,
        head_dim: usize,
        positions: usize,
        factor: impl Fn(usize) -> f64,
    ) -> Result<RopeTable> {
        RopeTable::of(device, head_dim, positions, |t, _| [factor(t), 0.0])
    }

    /// `pair`: cosine and sine by position and pair.
    fn of(
        device: &Device,
        head_dim: usize,
        positions: usize,
        pair: impl Fn(usize, usize) -> [f64; 2],
    ) -> Result<RopeTable> {
        let half = head_dim / 2;
        if positions == 0 || half == 0 {
            return Err(Error::shape("rope", format!("{positions} positions of {half} frequencies")));
        }
        let mut table = Vec::with_capacity(positions * 2 * half);
        for t in 0..positions {
            for part in [0, 1] {
                table.extend((0..half).map(|j| pair(t, j)[part] as f32));
            }
        }
        let angles = Tensor::from_slice(device, &[positions, 2 * half], &table, "rope tables")?;
        Ok(RopeTable { angles, layout: RopeLayout::Halves, turned: half })
    }

    /// How many positions the table holds. Larger ones are read as the last: the caller checks.
    pub fn positions(&self) -> usize {
        self.angles.shape()[0]
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.angles.shape()[1]
    }

    /// How many pairs of elements turn, at most: half a head.
    pub(super) fn turned(&self) -> usize {
        self.turned
    }

    /// The constant that specialises shaders, see `shaders/lib/turned.wgsl`.
    pub(super) fn layout(&self) -> u32 {
        match self.layout {
            RopeLayout::Neighbours => NEIGHBOURS,
            RopeLayout::Halves if 2 * self.turned < self.head_dim() => PART,
            RopeLayout::Halves => HALVES,
        }
    }

    /// Whether kernels move four elements at a time, as they must for such of f16.
    pub fn vec4(&self) -> bool {
        vec4(self.head_dim() / 2) && (self.layout() != PART || vec4(self.turned))
    }

    pub(super) fn slice(&self) -> Slice {
        self.angles.slice()
    }
}

/// Values of LAYOUT.
pub(super) const HALVES: u32 = 0;
const PART: u32 = 1;
const NEIGHBOURS: u32 = 2;
pub(super) const LAYOUTS: [u32; 3] = [HALVES, PART, NEIGHBOURS];

/// The direction of the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Forward,
    /// The backward: a rotation's transpose turns back.
    Back,
}

/// Turned copies: x `[tokens, heads · head_dim]`, positions u32 `[tokens]`; f16 if that is asked for, and half a head is a
/// multiple of 4 long.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together.
pub fn rope(x: &Tensor, table: &RopeTable, positions: &Tensor, turn: Turn, to: To<'_>) -> Result<Tensor> {
    let y = to.overwritten(x.device(), "rope", x.shape())?;
    distinct("rope", &[x, positions], &[&y])?;
    let (tokens, cols) = x.dims2("rope")?;
    let head_dim = table.head_dim();
    positions.expect_shape("rope", "positions", &[tokens])?;
    if !cols.is_multiple_of(head_dim) {
        return Err(Error::shape("rope", format!("x {:?} is no whole number of heads of {head_dim}", x.shape())));
    }
    let (heads, half) = (cols / head_dim, head_dim / 2);
    let params = RopeParams {
        tokens: tokens as u32,
        heads: heads as u32,
        half: half as u32,
        positions: table.positions() as u32,
        sign: if turn == Turn::Forward { 1.0 } else { -1.0 },
        turned: table.turned() as u32,
        ..Default::default()
    };
    let vec = table.vec4();
    // one element at a time where half a head is so long that halves are refused
    let half16 = halves("rope", &y, if vec { half } else { 1 })?;
    let bindings = [table.slice(), positions.slice(), x.slice(), y.slice()];
    let work = tokens * heads * if vec { half / 4 } else { half };
    let cost = streaming(2 * x.len(), 1.5);
    let spec = spec(vec, half16, table.layout());
    launch(x.device(), &spec, &bindings, &params, work.div_ceil(256) as u64, cost)?;
    Ok(y)
}

fn spec(vec: bool, half: bool, layout: u32) -> KernelSpec {
    KernelSpec::new(&ROPE, [("VEC", vec.into()), ("OUT16", half.into()), ("LAYOUT", layout)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let each = |layout| [spec(false, false, layout), spec(true, false, layout), spec(true, true, layout)];
    LAYOUTS.into_iter().flat_map(each).collect()
}
