//! Products, fused linears and the sparse gradient.

use super::{Filler, Job, Speed, SpeedSizes, speed, words};
use crate::cases::MaskKind;
use crate::device::Cost;
use crate::dtype::DType;
use crate::error::Result;
use crate::io::config::ModelConfig;
use crate::kernels::To;
use crate::kernels::decode::decode;
use crate::kernels::in_weight::InWeight;
use crate::kernels::low_rank::{Block, gather_add, spread};
use crate::kernels::low_rank::{Gradients, gradient_blocks, gradient_rows, gradients, project_blocks, project_rows};
use crate::kernels::parts::Sums;
use crate::kernels::product::{Fused, Layout, Out, matmul, rosa_linear};
use crate::kernels::sparse::{SddmmAlgorithm, sddmm, sddmm_by};
use crate::tensor::{Element, Weight, WeightFormat};

/// A linear's product: tokens, rows and columns of W.
#[derive(Clone, Copy, PartialEq)]
struct Shape {
    tokens: usize,
    out: usize,
    inn: usize,
    /// What the input is made of, and the gradient of the output.
    element: Element,
}

/// With operands of f32.
const fn plain(tokens: usize, out: usize, inn: usize) -> Shape {
    Shape { tokens, out, inn, element: Element::F32 }
}

/// What is added to a fused linear.
#[derive(Clone, Copy, PartialEq)]
struct Parts {
    sparse: Option<(MaskKind, f64)>,
    rank: usize,
}

/// The matrices, masks and densities that the original's kernels were measured at.
const ORIGINAL: [(Shape, MaskKind, f64); 5] = [
    (plain(2048, 4096, 4096), MaskKind::Uniform, 0.006),
    (plain(2048, 4096, 4096), MaskKind::Clustered, 0.006),
    (plain(2048, 4096, 4096), MaskKind::Clustered, 0.018),
    (plain(2048, 11_008, 4096), MaskKind::Uniform, 0.006),
    (plain(512, 4096, 11_008), MaskKind::Uniform, 0.006),
];

pub(super) fn speeds(sizes: &SpeedSizes) -> Vec<Speed> {
    let mut rows = Vec::new();
    for &n in &sizes.squares {
        rows.extend([Layout::Nt, Layout::Nn, Layout::Tn].map(|l| product(l, (n, n, n), "")));
    }
    for (model, config) in &sizes.models {
        for (shape, modules) in linears(config, sizes) {
            let rank = modules.len() * sizes.rank;
            for &dtype in &sizes.weights {
                fused_rows(&mut rows, model, shape, dtype, (MaskKind::Uniform, sizes.density), rank);
            }
            let to_float = sizes.weights.iter().filter(|d| **d != DType::F32).map(|&d| (d, WeightFormat::F32));
            let quantised = sizes.weights.iter().filter(|d| d.is_quantised()).map(|&d| (d, WeightFormat::F16));
            let ways = to_float.chain(quantised).filter(|_| shape.inn.is_multiple_of(32));
            rows.extend(ways.map(|way| decoded(model, shape, way, sizes.density)));
            rows.extend([DType::F32, DType::F16].map(|dtype| in_weight(model, shape, dtype, sizes.density)));
            rows.extend(thin(model, shape, &modules, sizes.rank));
            for mask in [MaskKind::Uniform, MaskKind::Clustered] {
                rows.extend(sparse_gradients(model, shape, mask, sizes.density));
            }
        }
        let head = plain(sizes.tokens.min(512), config.vocab_size, config.hidden_size);
        for layout in [Layout::Nt, Layout::Nn] {
            let dtype = sizes.weights.first().copied().unwrap_or(DType::BF16);
            rows.push(fused(&format!("{model} head"), layout, head, dtype, Parts { sparse: None, rank: 0 }));
        }
    }
    if sizes.original {
        let mut seen = Vec::new();
        for (shape, mask, density) in ORIGINAL {
            if !seen.contains(&shape) {
                seen.push(shape);
                rows.push(product(Layout::Tn, (shape.out, shape.inn, shape.tokens), "dense dW, original "));
                rows.push(fused("original", Layout::Nt, shape, DType::BF16, Parts { sparse: None, rank: 0 }));
            }
            let parts = Parts { sparse: Some((mask, density)), rank: 0 };
            let plain = fused_name("original", Layout::Nt, shape, DType::BF16, Parts { sparse: None, rank: 0 });
            rows.push(fused("original", Layout::Nt, shape, DType::BF16, parts).over(plain));
            rows.extend(sparse_gradients("original", shape, mask, density));
        }
    }
    rows
}

