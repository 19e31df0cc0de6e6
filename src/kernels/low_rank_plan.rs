//! How the products of low-rank adapters are computed, and into how many workgroups and parts they are cut.

use super::low_rank_blocks::{BlocksParams, MOST};
use super::low_rank_coop::{Cut, Shape};
use super::plan::COOP_LEAST;
use super::target::Target;
use crate::tensor::Element;
use std::fmt;

/// How the product of a wide matrix, X or dY, with a narrow one is computed.
#[derive(Clone, Copy, Debug)]
pub(super) enum LowRankPlan {
    /// As a product like any other, by [`super::product`]: on software renderers, where computing is what costs.
    Product,
    /// On matrix units.
    CoopMatrix(Shape, Cut),
    /// By kernels that move the wide matrix once. Of a projection, tokens of a workgroup; and columns of a thread.
    Streaming { tokens: u32, columns: u32, cut: Cut },
}

impl LowRankPlan {
    /// Whether a product of a wide matrix of such elements is left to [`super::product`].
    pub fn is_product(target: &Target, wide: Element) -> bool {
        target.is_software() && wide == Element::F32
    }

    /// The plan for U or V.
    pub fn projection(target: &Target, wide: Element, p: &BlocksParams) -> LowRankPlan {
        if LowRankPlan::is_product(target, wide) {
            return LowRankPlan::Product;
        }
        match coop_shape(target, wide, p, false) {
            Some(shape) => LowRankPlan::CoopMatrix(shape, shape.work(p)),
            None => streaming_projection(p),
        }
    }

    /// The plan for dA or dB.
    pub fn gradient(target: &Target, wide: Element, p: &BlocksParams) -> LowRankPlan {
        if LowRankPlan::is_product(target, wide) {
            return LowRankPlan::Product;
        }
        match coop_shape(target, wide, p, true) {
            Some(shape) => LowRankPlan::CoopMatrix(shape, shape.work(p)),
            None => streaming_gradient(p),
        }
    }
}

/// What a workgroup on matrix units does, if they should make the products of these blocks with a wide matrix of such elements.
pub(super) fn coop_shape(target: &Target, wide: Element, p: &BlocksParams, gradient: bool) -> Option<Shape> {
    let units = target.used_coop_matrix()?;
    let suits =
        p.tokens as usize >= COOP_LEAST && p.first.iter().chain(&p.end).chain([&p.width]).all(|x| x.is_multiple_of(8));
    suits.then(|| Shape::of(units, wide, p, gradient))
}

/// Threads of a workgroup of the projection.
const THREADS: usize = 64;
/// Workgroups that keep a large GPU's memory busy: of the projection, and of the gradient, which are larger.
const FILL: usize = 768;
const GRADIENT_FILL: usize = 384;
/// Columns that a thread of the projection, and of the gradient, holds.
pub(super) const PROJECT_COLS: [u32; 6] = [1, 2, 3, 4, 6, 9];
pub(super) const GRADIENT_COLS: [u32; 6] = [4, 8, 12, 16, 20, 24];

fn streaming_projection(p: &BlocksParams) -> LowRankPlan {
    // narrow rows leave few steps of k, so that many workgroups count for more than few loads
    let tokens: usize = if p.width >= 2048 { 64 } else { 32 };
    let widest = p.cols.iter().max().copied().unwrap_or(1);
    let groups_of_columns = (THREADS / (tokens / 4)) as u32;
    let needed = widest.div_ceil(groups_of_columns);
    let columns = *PROJECT_COLS.iter().find(|c| **c >= needed).unwrap_or(&PROJECT_COLS[PROJECT_COLS.len() - 1]);
    let pieces: u32 = p.cols.iter().map(|c| c.div_ceil(groups_of_columns * columns)).sum();
    let tiles = (p.tokens as usize).div_ceil(tokens) * pieces as usize;
    let longest = (0..MOST).map(|i| p.end[i] - p.first[i]).max().unwrap_or(0) as usize;
    let parts = FILL.div_ceil(tiles.max(1)).min(longest / 128).clamp(1, 16);
    LowRankPlan::Streaming { tokens: tokens as u32, columns, cut: Cut { tiles, parts } }
}

fn streaming_gradient(p: &BlocksParams) -> LowRankPlan {
    let widest = p.cols.iter().max().copied().unwrap_or(1);
    let most = GRADIENT_COLS[GRADIENT_COLS.len() - 1];
    // as many pieces as needed, all of one width
    let needed = widest.div_ceil(widest.div_ceil(most).max(1));
    let columns = *GRADIENT_COLS.iter().find(|c| **c >= needed).unwrap_or(&most);
    let of = |i: usize| (p.end[i] - p.first[i]).div_ceil(256) * p.cols[i].div_ceil(columns);
    let tiles = (0..MOST).map(of).sum::<u32>() as usize;
    let parts = GRADIENT_FILL.div_ceil(tiles.max(1)).min(p.tokens as usize / 64).clamp(1, 64);
    LowRankPlan::Streaming { tokens: 0, columns, cut: Cut { tiles, parts } }
}

impl fmt::Display for LowRankPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LowRankPlan::Product => f.write_str("a product"),
            LowRankPlan::CoopMatrix(_, cut) => {
                write!(f, "matrix units, {} workgroups in {} parts", cut.tiles, cut.parts)
            }
            LowRankPlan::Streaming { columns, cut, .. } => {
                write!(f, "streaming by {columns} columns, {} workgroups in {} parts", cut.tiles, cut.parts)
            }
        }
    }
}

/// A product of a low-rank adapter, for people.
pub(super) struct LowRankProblem<'a>(pub &'static str, pub Element, pub &'a BlocksParams);

impl fmt::Display for LowRankProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LowRankProblem(name, wide, p) = self;
        write!(f, "low rank {name} {} tokens, {} features {wide:?}, rank {}", p.tokens, p.width, p.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::{Caps, DeviceClass, Feature, Precision};
    use crate::kernels::low_rank_blocks::{params, whole};

    #[test]
    fn plans_are_as_they_were_measured_to_be_best() {
        let caps = DryBackend::caps_for_tests();
        let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let units = Caps { fragment: Some(16), features, max_workgroup_memory: 48 << 10, ..caps.clone() };
        let software = Caps { class: DeviceClass::Software, ..caps.clone() };
        let [discrete, software] = [caps, software].map(|caps| Target::new(&caps, Precision::F32, false));
        let units = Target::new(&units, Precision::F16, false);
        let both = |target: &Target, tokens: usize, width: usize| {
            let p = params(&[whole(width, 16, 1.0)], tokens, width).unwrap();
            let plans = [LowRankPlan::projection, LowRankPlan::gradient].map(|plan| plan(target, Element::F32, &p));
            plans.map(|plan| plan.to_string())
        };
        assert_eq!(both(&software, 256, 576), ["a product", "a product"]);
        assert_eq!(
            both(&discrete, 4096, 576),
            ["streaming by 2 columns, 128 workgroups in 4 parts", "streaming by 16 columns, 3 workgroups in 64 parts"]
        );
        assert_eq!(
            both(&units, 4096, 576),
            ["matrix units, 256 workgroups in 1 parts", "matrix units, 18 workgroups in 8 parts"]
        );
    }
}
