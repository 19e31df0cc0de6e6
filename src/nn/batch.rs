//! From a batch in host memory to one on the device, in a single upload.

use super::{Input, Pass};
use crate::autograd::ops::{AttentionInputs, Targets};
use crate::data::Batch;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// A micro-batch on the device.
pub struct DeviceBatch {
    pub input: Input,
    pub targets: Targets,
    /// `[tokens]` u32, see [`Batch::keys`].
    pub keys: Tensor,
}

impl DeviceBatch {
    /// Uploads `batch`. With `window`, a token sees at most that many of the last ones, itself included.
    pub fn upload(device: &Device, batch: &Batch, window: Option<usize>) -> Result<DeviceBatch> {
        let n = batch.len() as u32;
        let window = window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32);
        let kv_start: Vec<u32> =
            (0..n).zip(&batch.segment_start).map(|(t, s)| (*s).max((t + 1).saturating_sub(window))).collect();
        let q_end: Vec<u32> = (0..n).zip(&batch.segment_end).map(|(t, e)| (*e).min(t.saturating_add(window))).collect();
        let kv_end: Vec<u32> = (1..=n).collect();
        let q_start: Vec<u32> = (0..n).collect();
        let [tokens, positions, keys, kv_start, kv_end, q_start, q_end] =
            upload_all(device, [&batch.tokens, &batch.positions, &batch.keys, &kv_start, &kv_end, &q_start, &q_end])?;
        let pass = Pass::Segments(AttentionInputs { kv_start, kv_end, q_start, q_end });
        let targets = Targets::new(device, &batch.targets)?;
        Ok(DeviceBatch { input: Input { tokens, positions, pass }, targets, keys })
    }
}

/// Vectors of equal length as views of one buffer, each at a multiple of 64 elements.
pub fn upload_all<const N: usize>(device: &Device, vectors: [&[u32]; N]) -> Result<[Tensor; N]> {
    let n = vectors[0].len();
    let stride = n.next_multiple_of(64);
    let mut flat = vec![0u32; stride * N];
    for (i, v) in vectors.iter().enumerate() {
        flat[i * stride..][..n].copy_from_slice(v);
    }
    let all = Tensor::from_slice(device, &[flat.len()], &flat, "batch")?;
    let views: Vec<Tensor> = (0..N).map(|i| all.view(i * stride, &[n])).collect::<Result<_>>()?;
    views.try_into().map_err(|_| crate::error::Error::shape("upload", "vectors of different counts"))
}