/// The linears of a layer, with the rows of each module in them: those that share an input lie in one weight.
fn linears(c: &ModelConfig, sizes: &SpeedSizes) -> [(Shape, Vec<usize>); 4] {
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let linear = |modules: &[usize], inn| {
        let out = modules.iter().sum();
        (Shape { tokens: sizes.tokens, out, inn, element: sizes.operands(out, inn) }, modules.to_vec())
    };
    [linear(&[q, kv, kv], hidden), linear(&[hidden], q), linear(&[inner, inner], hidden), linear(&[hidden], inner)]
}

fn product(layout: Layout, (m, n, k): (usize, usize, usize), label: &str) -> Speed {
    let floor = Cost { flops: 2.0 * (m * n) as f64 * k as f64, bytes: words(m * k + n * k + m * n) };
    speed("product", format!("{label}{layout:?} {m}x{n}x{k}"), floor, move |f| {
        let (a, b) = match layout {
            Layout::Nt => ([m, k], [n, k]),
            Layout::Nn => ([m, k], [k, n]),
            Layout::Tn => ([k, m], [k, n]),
        };
        let (a, b, c) = (f.tensor(&a)?, f.tensor(&b)?, f.tensor(&[m, n])?);
        Ok(Box::new(move || matmul(layout, &a, &b, Out::into(&c)).map(drop)))
    })
}

/// U, V, dA and dB, and the blocks of B spread out and gathered.
fn thin(model: &str, s: Shape, modules: &[usize], rank: usize) -> Vec<Speed> {
    let Shape { tokens, out, inn, .. } = s;
    let ranks = rank * modules.len();
    let mut blocks: Vec<Block> = Vec::new();
    for &rows in modules {
        let first_row = blocks.last().map_or(0, |b: &Block| b.first_row + b.rows);
        blocks.push(Block { first_row, rows, rank, scale: 2.0 });
    }
    let what = |name: &str| format!("{model} {name} [{tokens}] W [{out}, {inn}] rank {ranks}");
    let floor = |wide: Element, features: usize, terms: usize| Cost {
        flops: 2.0 * tokens as f64 * terms as f64,
        bytes: (wide.bytes() * tokens * features) as f64 + words(tokens * ranks + terms),
    };
    let (a, b) = (ranks * inn, rank * out);
    let [for_v, for_db, for_both, for_gather] = [(); 4].map(|()| blocks.clone());
    let (first, second) = (floor(s.element, out, b), floor(s.element, inn, a));
    let both = Cost { flops: first.flops + second.flops, bytes: first.bytes + second.bytes };
    let mut rows = vec![
        speed("low_rank_project", what("U"), floor(s.element, inn, a), move |f| {
            let (x, a, u) =
                (f.tensor_of(s.element, &[tokens, inn])?, f.tensor(&[ranks, inn])?, f.tensor(&[tokens, ranks])?);
            Ok(Box::new(move || project_rows(&x, &a, 2.0, To::Into(&u)).map(drop)))
        }),
        speed("low_rank_project", what("V"), floor(s.element, out, b), move |f| {
            let (dy, b, v) = (f.tensor_of(s.element, &[tokens, out])?, f.tensor(&[b])?, f.tensor(&[tokens, ranks])?);
            let blocks = for_v.clone();
            Ok(Box::new(move || project_blocks(&dy, &b, &blocks, To::Into(&v)).map(drop)))
        }),
        speed("low_rank_gradient", what("dA"), floor(s.element, inn, a), move |f| {
            let (v, x, da) =
                (f.tensor(&[tokens, ranks])?, f.tensor_of(s.element, &[tokens, inn])?, f.tensor(&[ranks, inn])?);
            Ok(Box::new(move || {
                let mut sums = Sums::default();
                gradient_rows(&v, &x, &da, &mut sums)?;
                sums.finish()
            }))
        }),
        speed("low_rank_gradient", what("dB"), floor(s.element, out, b), move |f| {
            let (dy, u, db) = (f.tensor_of(s.element, &[tokens, out])?, f.tensor(&[tokens, ranks])?, f.tensor(&[b])?);
            let blocks = for_db.clone();
            Ok(Box::new(move || {
                let mut sums = Sums::default();
                gradient_blocks(&dy, &u, &blocks, &db, &mut sums)?;
                sums.finish()
            }))
        }),
        speed("low_rank_gradients", what("dB and dA"), both, move |f| {
            let (dy, x) = (f.tensor_of(s.element, &[tokens, out])?, f.tensor_of(s.element, &[tokens, inn])?);
            let (u, v) = (f.tensor(&[tokens, ranks])?, f.tensor(&[tokens, ranks])?);
            let (db, da, blocks) = (f.tensor(&[b])?, f.tensor(&[ranks, inn])?, for_both.clone());
            Ok(Box::new(move || {
                let mut sums = Sums::default();
                gradients(Gradients { dy: &dy, u: &u, blocks: &blocks, x: &x, v: &v }, &db, &da, &mut sums)?;
                sums.finish()
            }))
        }),
    ];
    if modules.len() > 1 {
        // the whole matrix is written, its zeros too, and read
        let floor = Cost { flops: 0.0, bytes: words(b + out * ranks) };
        rows.push(speed("low_rank_spread", what("B"), floor, move |f| {
            let (b, all, blocks) = (f.tensor(&[b])?, f.tensor(&[out, ranks])?, blocks.clone());
            Ok(Box::new(move || spread(&b, &blocks, out, To::Into(&all)).map(drop)))
        }));
        rows.push(speed("low_rank_gather", what("dB"), floor, move |f| {
            let (b, all, blocks) = (f.tensor(&[b])?, f.tensor(&[out, ranks])?, for_gather.clone());
            Ok(Box::new(move || gather_add(&all, &blocks, &b)))
        }));
    }
    rows
}

