//! The RoSA linear in every combination of its parts.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::ops::{Attachment, Block, GradientSink, Linear, LowRank, RowSink, Sparse, linear};
use rugosa::autograd::{Dropout, Tape, Var};
use rugosa::cases::stored;
use rugosa::csr::CsrPattern;
use rugosa::dtype::DType;
use rugosa::error::Result;
use rugosa::kernels::in_weight::InWeight;
use rugosa::kernels::sparse::SparseIndex;
use rugosa::rng::Rng;
use rugosa::tensor::{Element, Tensor, Weight};
use std::sync::{Arc, Mutex};

const SCALE: f32 = 1.5;
const P: f32 = 0.3;
const SEED: u32 = 42;
const STREAM: u32 = 7;
const STEP: u32 = 3;

/// Sizes of a case, and its operands.
struct Case {
    tokens: usize,
    out: usize,
    inn: usize,
    rank: usize,
    pattern: CsrPattern,
    keys: Vec<u32>,
    x: Vec<f32>,
    /// W as its format stores it, and what that stands for.
    stored: Vec<u8>,
    w: Vec<f32>,
    dtype: DType,
    a: Vec<f32>,
    b: Vec<f32>,
    s: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(tokens: usize, out: usize, inn: usize, rank: usize, dtype: DType) -> Case {
        let rng = &mut Rng::named(1, "linear");
        let flat: Vec<u64> = (0..(out * inn) as u64).filter(|_| rng.uniform() < 0.2).collect();
        let pattern = CsrPattern::from_flat(out, inn, &flat).unwrap();
        let (stored, w) = stored(dtype, &random(rng, out * inn)).unwrap();
        Case {
            keys: (0..tokens).map(|_| rng.next_u64() as u32).collect(),
            x: random(rng, tokens * inn),
            w,
            stored,
            dtype,
            a: random(rng, rank * inn),
            b: random(rng, out * rank),
            s: random(rng, pattern.nnz()),
            bias: random(rng, out),
            dy: random(rng, tokens * out),
            tokens,
            out,
            inn,
            rank,
            pattern,
        }
    }

    fn inputs(&self) -> Inputs {
        [&self.x, &self.w, &self.a, &self.b, &self.s].map(|v| wide(v)).to_vec()
    }

    /// Y in f64 from X, W, A, B and the values of S.
    fn forward(&self, inputs: &Inputs, low_rank: bool, dropout: bool, sparse: bool, bias: bool) -> Vec<f64> {
        let [x, w, a, b, s] = inputs.as_slice() else { panic!("five inputs") };
        let (n, k, r) = (self.out, self.inn, self.rank);
        let mut y = Vec::with_capacity(self.tokens * n);
        for t in 0..self.tokens {
            let x = &x[t * k..][..k];
            let start = y.len();
            y.extend((0..n).map(|o| {
                let start = if bias { f64::from(self.bias[o]) } else { 0.0 };
                start + x.iter().zip(&w[o * k..]).map(|(x, w)| x * w).sum::<f64>()
            }));
            let y = &mut y[start..];
            if sparse {
                self.pattern.entries().zip(s).for_each(|((row, col), v)| y[row as usize] += v * x[col as usize]);
            }
            if low_rank {
                let keep = |c: usize| if dropout { kept(self.keys[t], c as u32) } else { 1.0 };
                let dropped: Vec<f64> = x.iter().enumerate().map(|(c, x)| x * keep(c)).collect();
                for i in 0..r {
                    let u: f64 = dropped.iter().zip(&a[i * k..]).map(|(x, a)| x * a).sum();
                    (0..n).for_each(|o| y[o] += f64::from(SCALE) * u * b[o * r + i]);
                }
            }
        }
        y
    }
}

/// Dropout's factor of an element, as the shader makes it.
fn kept(key: u32, column: u32) -> f64 {
    let mix = |mut h: u32| {
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        h ^ (h >> 16)
    };
    let word = |start: u32| {
        let h = mix((mix(SEED ^ start) ^ STREAM).wrapping_add(0x9e37_79b9));
        mix((h ^ STEP).wrapping_add(0x85eb_ca6b))
    };
    let row = mix(key ^ word(0x243f_6a88));
    let bits = mix(mix(column ^ row).wrapping_add(mix(row ^ word(0xb7e1_5162))));
    let p = f64::from(P);
    if f64::from(bits) >= (p * 2f64.powi(32)).floor() { f64::from((1.0 / (1.0 - p)) as f32) } else { 0.0 }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Absent,
    Frozen,
    Trains,
}

impl Part {
    const ALL: [Part; 3] = [Part::Absent, Part::Frozen, Part::Trains];
}

/// Keeps a copy of what it gets.
#[derive(Default)]
struct Keep(Mutex<Option<Tensor>>);

