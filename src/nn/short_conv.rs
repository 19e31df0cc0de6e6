//! A gated short convolution in the place of attention: `out(g · conv(b · x))` with b, g and x of one linear.

use super::elements::LayerElements;
use super::{Linear, Pass};
use crate::autograd::ops::{self, made_of};
use crate::autograd::{Param, Tape, Var};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::short_conv::{ConvCache, short_conv_cached, short_conv_store};

/// The block of a layer without attention.
pub struct ShortConv {
    pub in_proj: Linear,
    /// `[channels, 1, taps]`: a filter for each channel, the newest token last.
    pub filters: Param,
    pub out_proj: Linear,
}

impl ShortConv {
    /// X `[tokens, hidden]` to `[tokens, hidden]`; `layer` picks the cache.
    pub fn forward(&self, tape: &mut Tape, x: &Var, layer: usize, pass: &Pass, elements: LayerElements) -> Result<Var> {
        let bgx = self.in_proj.forward(tape, x)?;
        tape.enter(|| self.in_proj.parent());
        let y = match pass {
            Pass::Segments(sight) => ops::short_conv(tape, &bgx, &self.filters, &sight.full)?,
            Pass::Prefill(_, cached) => self.through(&bgx, cached.short_conv(layer))?,
            Pass::Decode(cached) => self.through(&bgx, cached.short_conv(layer))?,
        };
        let y = made_of(tape, &y, elements.o_proj)?;
        self.out_proj.forward(tape, &y)
    }

    /// Through the cache: what each token needs of those before it is there.
    fn through(&self, bgx: &Var, at: ConvCache<'_>) -> Result<Var> {
        let bgx = bgx.untracked("cache")?;
        short_conv_store(bgx, &self.filters.value, at)?;
        Ok(Var::constant(short_conv_cached(bgx, &self.filters.value, at, To::default())?))
    }
}