/// Frozen, with S, with the low-rank part, and with both; in both directions.
fn fused_rows(rows: &mut Vec<Speed>, model: &str, s: Shape, dtype: DType, mask: (MaskKind, f64), rank: usize) {
    if !s.inn.is_multiple_of(dtype.block_elements()) {
        return;
    }
    for layout in [Layout::Nt, Layout::Nn] {
        for (sparse, rank) in [(None, 0), (Some(mask), 0), (None, rank), (Some(mask), rank)] {
            let plain = fused_name(model, layout, s, dtype, Parts { sparse: None, rank });
            rows.push(fused(model, layout, s, dtype, Parts { sparse, rank }).over(plain));
        }
    }
}

fn fused_name(model: &str, layout: Layout, s: Shape, dtype: DType, parts: Parts) -> String {
    let Shape { tokens, out, inn, .. } = s;
    let sparse = parts.sparse.map_or(String::new(), |mask| format!(" S {}", mask_name(mask)));
    let low_rank = if parts.rank > 0 { format!(" rank {}", parts.rank) } else { String::new() };
    format!("{model} {layout:?} {dtype} [{tokens}] W [{out}, {inn}]{low_rank}{sparse}")
}

fn mask_name((kind, density): (MaskKind, f64)) -> String {
    let kind = if kind == MaskKind::Uniform { "uniform" } else { "clustered" };
    format!("{} % {kind}", (density * 1e6).round() / 1e4)
}

