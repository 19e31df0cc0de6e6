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
}

/// Sines and cosines on the device, for positions from 0.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[positions, head_dim]`: cosines, then sines.
    angles: Tensor,
}

impl RopeTable {
    /// A table `[positions, head_dim]` for `inv_freq [head_dim / 2]`, multiplied by `attention_factor` (1 unless the scaling
    /// says otherwise).
    ///
    /// # Errors
    /// [`Error::Shape`] without positions or frequencies; those of an allocation.
    pub fn new(device: &Device, inv_freq: &[f64], positions: usize, attention_factor: f64) -> Result<RopeTable> {
        if positions == 0 || inv_freq.is_empty() {
            return Err(Error::shape("rope", format!("{positions} positions of {} frequencies", inv_freq.len())));
        }
        let row = |t: usize| {
            let of = move |f: fn(f64) -> f64| inv_freq.iter().map(move |w| (f(t as f64 * w) * attention_factor) as f32);
            of(f64::cos).chain(of(f64::sin))
        };
        let table: Vec<f32> = (0..positions).flat_map(row).collect();
        Ok(RopeTable { angles: Tensor::from_slice(device, &[positions, 2 * inv_freq.len()], &table, "rope tables")? })
    }

    /// How many positions the table holds. Larger ones are read as the last: the caller checks.
    pub fn positions(&self) -> usize {
        self.angles.shape()[0]
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.angles.shape()[1]
    }

    pub(super) fn slice(&self) -> Slice {
        self.angles.slice()
    }
}

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
        ..Default::default()
    };
    let vec = vec4(half);
    let spec = spec(vec, halves("rope", &y, half)?);
    let bindings = [table.slice(), positions.slice(), x.slice(), y.slice()];
    let work = tokens * heads * if vec { half / 4 } else { half };
    let cost = streaming(2 * x.len(), 1.5);
    launch(x.device(), &spec, &bindings, &params, work.div_ceil(256) as u64, cost)?;
    Ok(y)
}

fn spec(vec: bool, half: bool) -> KernelSpec {
    KernelSpec::new(&ROPE, [("VEC", vec.into()), ("OUT16", half.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    vec![spec(false, false), spec(true, false), spec(true, true)]
}
