//! Self-attention: grouped queries, rotary positions, causal inside of a segment.

use super::elements::LayerElements;
use super::{Linear, Rope};
use crate::autograd::ops::{self, AttentionInputs, HeadNorms};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::io::config::NormOrder;
use crate::kernels::To;
use crate::kernels::attention::{AttentionShape, Ranges, attention_decode, attention_forward, kv_store};
use crate::kernels::heads::Heads;
use crate::kernels::rope::RopeTable;
use crate::kernels::short_conv::ConvCache;
use crate::tensor::{Element, Tensor};

/// The attention block of a layer.
pub struct Attention {
    pub qkv: Qkv,
    pub o_proj: Linear,
    /// Norms of q and k, where the family has them.
    pub qk_norm: Option<(HeadNorms, NormOrder)>,
    pub shape: AttentionShape,
    pub rope: Rope,
    /// Turns nothing, and multiplies queries by what they grow with their position.
    pub query_growth: Option<RopeTable>,
    /// Whether the model's sliding window holds here.
    pub windowed: bool,
}

/// What makes queries, keys and values.
pub enum Qkv {
    /// `[q_proj, k_proj, v_proj]`
    Apart(Box<[Linear; 3]>),
    /// One linear, whose outputs are q, k and v one behind the other.
    Fused(Box<Linear>),
}

/// What surrounds the tokens of a pass.
#[derive(Clone)]
pub enum Pass {
    /// Whole segments, which see only themselves.
    Segments(Sight),
    /// Segments whose keys and values are also stored in a cache for what follows.
    Prefill(Sight, Box<Cached>),
    /// One new token a sequence, which sees the cache.
    Decode(Cached),
}

/// Who sees whom in segments.
#[derive(Clone)]
pub struct Sight {
    pub full: AttentionInputs,
    /// In layers with the sliding window.
    pub windowed: AttentionInputs,
}

/// Where a pass stores and finds keys and values. All indices `[tokens]` u32, rows of the cache.
#[derive(Clone)]
pub struct Cached {
    /// Keys and values `[cache rows, kv_heads · head_dim]` by layer, as [`Mixer::cache`](super::Mixer::cache) makes them.
    pub layers: Vec<(Tensor, Tensor)>,
    /// The row that each token's key and value go to.
    pub slots: Tensor,
    /// First row that each token sees, the same in layers with the sliding window, and one past the last.
    pub kv_start: Tensor,
    pub windowed_start: Tensor,
    pub kv_end: Tensor,
    /// Tokens of the longest sequence that there is room for.
    pub length: usize,
}

impl Attention {
    /// X `[tokens, hidden]` to `[tokens, hidden]`; `layer` picks the cache.
    pub fn forward(
        &self,
        tape: &mut Tape,
        x: &Var,
        layer: usize,
        positions: &Tensor,
        pass: &Pass,
        elements: LayerElements,
    ) -> Result<Var> {
        let table = self.rope.table(pass.longest());
        let (q, k, v) = self.queries_keys_values(tape, x, table, positions, elements)?;
        let made_of = elements.o_proj;
        let out = match pass {
            Pass::Segments(sight) => ops::attention(tape, &q, &k, &v, sight.of(self.windowed), self.shape, made_of)?,
            Pass::Prefill(sight, cached) => {
                let (q, k, v) = (q.untracked("cache")?, k.untracked("cache")?, v.untracked("cache")?);
                cached.store(layer, k, v)?;
                let (seen, to) = (sight.of(self.windowed), To::activation(made_of));
                let shape = AttentionShape { span: Some(seen.span), ..self.shape };
                Var::constant(attention_forward(q, k, v, seen.keys(), &shape, to, To::default())?.0)
            }
            Pass::Decode(cached) => {
                let (q, k, v) = (q.untracked("cache")?, k.untracked("cache")?, v.untracked("cache")?);
                cached.store(layer, k, v)?;
                let (keys, values) = &cached.layers[layer];
                Var::constant(attention_decode(q, keys, values, cached.seen(self.windowed), &self.shape, None)?)
            }
        };
        self.o_proj.forward(tape, &out)
    }
}