fn fused(model: &str, layout: Layout, s: Shape, dtype: DType, parts: Parts) -> Speed {
    let Shape { tokens, out, inn, .. } = s;
    let rank = parts.rank;
    let weight = WeightFormat::of(dtype).bytes((out * inn) as u64) as f64;
    let entries = parts.sparse.map_or(0.0, |(_, density)| 6.0 * density * (out * inn) as f64);
    let (x_cols, y_cols) = if layout == Layout::Nt { (inn, out) } else { (out, inn) };
    let floor = Cost {
        flops: 2.0 * tokens as f64 * y_cols as f64 * (x_cols + rank) as f64,
        bytes: weight
            + entries
            + (s.element.bytes() * tokens * x_cols) as f64
            + words(tokens * (y_cols + rank) + y_cols * rank),
    };
    speed("rosa_linear", fused_name(model, layout, s, dtype, parts), floor, move |f| {
        let w = f.matrix(dtype, out, inn)?;
        let (x, y) = (f.tensor_of(s.element, &[tokens, x_cols])?, f.tensor(&[tokens, y_cols])?);
        let mask = parts.sparse.map(|(kind, density)| f.mask(kind, out, inn, density)).transpose()?;
        let right = if layout == Layout::Nt { [out, rank] } else { [rank, inn] };
        let low_rank = if rank > 0 { Some((f.tensor(&[tokens, rank])?, f.tensor(&right)?)) } else { None };
        Ok(Box::new(move || {
            let fused = Fused {
                sparse: mask.as_ref().map(|(index, values)| (index, values)),
                low_rank: low_rank.as_ref().map(|(u, right)| (u, 0, right)),
                bias: None,
            };
            rosa_linear(layout, &x, &w, fused, Out::into(&y)).map(drop)
        }))
    })
}

/// A weight with S of a uniform mask in another format.
fn decoded(model: &str, s: Shape, (dtype, to): (DType, WeightFormat), density: f64) -> Speed {
    let Shape { out, inn, .. } = s;
    let elements = (out * inn) as f64;
    let moved = [WeightFormat::of(dtype), to].map(|f| f.bytes((out * inn) as u64) as f64).iter().sum::<f64>();
    let floor = Cost { flops: elements, bytes: moved + 6.0 * density * elements };
    let mask = mask_name((MaskKind::Uniform, density));
    let what = format!("{model} {dtype} to {to:?} W [{out}, {inn}] S {mask}");
    speed("decode", what, floor, move |f| {
        let (weight, to) = (f.matrix(dtype, out, inn)?, Weight::empty(f.device(), to, out, inn, "bench")?);
        let (index, values) = f.mask(MaskKind::Uniform, out, inn, density)?;
        Ok(Box::new(move || decode(&weight, Some((&index, &values)), &to)))
    })
}

/// S of a uniform mask into a weight: index and values are read, and of W and its originals a sector of 32 bytes an entry.
fn in_weight(model: &str, s: Shape, dtype: DType, density: f64) -> Speed {
    let Shape { out, inn, .. } = s;
    let entries = density * (out * inn) as f64;
    let floor = Cost { flops: entries, bytes: 74.0 * entries };
    let what = format!("{model} {dtype} W [{out}, {inn}] S {}", mask_name((MaskKind::Uniform, density)));
    speed("sparse_write", what, floor, move |f| {
        let weight = f.matrix(dtype, out, inn)?;
        let (index, values) = f.mask(MaskKind::Uniform, out, inn, density)?;
        let all = InWeight::new(&weight, &index, &values)?;
        Ok(Box::new(move || all.write()))
    })
}

/// dS in each way, and in the one that is chosen. What cannot be avoided is one product of `tokens` terms an entry.
fn sparse_gradients(model: &str, s: Shape, kind: MaskKind, density: f64) -> [Speed; 3] {
    let Shape { tokens, out, inn, .. } = s;
    let entries = density * (out * inn) as f64;
    let operands = (tokens * (s.element.bytes() * (out + inn))) as f64;
    let floor = Cost { flops: 2.0 * entries * tokens as f64, bytes: operands + 10.0 * entries };
    [(Some(SddmmAlgorithm::Sampled), "sampled"), (Some(SddmmAlgorithm::Tile), "tile"), (None, "chosen")].map(
        |(way, name)| {
            let what = format!("{model} {name} [{tokens}] W [{out}, {inn}] {}", mask_name((kind, density)));
            speed("sddmm", what, floor, move |f: &mut Filler| -> Result<Job> {
                let (dy, x) = (f.tensor_of(s.element, &[tokens, out])?, f.tensor_of(s.element, &[tokens, inn])?);
                let (index, ds) = f.mask(kind, out, inn, density)?;
                Ok(Box::new(move || match way {
                    Some(way) => sddmm_by(way, &dy, &x, &index, &ds),
                    None => sddmm(&dy, &x, &index, &ds),
                }))
            })
        },
    )
}
