//! The thin products of low-rank adapters, and their blocks on stacked weights.

use super::products::bounds;
use super::{Exact, Level, Op, Row, Trial};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::low_rank::{Block, GATHER, GRADIENT, PROJECT, SPREAD, gather_add, spread};
use crate::kernels::low_rank::{Gradients, gradient_blocks, gradient_rows, gradients, project_blocks, project_rows};
use crate::kernels::low_rank_coop::{GRADIENT_COOP, GRADIENTS_COOP, PROJECT_COOP};
use crate::kernels::matmul::MATMUL;
use crate::kernels::parts::{SUM_PARTS, SUM_PARTS_BOTH, Sums};
use crate::kernels::simd::MATMUL_SIMD;
use crate::tensor::Element;

const ROUNDED: &str = "one product and one sum, each rounded once";
const SPREAD_OP: Op = Op { name: "low_rank_spread", kernels: &[&SPREAD], why: ROUNDED };
const GATHER_OP: Op = Op { name: "low_rank_gather", kernels: &[&GATHER], why: ROUNDED };
const THIN: &str = "sums of as many products as the wide matrix has features, or tokens, in f32; on matrix units both operands are rounded \
     to f16 first, as in a product, elsewhere f16 elements are exact";
const PROJECT_OP: Op = Op {
    name: "low_rank_project",
    kernels: &[&PROJECT, &PROJECT_COOP, &SUM_PARTS, &SPREAD, &MATMUL, &MATMUL_SIMD],
    why: THIN,
};
const GRADIENT_OP: Op = Op {
    name: "low_rank_gradient",
    kernels: &[&GRADIENT, &GRADIENT_COOP, &SUM_PARTS, &SUM_PARTS_BOTH, &GATHER, &MATMUL, &MATMUL_SIMD],
    why: THIN,
};

const BOTH_OP: Op = Op {
    name: "low_rank_gradients",
    kernels: &[&GRADIENT, &GRADIENT_COOP, &GRADIENTS_COOP, &SUM_PARTS, &SUM_PARTS_BOTH, &GATHER, &MATMUL, &MATMUL_SIMD],
    why: THIN,
};

/// Tokens, features, rank of one block that covers all: edges of tiles, parts of k and of tokens, ranks above a thread's
/// columns, features that cannot be read four at a time.
const WHOLE: &[(usize, usize, usize)] = &[
    (1, 4, 1),
    (33, 31, 3),
    (70, 576, 8),
    (64, 260, 24),
    (9, 2052, 17),
    (300, 130, 40),
    (131, 2304, 64),
    (40, 36, 100),
    (600, 72, 12),
];

/// Those of real models: ranks of one adapter and of several side by side, narrow and wide features, sums in one part and more.
const ALIGNED: [(usize, usize); 5] = [(40, 64), (264, 64), (40, 44), (136, 44), (136, 2048)];
const RANKS: [usize; 8] = [4, 8, 16, 24, 32, 48, 64, 96];

/// Tokens, features, and blocks (first row, rows, rank).
type Blocks = (usize, usize, &'static [(usize, usize, usize)]);
const STACKED: &[Blocks] = &[
    (33, 48, &[(0, 32, 4), (32, 8, 4), (40, 8, 4)]),
    (65, 77, &[(5, 30, 3), (40, 31, 1)]),
    (7, 33, &[(32, 1, 2)]),
    (200, 132, &[(0, 100, 1), (100, 4, 8), (104, 16, 50), (120, 12, 2)]),
    (140, 2400, &[(0, 1600, 8), (1600, 400, 8), (2000, 400, 8)]),
];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = spreads();
    let aligned = ALIGNED.into_iter().flat_map(|(tokens, features)| RANKS.map(|rank| (tokens, features, rank)));
    for (i, (tokens, features, rank)) in WHOLE.iter().copied().chain(aligned).enumerate() {
        let level = match i {
            _ if i >= WHOLE.len() => Level::Spare,
            0..=3 | 5 | 8 => Level::Quick,
            _ => Level::Full,
        };
        let what = format!("[{tokens}, {features}], rank {rank}");
        let block = vec![Block { first_row: 0, rows: features, rank, scale: 1.5 }];
        let size = (tokens, features, rank);
        for (wide, name) in operands(features, &block) {
            let what = format!("{what}{name}");
            rows.push(PROJECT_OP.row(level, format!("U of {what}"), move |t| project_a(t, size, wide)));
            rows.push(GRADIENT_OP.row(level, format!("dA of {what}"), move |t| gradient_a(t, size, wide)));
        }
        by_blocks(&mut rows, level, &what, (tokens, features), block);
    }
    for (i, &(tokens, features, blocks)) in STACKED.iter().enumerate() {
        let level = if i < 3 { Level::Quick } else { Level::Full };
        let what = format!("[{tokens}, {features}], blocks {blocks:?}");
        by_blocks(&mut rows, level, &what, (tokens, features), of(blocks));
    }
    rows
}