impl Attention {
    /// Normed where the family does so, and turned by their positions.
    fn queries_keys_values(
        &self,
        tape: &mut Tape,
        x: &Var,
        table: &RopeTable,
        positions: &Tensor,
        elements: LayerElements,
    ) -> Result<(Var, Var, Var)> {
        let parts = elements.heads;
        let norms = self.qk_norm.as_ref();
        let first = norms.filter(|(_, order)| *order != NormOrder::HeadsLast).map(|(norms, _)| norms);
        let last = norms.filter(|(_, order)| *order == NormOrder::HeadsLast).map(|(norms, _)| norms);
        // what something else is done with, or is moved one element at a time, is f32
        let turned = if last.is_some() || !table.vec4() { Element::F32 } else { parts };
        let of_queries = if self.query_growth.is_some() { Element::F32 } else { turned };
        let (mut q, mut k, v) = match &self.qkv {
            Qkv::Fused(linear) => {
                let all = linear.forward(tape, x)?;
                tape.enter(|| self.o_proj.parent());
                let gradient = if table.vec4() { elements.qkv } else { Element::F32 };
                let (heads, kv_heads) = (self.shape.heads, self.shape.kv_heads);
                let heads = Heads { heads, kv_heads, table, positions };
                let [q, k, v] = ops::split(tape, &all, first, heads, of_queries, gradient)?;
                (q, k, v)
            }
            Qkv::Apart(linears) => {
                let [q_proj, k_proj, v_proj] = &**linears;
                let (q, k, v) = (q_proj.forward(tape, x)?, k_proj.forward(tape, x)?, v_proj.forward(tape, x)?);
                tape.enter(|| self.o_proj.parent());
                let (q, k) = match first {
                    None => (q, k),
                    Some(n) => {
                        (ops::rmsnorm(tape, &q, &n.q, Element::F32)?, ops::rmsnorm(tape, &k, &n.k, Element::F32)?)
                    }
                };
                let q = ops::rope(tape, &q, table, positions, of_queries)?;
                (q, ops::rope(tape, &k, table, positions, turned)?, v)
            }
        };
        if let Some(norms) = last {
            let of_queries = if self.query_growth.is_some() { Element::F32 } else { parts };
            q = ops::rmsnorm(tape, &q, &norms.q, of_queries)?;
            k = ops::rmsnorm(tape, &k, &norms.k, parts)?;
        }
        if let Some(growth) = &self.query_growth {
            q = ops::rope(tape, &q, growth, positions, parts)?;
        }
        let made = |tape: &mut Tape, x: &Var| ops::made_of(tape, x, parts);
        Ok((made(tape, &q)?, made(tape, &k)?, made(tape, &v)?))
    }
}

impl Pass {
    /// Tokens of the longest sequence: with those to come, where a cache has room for them.
    fn longest(&self) -> usize {
        match self {
            Pass::Segments(sight) => sight.full.span,
            Pass::Prefill(_, cached) => cached.length,
            Pass::Decode(cached) => cached.length,
        }
    }
}

impl Qkv {
    pub fn linears(&self) -> &[Linear] {
        match self {
            Qkv::Apart(linears) => &**linears,
            Qkv::Fused(linear) => std::slice::from_ref(linear),
        }
    }
}

impl Sight {
    fn of(&self, windowed: bool) -> &AttentionInputs {
        if windowed { &self.windowed } else { &self.full }
    }
}

impl Cached {
    fn seen(&self, windowed: bool) -> Ranges<'_> {
        Ranges { start: if windowed { &self.windowed_start } else { &self.kv_start }, end: &self.kv_end }
    }

    /// What a short convolution in layer `layer` sees.
    pub(super) fn short_conv(&self, layer: usize) -> ConvCache<'_> {
        ConvCache { cache: &self.layers[layer].0, start: &self.kv_start, slots: &self.slots }
    }

    fn store(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let (keys, values) = &self.layers[layer];
        kv_store(k, &self.slots, keys)?;
        kv_store(v, &self.slots, values)
    }
}
