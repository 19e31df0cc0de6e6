//! How a pass of attention is computed, and in which blocks.

use super::attention_shape::{AttentionShape, Pass, Sizes};
use super::attention_tiled::Tile;
use super::streaming_plan::Words;
use super::target::Target;
use super::tile::Layout;
use super::tuned::{self, Measured};
use super::{attention_coop, attention_simd};
use crate::device::tiles::{Family, Product};
use crate::tensor::Element;
use std::fmt;

/// Rounds of all loops of a thread together: Mesa's software renderer ends them after 65,535, without a word.
const ROUNDS: usize = 50_000;

/// How a pass is computed: on matrix units, in a software renderer's registers, or out of tiles in workgroup memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum AttentionPlan {
    CoopMatrix(attention_coop::Block),
    Registers(attention_simd::Block),
    Tiled(Tile),
}

impl AttentionPlan {
    /// The plan for a pass of these sizes on a device like `target`.
    pub fn choose(target: &Target, pass: Pass, sizes: &Sizes, measured: Measured<'_>) -> AttentionPlan {
        let head_dim = sizes.shape.head_dim;
        let product = || product(target, pass, sizes);
        if let Some(units) = target.used_coop_matrix().filter(|_| target.has_subgroups) {
            let own = attention_coop::Block::choose(units, pass, head_dim);
            return AttentionPlan::CoopMatrix(measured.choose(own, || own.all(pass, head_dim), product));
        }
        if let Some(lanes) = target.lanes.filter(|_| head_dim <= attention_simd::WIDEST) {
            return AttentionPlan::Registers(attention_simd::Block::of(lanes, head_dim));
        }
        let own = Tile::choose(target.class, pass, head_dim);
        AttentionPlan::Tiled(measured.choose(own, || own.choices(head_dim), product))
    }

    /// Rows of a workgroup.
    pub fn rows(&self) -> usize {
        match self {
            AttentionPlan::CoopMatrix(block) => block.rows(),
            AttentionPlan::Registers(block) => block.rows(),
            AttentionPlan::Tiled(tile) => tile.rows(),
        }
    }

    /// How many keys, or for [`Pass::KeyValue`] tokens, one launch may go over.
    pub fn longest(&self, target: &Target, pass: Pass, sizes: &Sizes) -> usize {
        if !target.is_software() {
            return usize::MAX;
        }
        let columns = match self {
            AttentionPlan::CoopMatrix(block) => ROUNDS * block.columns(),
            AttentionPlan::Registers(block) => ROUNDS * block.columns(),
            AttentionPlan::Tiled(tile) => tile.longest(pass, sizes.shape.head_dim, ROUNDS),
        };
        // keys meet all queries that share them
        let each = if pass == Pass::KeyValue { sizes.group() } else { 1 };
        (columns / each).max(1)
    }
}

/// What queries, keys and values are best stored in: f16 where matrix units round them to it anyway.
pub(super) fn operands(target: &Target) -> Element {
    if target.used_coop_matrix().is_some() && target.has_subgroups { Element::F16 } else { Element::F32 }
}

/// How the statistics of the backward passes are made: threads share a row on GPUs, and wherever something is f16. A software
/// renderer wants neither that nor barriers, but words of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeltaPlan {
    pub shared: bool,
    pub words: Words,
}

impl DeltaPlan {
    /// `half`: the output of the forward pass is f16, or a copy of its gradient is to be.
    pub fn choose(target: &Target, half: bool) -> DeltaPlan {
        let shared = half || !target.is_software();
        DeltaPlan { shared, words: Words::choose(target, !shared, half) }
    }
}

impl fmt::Display for DeltaPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", if self.shared { "threads share a row" } else { "a thread a row" }, self.words)
    }
}

/// Threads of a workgroup that attends for one query over a cache, on a software renderer and on GPUs.
pub(super) const DECODE_THREADS: [u32; 2] = [64, 128];

