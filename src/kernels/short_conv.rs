//! A gated short convolution over the tokens of each segment, channel by channel: `shaders/short_conv.wgsl` has the formula,
//! `short_conv_backward.wgsl` and `short_conv_weight.wgsl` its gradients. For generation, what it sees of each token lies in a cache,
//! where `short_conv_store.wgsl` puts it.

use super::output::{To, distinct, groups, streaming};
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// `y = g · conv(b · x)` inside of segments.
    SHORT_CONV, "short_conv", "short_conv.wgsl", ShortConvParams,
    [read("bgx"), read("w"), read("start"), write("y")]
);

kernel!(
    /// The same where `b · x` of the tokens before lies in a cache.
    SHORT_CONV_CACHED, "short_conv_cached", "short_conv.wgsl", ShortConvParams,
    [read("bgx"), read("w"), read("start"), read("slots"), read("cache"), write("y")]
);

kernel!(
    /// `b · x` into a cache.
    SHORT_CONV_STORE, "short_conv_store", "short_conv_store.wgsl", StoreParams,
    [read("bgx"), read("slots"), write("cache")]
);

kernel!(
    /// The gradient of b, g and x.
    SHORT_CONV_BACKWARD, "short_conv_backward", "short_conv_backward.wgsl", BackwardParams,
    [read("bgx"), read("w"), read("start"), read("end"), read("dy"), write("d")]
);

