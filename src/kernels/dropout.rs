//! Dropout whose mask is made again instead of kept: `shaders/dropout.wgsl`.

use super::output::{To, distinct, streaming, vec4};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `y (+)= x∘D / (1 − p)`.
    DROPOUT, "dropout", "dropout.wgsl", DropoutParams, [read("x"), read("keys"), write("y")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DropoutParams {
    grid: Grid,
    rows: u32,
    cols: u32,
    seed_a: u32,
    seed_b: u32,
    threshold: u32,
    scale: f32,
}

/// Which mask is meant; each field changes all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of elements that is dropped, in `[0, 1)`.
    pub p: f32,
    /// Of the run.
    pub seed: u32,
    /// Of the module.
    pub stream: u32,
    /// Of the optimiser.
    pub step: u32,
}

impl Dropout {
    /// Two words of (seed, stream, step). Each step of the chain is a bijection, so for a given seed no two streams of a
    /// step, and no two steps of a stream, share the first.
    fn words(&self) -> (u32, u32) {
        let chain = |start: u32| {
            let h = mix(self.seed ^ start);
            let h = mix((h ^ self.stream).wrapping_add(0x9e37_79b9));
            mix((h ^ self.step).wrapping_add(0x85eb_ca6b))
        };
        (chain(0x243f_6a88), chain(0xb7e1_5162))
    }
}

/// As in the shader.
fn mix(mut h: u32) -> u32 {
    h = (h ^ h >> 16).wrapping_mul(0x7feb_352d);
    h = (h ^ h >> 15).wrapping_mul(0x846c_a68b);
    h ^ h >> 16
}

/// `y = x∘D / (1 − p)`, or `y += …` with [`To::AddTo`]: the backward, with the mask of the forward. x `[rows, cols]`;
/// keys u32 `[rows]`, one a token, distinct in a step.
///
/// # Errors
/// [`Error::Invalid`] if p is not in `[0, 1)`; [`Error::Shape`] if the operands do not fit together.
pub fn dropout(x: &Tensor, keys: &Tensor, dropout: Dropout, y: To<'_>) -> Result<Tensor> {
    let op = "dropout";
    let (rows, cols) = x.dims2(op)?;
    keys.expect_shape(op, "keys", &[rows])?;
    if !(0.0..1.0).contains(&dropout.p) {
        return Err(Error::option("dropout", format!("{} is not in 0 ≤ p < 1", dropout.p)));
    }
    let accumulate = y.accumulates();
    let y = y.tensor(x.device(), op, x.shape())?;
    distinct(op, &[x, keys], &[&y])?;
    let (seed_a, seed_b) = dropout.words();
    let p = f64::from(dropout.p);
    let params = DropoutParams {
        rows: rows as u32,
        cols: cols as u32,
        seed_a,
        seed_b,
        threshold: (p * 2f64.powi(32)) as u32,
        scale: (1.0 / (1.0 - p)) as f32,
        ..Default::default()
    };
    let vec = vec4(cols);
    let work = if vec { x.len() / 4 } else { x.len() };
    let bindings = [x.slice(), keys.slice(), y.slice()];
    let cost = streaming(2 * x.len(), 8.0);
    launch(x.device(), &spec(vec, accumulate), &bindings, &params, work.div_ceil(256) as u64, cost)?;
    Ok(y)
}

fn spec(vec: bool, accumulate: bool) -> KernelSpec {
    KernelSpec::new(&DROPOUT, [("VEC", vec.into()), ("ACCUMULATE", accumulate.into())])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    [(false, false), (false, true), (true, false), (true, true)].map(|(vec, accumulate)| spec(vec, accumulate)).into()
}
