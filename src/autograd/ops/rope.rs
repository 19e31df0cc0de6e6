//! Rotary positions, half-split as Hugging Face stores them. The backward pass rotates the other way.

use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::error::Result;
use crate::kernels;
use crate::tensor::Tensor;

/// Cosines and sines of the angles `position · frequency`: `[positions, head_dim / 2]`.
#[derive(Clone, Debug)]
pub struct Rope {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rope {
    /// Tables for `positions` positions. Angles are made in f64: shaders' own sine and cosine are poor at the large
    /// angles of long sequences on some drivers.
    pub fn new(device: &Device, frequencies: &[f64], positions: usize) -> Result<Rope> {
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..positions)
                .flat_map(|p| frequencies.iter().map(move |w| f(p as f64 * w) as f32))
                .collect();
            Tensor::from_slice(device, &[positions, frequencies.len()], &values, "rotary tables")
        };
        Ok(Rope { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }
}

/// X `[tokens, heads · head_dim]` rotated by each token's position (`[tokens]` u32).
pub fn rope(tape: &mut Tape, x: &Var, rope: &Rope, positions: &Tensor, head_dim: usize) -> Result<Var> {
    let rotate = |x: &Tensor, rope: &Rope, positions: &Tensor, inverse: bool| {
        kernels::rope::rope(x, positions, &rope.cos, &rope.sin, head_dim, inverse)
    };
    let y = rotate(&x.value, rope, positions, false)?;
    let (x, rope, positions) = (x.clone(), rope.clone(), positions.clone());
    Ok(tape.record(y, x.is_tracked(), move |grads, dy| grads.add(&x, rotate(&dy, &rope, &positions, true)?)))
}