impl GradientSink for Keep {
    fn collect(&self, gradient: &Tensor) -> Result<()> {
        *self.0.lock().unwrap() = Some(gradient.duplicate("test")?);
        Ok(())
    }
}

/// Each combination of the linear's parts, or all of them at once.
pub fn check(tokens: usize, out: usize, inn: usize, rank: usize, dtype: DType, every: bool) {
    let case = Case::new(tokens, out, inn, rank, dtype);
    let parts = if every { &Part::ALL[..] } else { &[Part::Trains] };
    for &low_rank in parts {
        for dropout in [false, true].into_iter().filter(|d| !d || low_rank != Part::Absent) {
            for &sparse in parts {
                let (l, s) = (low_rank != Part::Absent, sparse != Part::Absent);
                let y = |bias| case.forward(&case.inputs(), l, dropout, s, bias);
                let reference = differences(&case.inputs(), &case.dy, |at| case.forward(at, l, dropout, s, false));
                let y = [y(false), y(true)];
                // what is quantised does not train
                let trains = dtype == DType::F32;
                for flags in (0..16).filter(|f| if every { true } else { *f == 15 || *f == 0 }) {
                    let [bias, weight, sink, tracked] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
                    let c = Combination { low_rank, dropout, sparse, bias, weight: weight && trains, sink, tracked };
                    check_one(&case, c, &y[usize::from(bias)], &reference);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Combination {
    low_rank: Part,
    dropout: bool,
    sparse: Part,
    bias: bool,
    weight: bool,
    sink: bool,
    tracked: bool,
}

/// With operands of f32, and of f16 where a linear asks for those.
fn check_one(case: &Case, c: Combination, y: &[f64], reference: &Inputs) {
    if check_of(Element::F32, case, c, y, reference) == Element::F16 {
        check_of(Element::F16, case, c, y, reference);
    }
}

/// Says what the linear's operands are best made of.
fn check_of(element: Element, case: &Case, c: Combination, y: &[f64], reference: &Inputs) -> Element {
    let (t, n, k, r) = (case.tokens, case.out, case.inn, case.rank);
    let what = |name: &str| format!("{name} of {c:?}, [{t}, {k}] to {n}, rank {r}, {element:?}");
    let index = SparseIndex::new(device(), &case.pattern).unwrap();
    let a = param(&[r, k], &case.a, c.low_rank == Part::Trains);
    let b = param(&[n, r], &case.b, c.low_rank == Part::Trains);
    let s = param(&[index.nnz()], &index.from_csr_order(&case.s), c.sparse == Part::Trains);
    let dropout = if c.dropout { P } else { 0.0 };
    let low_rank = LowRank { dropout, stream: STREAM, ..LowRank::whole(a.clone(), b.clone(), SCALE) };
    let sink = Arc::new(Keep::default());
    let weight = Weight::upload(device(), case.dtype, n, k, &case.stored).unwrap();
    // S beside W, and in it
    let in_weight = (c.bias && c.sparse != Part::Absent && case.dtype == DType::F32).then(|| {
        let own = InWeight::new(&weight, &index, &s.value).unwrap();
        own.write().unwrap();
        Arc::new(own)
    });
    let attached = Attachment {
        low_rank: (c.low_rank != Part::Absent).then_some(low_rank),
        sparse: (c.sparse != Part::Absent).then(|| Sparse { index: index.clone(), values: s.clone(), in_weight }),
        sinks: if c.sink { vec![RowSink { first_row: 0, rows: n, to: sink.clone() }] } else { Vec::new() },
    };
    let weight_grad = c.weight.then(|| started(&[n, k]));
    let op = Linear {
        shards: vec![(0, weight)],
        weight_grad: weight_grad.clone(),
        bias: c.bias.then(|| up(&[n], &case.bias)),
        attached: Arc::new(attached),
    };
    let keys = Tensor::from_slice(device(), &[t], &case.keys, "test").unwrap();
    let mut tape = Tape::new(c.dropout.then_some(Dropout { seed: SEED, step: STEP, keys }));
    let best = op.operands(&tape, t);
    let x = up_of(element, &[t, k], &case.x);
    let x = if c.tracked { tape.leaf(x) } else { Var::constant(x) };
    let var = linear(&mut tape, &x, op).unwrap();
    assert_near(&what("Y"), &var.value.read().unwrap(), y, k + r, 8.0);

    let trains = c.low_rank == Part::Trains || c.sparse == Part::Trains || c.weight || c.sink;
    assert_eq!(var.is_tracked(), c.tracked || trains, "{}", what("tracking"));
    assert_eq!(x.value.is_shared(), trains, "{}", what("a frozen linear keeps no input"));
    if !var.is_tracked() {
        return best;
    }
    tape.seed(&var, up_of(element, &[t, n], &case.dy)).unwrap();
    tape.backward().unwrap();
    let [dx, dw, da, db, ds] = reference.as_slice() else { panic!("five gradients") };
    if c.tracked {
        assert_near(&what("dX"), &arrived(&mut tape, &x), dx, n + r, 8.0);
    }
    if let Some(dw_buffer) = &weight_grad {
        assert_near(&what("dW"), &added(dw_buffer), dw, t, 8.0);
    }
    if c.sink {
        let taken = sink.0.lock().unwrap().take().unwrap();
        assert_near(&what("collected dW"), &taken.read().unwrap(), dw, t, 8.0);
    }
    if let (Some(a), Some(b)) = (&a.grad, &b.grad) {
        assert_near(&what("dA"), &added(a), da, t * n, 8.0);
        assert_near(&what("dB"), &added(b), db, t * k, 8.0);
    }
    if let Some(s) = &s.grad {
        assert_near(&what("dS"), &index.to_csr_order(&added(s)), ds, t, 8.0);
    }
    best
}

/// Adapters on some blocks of a stacked weight, each of its own rank and scale, against the same blocks as one adapter
/// with zeros between them.
pub fn check_blocks(tokens: usize, out: usize, inn: usize, blocks: &[(usize, usize, usize, f32)]) {
    let chosen: Vec<Block> =
        blocks.iter().map(|&(first_row, rows, rank, scale)| Block { first_row, rows, rank, scale }).collect();
    let rank: usize = chosen.iter().map(|b| b.rank).sum();
    let len: usize = chosen.iter().map(|b| b.rows * b.rank).sum();
    let rng = &mut Rng::named(2, "blocks");
    let [x, w, a, b, dy] = [tokens * inn, out * inn, rank * inn, len, tokens * out].map(|n| random(rng, n));
    let forward = |inputs: &Inputs| -> Vec<f64> {
        let [x, a, b] = inputs.as_slice() else { panic!("three inputs") };
        let mut y: Vec<f64> = (0..tokens * out)
            .map(|i| (0..inn).map(|k| x[i / out * inn + k] * f64::from(w[i % out * inn + k])).sum())
            .collect();
        let (mut column, mut at) = (0, 0);
        for block in &chosen {
            for (t, r, j) in
                (0..tokens).flat_map(|t| (0..block.rows).flat_map(move |r| (0..block.rank).map(move |j| (t, r, j))))
            {
                let u: f64 = (0..inn).map(|k| x[t * inn + k] * a[(column + j) * inn + k]).sum();
                y[t * out + block.first_row + r] += f64::from(block.scale) * u * b[at + r * block.rank + j];
            }
            (column, at) = (column + block.rank, at + block.rows * block.rank);
        }
        y
    };
    let inputs = [&x, &a, &b].map(|v| wide(v)).to_vec();
    let (pa, pb) = (param(&[rank, inn], &a, true), param(&[len], &b, true));
    let sinks: Vec<_> = chosen.iter().map(|_| Arc::new(Keep::default())).collect();
    let rows = |(block, sink): (&Block, &Arc<Keep>)| {
        let Block { first_row, rows, .. } = *block;
        RowSink { first_row, rows, to: sink.clone() }
    };
    let op = Linear {
        shards: vec![(0, Weight::from_tensor(&up(&[out, inn], &w)).unwrap())],
        weight_grad: None,
        bias: None,
        attached: Arc::new(Attachment {
            low_rank: Some(LowRank { a: pa.clone(), b: pb.clone(), blocks: chosen.clone(), dropout: 0.0, stream: 0 }),
            sparse: None,
            sinks: chosen.iter().zip(&sinks).map(rows).collect(),
        }),
    };
    let mut tape = Tape::new(None);
    let tx = input(&mut tape, &[tokens, inn], &x, true);
    let y = linear(&mut tape, &tx, op).unwrap();
    assert_near("Y", &y.value.read().unwrap(), &forward(&inputs), inn + rank, 8.0);
    tape.seed(&y, up(&[tokens, out], &dy)).unwrap();
    tape.backward().unwrap();
    let reference = differences(&inputs, &dy, forward);
    assert_near("dX", &arrived(&mut tape, &tx), &reference[0], out + rank, 8.0);
    assert_near("dA", &added(&pa.grad.unwrap()), &reference[1], tokens * out, 8.0);
    assert_near("dB", &added(&pb.grad.unwrap()), &reference[2], tokens * inn, 8.0);
    for (block, sink) in chosen.iter().zip(&sinks) {
        let taken: Vec<f32> = sink.0.lock().unwrap().take().unwrap().read().unwrap();
        let want: Vec<f64> = (0..block.rows * inn)
            .map(|i| {
                let (row, k) = (block.first_row + i / inn, i % inn);
                (0..tokens).map(|t| f64::from(dy[t * out + row]) * f64::from(x[t * inn + k])).sum()
            })
            .collect();
        assert_near("collected dW", &taken, &want, tokens, 8.0);
    }
}