/// One of [`DECODE_THREADS`].
pub(super) fn decode_threads(target: &Target) -> u32 {
    DECODE_THREADS[usize::from(!target.is_software())]
}

impl fmt::Display for AttentionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttentionPlan::CoopMatrix(_) => write!(f, "matrix units, blocks of {} rows", self.rows()),
            AttentionPlan::Registers(_) => write!(f, "registers, blocks of {} rows", self.rows()),
            AttentionPlan::Tiled(_) => write!(f, "workgroup memory, blocks of {} rows", self.rows()),
        }
    }
}

/// A pass of some sizes, for people.
pub(super) struct PassProblem<'a>(pub Pass, pub &'a Sizes);

impl fmt::Display for PassProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PassProblem(pass, sizes) = self;
        let AttentionShape { heads, kv_heads, head_dim, .. } = sizes.shape;
        let (tokens, keys) = (sizes.tokens, sizes.kv_rows);
        write!(f, "attention {pass:?} {tokens} queries, {keys} keys, {heads}/{kv_heads} heads of {head_dim}")
    }
}

/// A pass as the table of measured tiles knows it.
fn product(target: &Target, pass: Pass, sizes: &Sizes) -> Product {
    let AttentionShape { heads, kv_heads, head_dim, span, .. } = sizes.shape;
    let family = match pass {
        Pass::Forward => Family::AttentionForward,
        Pass::Query => Family::AttentionQuery,
        Pass::KeyValue => Family::AttentionKeyValue,
    };
    let element = operands(target);
    let mut product = tuned::product(family, Layout::Nt as u32, [sizes.tokens, heads, head_dim], [element as u32, 0]);
    (product.key.count, product.key.span) = (kv_heads, span.unwrap_or(sizes.kv_rows).min(sizes.kv_rows));
    product.key = product.key.rounded();
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::{Caps, DeviceClass, Feature, Precision};

    #[test]
    fn plans_are_as_they_were_measured_to_be_best() {
        let caps = DryBackend::caps_for_tests();
        let target = |caps: &Caps, precision| Target::new(caps, precision, false);
        let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let units = Caps { fragment: Some(16), features, max_workgroup_memory: 48 << 10, ..caps.clone() };
        let features = vec![Feature::Subgroup, Feature::Int64];
        let class = DeviceClass::Software;
        let software = Caps { class, subgroup_min: 8, subgroup_max: 8, features, ..caps.clone() };
        let plan = |target: &Target, pass, head_dim| {
            let shape = AttentionShape { heads: 8, kv_heads: 4, head_dim, scale: 1.0, softcap: None, span: None };
            let sizes = Sizes { tokens: 2048, kv_rows: 2048, shape };
            let plan = AttentionPlan::choose(target, pass, &sizes, Measured::nothing());
            (plan.to_string(), plan.longest(target, pass, &sizes))
        };
        let text = |what: &str, rows: usize| format!("{what}, blocks of {rows} rows");
        let (discrete, units) = (target(&caps, Precision::F32), target(&units, Precision::F16));
        let software = target(&software, Precision::F32);
        assert_eq!(plan(&discrete, Pass::Forward, 64), (text("workgroup memory", 64), usize::MAX));
        assert_eq!(plan(&discrete, Pass::KeyValue, 64), (text("workgroup memory", 32), usize::MAX));
        assert_eq!(plan(&units, Pass::Forward, 64), (text("matrix units", 64), usize::MAX));
        assert_eq!(plan(&units, Pass::Forward, 128), (text("matrix units", 128), usize::MAX));
        assert_eq!(plan(&software, Pass::Forward, 64), (text("registers", 16), 8 * ROUNDS));
        assert_eq!(plan(&software, Pass::KeyValue, 64), (text("registers", 16), 4 * ROUNDS));
        assert_eq!(plan(&software, Pass::Forward, 256).0, text("workgroup memory", 32));
        assert_eq!([operands(&discrete), operands(&units)], [Element::F32, Element::F16]);
    }
}