/// The products with the blocks' B.
fn by_blocks(rows: &mut Vec<Row>, level: Level, what: &str, size: (usize, usize), blocks: Vec<Block>) {
    for (wide, name) in operands(size.1, &blocks) {
        let (blocks, same, again) = (blocks.clone(), blocks.clone(), blocks.clone());
        let what = format!("{what}{name}");
        rows.push(PROJECT_OP.row(level, format!("V of {what}"), move |t| project_b(t, size, wide, &blocks)));
        rows.push(GRADIENT_OP.row(level, format!("dB of {what}"), move |t| gradient_b(t, size, wide, &same)));
        rows.push(BOTH_OP.row(level, what, move |t| gradient_both(t, size, wide, &again)));
    }
}

/// What the wide matrix can be made of, with a word for a row's name.
fn operands(features: usize, blocks: &[Block]) -> Vec<(Element, &'static str)> {
    let fours = blocks.iter().all(|b| b.first_row.is_multiple_of(4) && b.rows.is_multiple_of(4));
    let halves = if fours && features.is_multiple_of(4) { Some((Element::F16, " in f16")) } else { None };
    [(Element::F32, "")].into_iter().chain(halves).collect()
}

/// Blocks, each with a scale of its own.
fn of(blocks: &[(usize, usize, usize)]) -> Vec<Block> {
    let scaled = blocks.iter().zip([1.5, -0.25, 0.7, 2.0]);
    scaled.map(|(&(first_row, rows, rank), scale)| Block { first_row, rows, rank, scale }).collect()
}

fn at(v: &[f32], i: usize) -> f64 {
    v[i].into()
}

fn project_a(t: &mut Trial<'_>, (tokens, features, rank): (usize, usize, usize), wide: Element) -> Result<()> {
    let (x, a) = (t.random(tokens * features), t.random(rank * features));
    let (tx, x) = t.operand(wide, &[tokens, features], &x)?;
    let u = t.out(&[tokens, rank])?;
    project_rows(&tx, &t.up(&[rank, features], &a)?, 0.5, To::Into(&u.tensor))?;
    let want = (0..tokens * rank).map(|i| {
        let (row, j) = (i / rank * features, i % rank * features);
        Exact::sum((0..features).map(|k| 0.5 * at(&x, row + k) * at(&a, j + k)))
    });
    t.compare("U", &u, bounds(t, want))
}

fn project_b(t: &mut Trial<'_>, (tokens, features): (usize, usize), wide: Element, blocks: &[Block]) -> Result<()> {
    let (rank, places) = places(blocks);
    let (dy, b) = (t.random(tokens * features), t.random(places.len()));
    let (t_dy, dy) = t.operand(wide, &[tokens, features], &dy)?;
    let v = t.out(&[tokens, rank])?;
    project_blocks(&t_dy, &t.up(&[b.len()], &b)?, blocks, To::Into(&v.tensor))?;
    let mut columns: Vec<Vec<(usize, f64)>> = vec![Vec::new(); rank];
    for (b, (row, col, scale)) in b.iter().zip(places) {
        columns[col].push((row, f64::from(*b) * f64::from(scale)));
    }
    let want = (0..tokens * rank)
        .map(|i| Exact::sum(columns[i % rank].iter().map(|(row, b)| at(&dy, i / rank * features + row) * b)));
    t.compare("V", &v, bounds(t, want))
}

fn gradient_a(t: &mut Trial<'_>, (tokens, features, rank): (usize, usize, usize), wide: Element) -> Result<()> {
    // and one of rank 1 behind it, as parameters' gradients lie: their parts may be summed by the same launch
    let (n, one_at) = (rank * features, (rank * features).next_multiple_of(64));
    let (x, v, one) = (t.random(tokens * features), t.random(tokens * rank), t.random(tokens));
    let start = t.random(one_at + features);
    let (tx, x) = t.operand(wide, &[tokens, features], &x)?;
    let all = t.holding(&[start.len()], &start)?;
    let (da, d_one) = (all.tensor.view(0, &[rank, features])?, all.tensor.view(one_at, &[1, features])?);
    let mut sums = Sums::default();
    gradient_rows(&t.up(&[tokens, rank], &v)?, &tx, &da, &mut sums)?;
    gradient_rows(&t.up(&[tokens, 1], &one)?, &tx, &d_one, &mut sums)?;
    sums.finish()?;
    let want = (0..start.len()).map(|i| {
        let term = |token: usize| match i {
            _ if i < n => at(&v, token * rank + i / features) * at(&x, token * features + i % features),
            _ if i < one_at => 0.0,
            _ => at(&one, token) * at(&x, token * features + i - one_at),
        };
        Exact::sum((0..tokens).map(term).chain([at(&start, i)]))
    });
    t.compare("dA", &all, bounds(t, want))
}

