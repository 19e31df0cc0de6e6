//! The key-value cache: a strip of rows for each sequence of a batch.

use crate::device::Device;
use crate::error::Result;
use crate::nn::{Cached, Decoder};
use crate::tensor::Tensor;

/// Keys and values of `sequences` sequences of up to `length` tokens.
pub(super) struct Cache {
    device: Device,
    layers: Vec<(Tensor, Tensor)>,
    length: usize,
}

impl Cache {
    /// Tokens of a sequence that there is room for.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn new(device: &Device, model: &Decoder, sequences: usize, length: usize) -> Result<Cache> {
        let rows = sequences * length;
        let layers = model.layers.iter().map(|l| l.mixer.cache(device, rows)).collect::<Result<_>>()?;
        Ok(Cache { device: device.clone(), layers, length })
    }

    /// For tokens given as (sequence, position): where they go, and what they see, which in layers with a sliding window
    /// is `window` tokens.
    pub fn places(&self, tokens: &[(usize, usize)], window: Option<usize>) -> Result<Cached> {
        let first = |sequence: usize| (sequence * self.length) as u32;
        let up = |values: Vec<u32>| Tensor::from_slice(&self.device, &[values.len()], &values, "batch");
        let oldest = |p: usize| (p + 1).saturating_sub(window.unwrap_or(usize::MAX)) as u32;
        Ok(Cached {
            layers: self.layers.clone(),
            slots: up(tokens.iter().map(|&(s, p)| first(s) + p as u32).collect())?,
            kv_start: up(tokens.iter().map(|&(s, _)| first(s)).collect())?,
            windowed_start: up(tokens.iter().map(|&(s, p)| first(s) + oldest(p)).collect())?,
            kv_end: up(tokens.iter().map(|&(s, p)| first(s) + p as u32 + 1).collect())?,
            length: self.length,
        })
    }
}
