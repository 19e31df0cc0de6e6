//! From a batch in host memory to one on the device, in a single upload.

use super::{Input, Pass, Sight};
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
    /// Uploads `batch`. In layers with a sliding window, a token sees `window` tokens, itself included.
    pub fn upload(device: &Device, batch: &Batch, window: Option<usize>) -> Result<DeviceBatch> {
        let n = batch.len() as u32;
        let kv_end: Vec<u32> = (1..=n).collect();
        let q_start: Vec<u32> = (0..n).collect();
        let (starts, ends) = (&batch.segment_start, &batch.segment_end);
        let span = starts.iter().zip(&kv_end).map(|(start, end)| (end - start) as usize).max().unwrap_or(0);
        let [tokens, positions, keys, kv_start, kv_end, q_start, q_end] =
            upload_all(device, [&batch.tokens, &batch.positions, &batch.keys, starts, &kv_end, &q_start, ends])?;
        let full = AttentionInputs { kv_start, kv_end, q_start, q_end, span };
        let windowed = match window {
            None => full.clone(),
            Some(window) => {
                let window = u32::try_from(window).unwrap_or(u32::MAX);
                let start: Vec<u32> =
                    (0..n).zip(starts).map(|(t, s)| (*s).max((t + 1).saturating_sub(window))).collect();
                let end: Vec<u32> = (0..n).zip(ends).map(|(t, e)| (*e).min(t.saturating_add(window))).collect();
                let [kv_start, q_end] = upload_all(device, [&start, &end])?;
                AttentionInputs { kv_start, q_end, span: span.min(window as usize), ..full.clone() }
            }
        };
        let pass = Pass::Segments(Sight { full, windowed });
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