fn gradient_b(t: &mut Trial<'_>, (tokens, features): (usize, usize), wide: Element, blocks: &[Block]) -> Result<()> {
    let (rank, places) = places(blocks);
    let (dy, u, start) = (t.random(tokens * features), t.random(tokens * rank), t.random(places.len()));
    let (t_dy, dy) = t.operand(wide, &[tokens, features], &dy)?;
    let db = t.holding(&[start.len()], &start)?;
    let mut sums = Sums::default();
    gradient_blocks(&t_dy, &t.up(&[tokens, rank], &u)?, blocks, &db.tensor, &mut sums)?;
    sums.finish()?;
    let want = start.iter().zip(places).map(|(start, (row, col, scale))| {
        let term = |token: usize| f64::from(scale) * at(&dy, token * features + row) * at(&u, token * rank + col);
        Exact::sum((0..tokens).map(term).chain([f64::from(*start)]))
    });
    t.compare("dB", &db, bounds(t, want))
}

/// dB of these features, and dA of 40 others; one lies behind the other, as parameters' gradients do.
fn gradient_both(t: &mut Trial<'_>, (tokens, features): (usize, usize), wide: Element, blocks: &[Block]) -> Result<()> {
    const IN: usize = 40;
    let (rank, places) = places(blocks);
    let (dy, x) = (t.random(tokens * features), t.random(tokens * IN));
    let (u, v) = (t.random(tokens * rank), t.random(tokens * rank));
    let a_at = places.len().next_multiple_of(64);
    let start = t.random(a_at + rank * IN);
    let (t_dy, dy) = t.operand(wide, &[tokens, features], &dy)?;
    let (tx, x) = t.operand(wide, &[tokens, IN], &x)?;
    let (tu, tv) = (t.up(&[tokens, rank], &u)?, t.up(&[tokens, rank], &v)?);
    let all = t.holding(&[start.len()], &start)?;
    let (db, da) = (all.tensor.view(0, &[places.len()])?, all.tensor.view(a_at, &[rank, IN])?);
    let mut sums = Sums::default();
    gradients(Gradients { dy: &t_dy, u: &tu, blocks, x: &tx, v: &tv }, &db, &da, &mut sums)?;
    sums.finish()?;
    let want = (0..start.len()).map(|i| {
        let term = |token: usize| match i.checked_sub(a_at) {
            Some(j) => at(&v, token * rank + j / IN) * at(&x, token * IN + j % IN),
            None => places.get(i).map_or(0.0, |&(row, col, scale)| {
                f64::from(scale) * at(&dy, token * features + row) * at(&u, token * rank + col)
            }),
        };
        Exact::sum((0..tokens).map(term).chain([at(&start, i)]))
    });
    t.compare("dB and dA", &all, bounds(t, want))
}

/// Adapters' B on stacked weights: all rows covered, rows between and behind the blocks, a single block.
fn spreads() -> Vec<Row> {
    let mut rows = Vec::new();
    for &(_, out, blocks) in STACKED {
        let what = format!("{out} rows, blocks {blocks:?}");
        let blocks = of(blocks);
        let again = blocks.clone();
        rows.push(SPREAD_OP.row(Level::Quick, &what, move |t| {
            let (rank, places) = places(&blocks);
            let b = t.random(places.len());
            let all = t.out(&[out, rank])?;
            spread(&t.up(&[b.len()], &b)?, &blocks, out, To::Into(&all.tensor))?;
            let mut want = vec![Exact::of(0.0); out * rank];
            for (b, (row, col, scale)) in b.iter().zip(places) {
                want[row * rank + col] = Exact::of(f64::from(*b) * f64::from(scale));
            }
            t.compare("spread", &all, want)
        }));
        rows.push(GATHER_OP.row(Level::Quick, what, move |t| {
            let (rank, places) = places(&again);
            let (start, all) = (t.random(places.len()), t.random(out * rank));
            let b = t.holding(&[start.len()], &start)?;
            gather_add(&t.up(&[out, rank], &all)?, &again, &b.tensor)?;
            let sum = |(start, (row, col, scale)): (&f32, (usize, usize, f32))| {
                Exact::sum([f64::from(*start), f64::from(scale) * f64::from(all[row * rank + col])])
            };
            t.compare("b", &b, start.iter().zip(places).map(sum))
        }));
    }
    rows
}

/// All ranks together, and the row, column and scale of each element of B.
fn places(blocks: &[Block]) -> (usize, Vec<(usize, usize, f32)>) {
    let (mut rank, mut all) = (0, Vec::new());
    for b in blocks {
        let places = (0..b.rows).flat_map(|row| (0..b.rank).map(move |col| (b.first_row + row, rank + col, b.scale)));
        all.extend(places);
        rank += b.rank;
    }
    (rank, all)
}
