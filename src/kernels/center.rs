//! Rows without their mean: `shaders/center.wgsl`. An RMSNorm of them is a LayerNorm.

use super::output::{To, distinct, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Caps, DeviceClass, Grid, KernelSpec};
use crate::error::Result;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `y = x − mean(x)` over each row.
    CENTER, "center", "center.wgsl", CenterParams, [read("x"), write("y")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct CenterParams {
    grid: Grid,
    rows: u32,
    cols: u32,
}

/// Threads of a row and of a workgroup, by class of device and width.
const SOFTWARE: (u32, u32) = (8, 64);
const NARROW: (u32, u32) = (32, 128);
const WIDE: (u32, u32) = (256, 256);

fn lanes(caps: &Caps, cols: usize) -> (u32, u32) {
    match caps.class {
        DeviceClass::Software => SOFTWARE,
        _ if cols <= 256 => NARROW,
        _ => WIDE,
    }
}

/// `x [rows, cols]` without the mean of each row.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if x is no matrix.
pub fn center(x: &Tensor, to: To<'_>) -> Result<Tensor> {
    let (rows, cols) = x.dims2("center")?;
    let y = to.overwritten(x.device(), "center", x.shape())?;
    distinct("center", &[x], &[&y])?;
    let params = CenterParams { rows: rows as u32, cols: cols as u32, ..Default::default() };
    let lanes = lanes(x.device().caps(), cols);
    let groups = rows.div_ceil((lanes.1 / lanes.0) as usize) as u64;
    let spec = spec(vec4(cols), lanes);
    launch(x.device(), &spec, &[x.slice(), y.slice()], &params, groups, streaming(3 * x.len(), 1.0))?;
    Ok(y)
}

fn spec(vec: bool, (lanes, workgroup): (u32, u32)) -> KernelSpec {
    KernelSpec::new(&CENTER, [("VEC", vec.into()), ("LANES", lanes), ("WG", workgroup)])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    [SOFTWARE, NARROW, WIDE].into_iter().flat_map(|lanes| [false, true].map(|vec| spec(vec, lanes))).collect()
}