kernel!(
    /// Adds the gradient of the filters.
    SHORT_CONV_WEIGHT, "short_conv_weight", "short_conv_weight.wgsl", BackwardParams,
    [read("bgx"), read("start"), read("dy"), write("dw")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ShortConvParams {
    grid: Grid,
    tokens: u32,
    channels: u32,
    taps: u32,
    rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct StoreParams {
    grid: Grid,
    tokens: u32,
    channels: u32,
    rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct BackwardParams {
    grid: Grid,
    tokens: u32,
    channels: u32,
    taps: u32,
}

/// The segment of each token: u32 `[tokens]` each.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// Its first token.
    pub start: &'a Tensor,
    /// One past its last.
    pub end: &'a Tensor,
}

/// Where what a short convolution sees of each token lies.
#[derive(Clone, Copy, Debug)]
pub struct ConvCache<'a> {
    /// `[rows, channels]`
    pub cache: &'a Tensor,
    /// First row that each token sees, and its own: u32 `[tokens]`.
    pub start: &'a Tensor,
    pub slots: &'a Tensor,
}

struct Sizes {
    tokens: usize,
    channels: usize,
    taps: usize,
}

impl Sizes {
    fn check(op: &'static str, bgx: &Tensor, w: &Tensor) -> Result<Sizes> {
        let (tokens, width) = bgx.dims2(op)?;
        let channels = width / 3;
        let taps = w.len() / channels.max(1);
        if channels == 0 || taps == 0 || 3 * channels != width || u32::try_from(bgx.len()).is_err() {
            return Err(Error::shape(op, format!("rows of {width} elements, {} in all", bgx.len())));
        }
        w.expect_shape(op, "filters", &[channels, 1, taps])?;
        Ok(Sizes { tokens, channels, taps })
    }

    fn params(&self, rows: usize) -> ShortConvParams {
        ShortConvParams {
            tokens: self.tokens as u32,
            channels: self.channels as u32,
            taps: self.taps as u32,
            rows: rows as u32,
            ..Default::default()
        }
    }

    fn backward(&self) -> BackwardParams {
        BackwardParams {
            tokens: self.tokens as u32,
            channels: self.channels as u32,
            taps: self.taps as u32,
            ..Default::default()
        }
    }
}

/// `bgx [tokens, 3 · channels]`, rows b | g | x, and filters `w [channels, 1, taps]` to `[tokens, channels]`. A token sees its segment
/// from `start` (u32 `[tokens]`) on.
///
/// # Errors
/// [`Error::Shape`] for tensors that do not fit together.
pub fn short_conv(bgx: &Tensor, w: &Tensor, start: &Tensor, to: To<'_>) -> Result<Tensor> {
    const OP: &str = "short_conv";
    let sizes = Sizes::check(OP, bgx, w)?;
    start.expect_shape(OP, "start", &[sizes.tokens])?;
    let y = to.overwritten(bgx.device(), OP, &[sizes.tokens, sizes.channels])?;
    distinct(OP, &[bgx, w, start], &[&y])?;
    let bindings = [bgx, w, start, &y].map(Tensor::slice);
    let cost = streaming(bgx.len() + y.len(), sizes.taps as f64);
    launch(bgx.device(), &spec(), &bindings, &sizes.params(0), groups(y.len(), false), cost)?;
    Ok(y)
}

/// The same for tokens whose segments lie in a cache, with [`short_conv_store`] done before.
///
/// # Errors
/// As [`short_conv`].
pub fn short_conv_cached(bgx: &Tensor, w: &Tensor, at: ConvCache<'_>, to: To<'_>) -> Result<Tensor> {
    const OP: &str = "short_conv_cached";
    let sizes = Sizes::check(OP, bgx, w)?;
    let rows = at.check(OP, &sizes)?;
    at.start.expect_shape(OP, "start", &[sizes.tokens])?;
    let y = to.overwritten(bgx.device(), OP, &[sizes.tokens, sizes.channels])?;
    distinct(OP, &[bgx, w, at.start, at.slots, at.cache], &[&y])?;
    let bindings = [bgx, w, at.start, at.slots, at.cache, &y].map(Tensor::slice);
    let cost = streaming(bgx.len() + y.len(), sizes.taps as f64);
    launch(bgx.device(), &cached_spec(), &bindings, &sizes.params(rows), groups(y.len(), false), cost)?;
    Ok(y)
}

/// Puts `b · x` of each token into its row of the cache; one whose slot is past the cache is not stored.
///
/// # Errors
/// As [`short_conv`].
pub fn short_conv_store(bgx: &Tensor, w: &Tensor, at: ConvCache<'_>) -> Result<()> {
    const OP: &str = "short_conv_store";
    let sizes = Sizes::check(OP, bgx, w)?;
    let rows = at.check(OP, &sizes)?;
    distinct(OP, &[bgx, at.slots], &[at.cache])?;
    let params = StoreParams {
        tokens: sizes.tokens as u32,
        channels: sizes.channels as u32,
        rows: rows as u32,
        ..Default::default()
    };
    let bindings = [bgx, at.slots, at.cache].map(Tensor::slice);
    let n = sizes.tokens * sizes.channels;
    launch(bgx.device(), &store_spec(), &bindings, &params, groups(n, false), streaming(3 * n, 1.0))
}

impl ConvCache<'_> {
    /// Rows of the cache.
    fn check(&self, op: &'static str, sizes: &Sizes) -> Result<usize> {
        let (rows, _) = self.cache.dims2(op)?;
        self.cache.expect_shape(op, "cache", &[rows, sizes.channels])?;
        self.slots.expect_shape(op, "slots", &[sizes.tokens])?;
        if rows == 0 || u32::try_from(self.cache.len()).is_err() {
            return Err(Error::shape(op, format!("a cache of {rows} rows")));
        }
        Ok(rows)
    }
}

/// The gradient `[tokens, 3 · channels]` of b, g and x from `dy [tokens, channels]`.
///
/// # Errors
/// As [`short_conv`].
pub fn short_conv_backward(bgx: &Tensor, w: &Tensor, at: Segments<'_>, dy: &Tensor, to: To<'_>) -> Result<Tensor> {
    const OP: &str = "short_conv_backward";
    let sizes = Sizes::check(OP, bgx, w)?;
    at.start.expect_shape(OP, "start", &[sizes.tokens])?;
    at.end.expect_shape(OP, "end", &[sizes.tokens])?;
    dy.expect_shape(OP, "dy", &[sizes.tokens, sizes.channels])?;
    let d = to.overwritten(bgx.device(), OP, bgx.shape())?;
    distinct(OP, &[bgx, w, at.start, at.end, dy], &[&d])?;
    let bindings = [bgx, w, at.start, at.end, dy, &d].map(Tensor::slice);
    let cost = streaming(bgx.len() + dy.len() + d.len(), 2.0 * sizes.taps as f64);
    launch(bgx.device(), &backward_spec(), &bindings, &sizes.backward(), groups(dy.len(), false), cost)?;
    Ok(d)
}

/// Adds the gradient of the filters to `dw [channels, 1, taps]`.
///
/// # Errors
/// As [`short_conv`].
pub fn short_conv_weight(bgx: &Tensor, start: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    const OP: &str = "short_conv_weight";
    let sizes = Sizes::check(OP, bgx, dw)?;
    start.expect_shape(OP, "start", &[sizes.tokens])?;
    dy.expect_shape(OP, "dy", &[sizes.tokens, sizes.channels])?;
    distinct(OP, &[bgx, start, dy], &[dw])?;
    let bindings = [bgx, start, dy, dw].map(Tensor::slice);
    let cost = streaming(sizes.taps * (bgx.len() + dy.len()), 1.0);
    launch(bgx.device(), &weight_spec(), &bindings, &sizes.backward(), dw.len().div_ceil(64) as u64, cost)
}

fn spec() -> KernelSpec {
    KernelSpec::new(&SHORT_CONV, [("CACHED", 0)])
}

fn cached_spec() -> KernelSpec {
    KernelSpec::new(&SHORT_CONV_CACHED, [("CACHED", 1)])
}

fn store_spec() -> KernelSpec {
    KernelSpec::new(&SHORT_CONV_STORE, [])
}

fn backward_spec() -> KernelSpec {
    KernelSpec::new(&SHORT_CONV_BACKWARD, [])
}

fn weight_spec() -> KernelSpec {
    KernelSpec::new(&SHORT_CONV_WEIGHT, [])
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    vec![spec(), cached_spec(), store_spec(), backward_spec(), weight_spec()]
}
