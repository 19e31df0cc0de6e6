//! Attention, norms, element-wise operations, the loss, the optimiser, and what masks are made with.

use super::{Filler, Job, Speed, SpeedSizes, moved, speed, words};
use crate::device::Cost;
use crate::dtype::DType;
use crate::error::Result;
use crate::io::config::{ModelConfig, RopeScaling};
use crate::kernels::To;
use crate::kernels::attention::{
    AttentionShape, Gradients, Ranges, Saved, attention_backward, attention_decode, attention_forward, kv_store,
};
use crate::kernels::center::center;
use crate::kernels::dropout::{Dropout, dropout as drop_some};
use crate::kernels::elementwise::{
    Activation, add, add_into, glu_backward, glu_both, glu_both_backward, glu_both_kept, glu_forward, round, scale,
};
use crate::kernels::embedding::{
    TokenOrder, columns, embedding_backward, embedding_forward, gather_rows, scatter_rows_add,
};
use crate::kernels::heads::{HeadNorm, Heads, norm_merge, norm_split, rope_merge, rope_split};
use crate::kernels::loss::{Logits, argmax_rows, cross_entropy, cross_entropy_grad};
use crate::kernels::norm::{RmsNorm, add_rmsnorm_forward, rmsnorm_backward, rmsnorm_backward_round, rmsnorm_forward};
use crate::kernels::optimizer::{AdamW, StepCount, adamw_step, count_step};
use crate::kernels::reduce::{sum, sum_of_squares};
use crate::kernels::rope::rope as turn;
use crate::kernels::rope::{RopeTable, Turn};
use crate::kernels::topk::{score_accumulate, topk_mask};
use crate::tensor::Element;

/// Tokens of a packed sequence.
const SEGMENT: usize = 512;
/// Tokens whose logits exist at once.
const CHUNK: usize = 512;

pub(super) fn speeds(sizes: &SpeedSizes) -> Vec<Speed> {
    let mut rows = Vec::new();
    for (model, c) in &sizes.models {
        let halves = [(sizes.tokens / 2, sizes.tokens / 2), (sizes.tokens, SEGMENT), (sizes.tokens, sizes.tokens)];
        let mut seen = Vec::new();
        for (tokens, segment) in halves {
            let segment = segment.clamp(1, tokens.max(1));
            if !seen.contains(&(tokens, segment)) {
                seen.push((tokens, segment));
                rows.extend(attention_rows(model, c, tokens, segment, sizes.activation(c.hidden_size)));
            }
        }
        rows.extend(decode_rows(model, c, sizes.tokens));
        rows.extend(gates(model, c, sizes.tokens, sizes.activation(c.intermediate_size)));
        rows.extend(pointwise(model, c, sizes.tokens));
        let dtype = sizes.weights.first().copied().unwrap_or(DType::BF16);
        rows.extend(norms(model, c, sizes.tokens, sizes.activation(c.hidden_size)));
        rows.extend(rows_by_token(model, c, sizes.tokens, dtype));
        rows.extend(turned(model, c, sizes.tokens, sizes.activation(c.hidden_size)));
        rows.extend(vocabulary(model, c, sizes.tokens.min(CHUNK)));
        rows.extend(parameters(model, c, sizes.density));
    }
    rows
}

fn shape_of(c: &ModelConfig, span: usize) -> AttentionShape {
    AttentionShape {
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim,
        scale: c.attention_scale(),
        softcap: None,
        span: Some(span),
    }
}

/// Causal attention over `tokens` tokens in segments of `segment`; q, k, v and the output are made of `element`s.
fn attention_rows(model: &str, c: &ModelConfig, tokens: usize, segment: usize, element: Element) -> [Speed; 2] {
    let shape = shape_of(c, segment);
    let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let what =
        format!("{model} [{tokens}] of {segment}, {}/{} heads of {}", shape.heads, shape.kv_heads, shape.head_dim);
    let whole = (tokens / segment) as f64 * (segment * (segment + 1)) as f64 / 2.0;
    let rest = (tokens % segment) as f64;
    let pairs = (whole + rest * (rest + 1.0) / 2.0) * wide as f64;
    let inputs = move |f: &mut Filler| -> Result<_> {
        let mut of = |width: usize| f.tensor_of(element, &[tokens, width]);
        Ok([of(wide)?, of(narrow)?, of(narrow)?])
    };
    // two products forward, five backward
    let made = (element.bytes() * tokens * wide) as f64;
    let given = (element.bytes() * tokens * (wide + 2 * narrow)) as f64;
    let floor = Cost { flops: 4.0 * pairs, bytes: made + given + words(tokens * shape.heads) };
    let forward = speed("attention", &what, floor, move |f| {
        let [q, k, v] = inputs(f)?;
        let [start, end, ..] = f.segments(tokens, segment)?;
        let (out, lse) = (f.tensor_of(element, &[tokens, wide])?, f.tensor(&[tokens, shape.heads])?);
        Ok(Box::new(move || {
            let keys = Ranges { start: &start, end: &end };
            attention_forward(&q, &k, &v, keys, &shape, To::Into(&out), To::Into(&lse)).map(drop)
        }))
    });
    let bytes = made + given + words(tokens * (2 * wide + 2 * narrow + shape.heads));
    let floor = Cost { flops: 10.0 * pairs, bytes };
    let backward = speed("attention_backward", what, floor, move |f| {
        let [q, k, v] = inputs(f)?;
        let [start, end, first, last] = f.segments(tokens, segment)?;
        let (out, lse) = (f.tensor_of(element, &[tokens, wide])?, f.tensor(&[tokens, shape.heads])?);
        let keys = Ranges { start: &start, end: &end };
        attention_forward(&q, &k, &v, keys, &shape, To::Into(&out), To::Into(&lse))?;
        let d_out = f.tensor(&[tokens, wide])?;
        let to = Gradients {
            dq: f.tensor(&[tokens, wide])?,
            dk: f.tensor(&[tokens, narrow])?,
            dv: f.tensor(&[tokens, narrow])?,
        };
        Ok(Box::new(move || {
            let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
            let (keys, queries) = (Ranges { start: &start, end: &end }, Ranges { start: &first, end: &last });
            attention_backward(saved, &d_out, keys, queries, &shape, Some(&to)).map(drop)
        }))
    });
    [forward, backward]
}

/// One token of each of 8 sequences, over caches that hold `tokens` together.
fn decode_rows(model: &str, c: &ModelConfig, tokens: usize) -> [Speed; 2] {
    const ROWS: usize = 8;
    let each = (tokens / ROWS).max(1);
    let shape = shape_of(c, each);
    let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let cached = each * ROWS;
    let floor = Cost { flops: 4.0 * (cached * wide) as f64, bytes: words(2 * cached * narrow + 2 * ROWS * wide) };
    let decode = speed("attention_decode", format!("{model} {ROWS} rows over {each}"), floor, move |f| {
        let (q, out) = (f.tensor(&[ROWS, wide])?, f.tensor(&[ROWS, wide])?);
        let (k, v) = (f.tensor(&[cached, narrow])?, f.tensor(&[cached, narrow])?);
        let (start, end) = (f.indices(ROWS, |r| r * each)?, f.indices(ROWS, |r| (r + 1) * each)?);
        Ok(Box::new(move || {
            attention_decode(&q, &k, &v, Ranges { start: &start, end: &end }, &shape, Some(&out)).map(drop)
        }))
    });
    let store = speed("kv_store", format!("{model} [{tokens}, {narrow}]"), moved(2 * tokens * narrow), move |f| {
        let (src, cache) = (f.tensor(&[tokens, narrow])?, f.tensor(&[tokens, narrow])?);
        let slots = f.indices(tokens, |t| tokens - 1 - t)?;
        Ok(Box::new(move || kv_store(&src, &slots, &cache)))
    });
    [decode, store]
}

/// Gated activations, which make `element`s.
fn gates(model: &str, c: &ModelConfig, tokens: usize, element: Element) -> Vec<Speed> {
    let (cols, inner) = (c.intermediate_size, tokens * c.intermediate_size);
    let wide = format!("{model} [{tokens}, {cols}]");
    // of reads in f32, and of what is made
    let cost = |read: usize, made: usize| Cost { flops: 0.0, bytes: words(read) + (element.bytes() * made) as f64 };
    vec![
        speed("glu", &wide, cost(2 * inner, inner), move |f| {
            let (gate, up, h) = (f.tensor(&[inner])?, f.tensor(&[inner])?, f.tensor_of(element, &[inner])?);
            Ok(Box::new(move || glu_forward(Activation::Silu, &gate, &up, To::Into(&h)).map(drop)))
        }),
        speed("glu_backward", &wide, cost(3 * inner, 2 * inner), move |f| {
            let (gate, up, dh) = (f.tensor(&[inner])?, f.tensor(&[inner])?, f.tensor(&[inner])?);
            let (dgate, dup) = (f.tensor_of(element, &[inner])?, f.tensor_of(element, &[inner])?);
            Ok(Box::new(move || {
                glu_backward(Activation::Silu, &dh, &gate, &up, To::Into(&dgate), To::Into(&dup)).map(drop)
            }))
        }),
        speed("glu_both", &wide, cost(2 * inner, inner), move |f| {
            let (both, h) = (f.tensor(&[tokens, 2 * cols])?, f.tensor_of(element, &[tokens, cols])?);
            Ok(Box::new(move || glu_both(Activation::Silu, &both, To::Into(&h)).map(drop)))
        }),
        speed("glu_both_kept", &wide, Cost { flops: 0.0, bytes: words(2 * inner) + 6.0 * inner as f64 }, move |f| {
            let (both, h) = (f.tensor(&[tokens, 2 * cols])?, f.tensor_of(Element::F16, &[tokens, cols])?);
            let kept = f.tensor_of(Element::F16, &[tokens, 2 * cols])?;
            Ok(Box::new(move || glu_both_kept(Activation::Silu, &both, [&h, &kept].map(To::Into)).map(drop)))
        }),
        speed("glu_both_backward", &wide, cost(3 * inner, 2 * inner), move |f| {
            let (both, dboth) = (f.tensor(&[tokens, 2 * cols])?, f.tensor_of(element, &[tokens, 2 * cols])?);
            let dh = f.tensor(&[tokens, cols])?;
            Ok(Box::new(move || glu_both_backward(Activation::Silu, &dh, &both, To::Into(&dboth)).map(drop)))
        }),
    ]
}

/// What works on elements, wherever they lie.
fn pointwise(model: &str, c: &ModelConfig, tokens: usize) -> Vec<Speed> {
    let hidden = tokens * c.hidden_size;
    let narrow = format!("{model} [{tokens}, {}]", c.hidden_size);
    let three = move |f: &mut Filler, n: usize| Ok((f.tensor(&[n])?, f.tensor(&[n])?, f.tensor(&[n])?));
    vec![
        speed("add", &narrow, moved(3 * hidden), move |f| {
            let (a, b, c) = three(f, hidden)?;
            Ok(Box::new(move || add(&a, &b, To::Into(&c)).map(drop)))
        }),
        speed("add_into", &narrow, moved(3 * hidden), move |f| {
            let (a, b) = (f.tensor(&[hidden])?, f.tensor(&[hidden])?);
            Ok(Box::new(move || add_into(&a, &b, 0.5)))
        }),
        speed("scale", &narrow, moved(2 * hidden), move |f| {
            let a = f.tensor(&[hidden])?;
            Ok(Box::new(move || scale(&a, 1.0)))
        }),
        speed("round", &narrow, Cost { flops: 0.0, bytes: 6.0 * hidden as f64 }, move |f| {
            let (a, h) = (f.tensor(&[hidden])?, f.tensor_of(Element::F16, &[hidden])?);
            Ok(Box::new(move || round(&a, To::Into(&h)).map(drop)))
        }),
        speed("sum", &narrow, moved(hidden), move |f| {
            let (x, out) = (f.tensor(&[hidden])?, f.tensor(&[1])?);
            Ok(Box::new(move || sum(&x, &out, 0, false)))
        }),
    ]
}

/// Norms of rows, one a token; they make `element`s.
fn norms(model: &str, c: &ModelConfig, tokens: usize, element: Element) -> Vec<Speed> {
    let (hidden, n) = (c.hidden_size, tokens * c.hidden_size);
    let what = format!("{model} [{tokens}, {hidden}]");
    let constants = RmsNorm { eps: c.rms_norm_eps, unit_offset: false };
    let pair = move |f: &mut Filler| Ok((f.tensor(&[tokens, hidden])?, f.tensor(&[tokens, hidden])?));
    let backward = move |f: &mut Filler, weight: bool| -> Result<Job> {
        let ((dy, x), dx) = (pair(f)?, f.tensor(&[tokens, hidden])?);
        let (w, rstd, dw) = (f.tensor(&[hidden])?, f.tensor(&[tokens])?, f.tensor(&[hidden])?);
        Ok(Box::new(move || {
            rmsnorm_backward([&dy, &x, &w, &rstd], constants, To::Into(&dx), weight.then_some(&dw)).map(drop)
        }))
    };
    vec![
        speed("rmsnorm", &what, Cost { flops: 0.0, bytes: words(n) + (element.bytes() * n) as f64 }, move |f| {
            let (x, y) = (f.tensor(&[tokens, hidden])?, f.tensor_of(element, &[tokens, hidden])?);
            let (w, rstd) = (f.tensor(&[hidden])?, f.tensor(&[tokens])?);
            Ok(Box::new(move || rmsnorm_forward(&x, &w, constants, To::Into(&y), To::Into(&rstd)).map(drop)))
        }),
        speed(
            "add_rmsnorm",
            &what,
            Cost { flops: 0.0, bytes: words(3 * n) + (element.bytes() * n) as f64 },
            move |f| {
                let ((a, b), x) = (pair(f)?, f.tensor(&[tokens, hidden])?);
                let (y, w) = (f.tensor_of(element, &[tokens, hidden])?, f.tensor(&[hidden])?);
                let rstd = f.tensor(&[tokens])?;
                Ok(Box::new(move || {
                    let to = [&x, &y, &rstd].map(To::Into);
                    add_rmsnorm_forward([&a, &b], &w, constants, to).map(drop)
                }))
            },
        ),
        speed("rmsnorm_backward", &what, moved(3 * n), move |f| backward(f, false)),
        speed("rmsnorm_backward_round", &what, Cost { flops: 0.0, bytes: words(3 * n) + 2.0 * n as f64 }, move |f| {
            let ((dy, x), dx) = (pair(f)?, f.tensor(&[tokens, hidden])?);
            let (w, rstd) = (f.tensor(&[hidden])?, f.tensor(&[tokens])?);
            let rounded = f.tensor_of(Element::F16, &[tokens, hidden])?;
            Ok(Box::new(move || {
                let to = (To::Into(&dx), To::Into(&rounded));
                rmsnorm_backward_round([&dy, &x, &w, &rstd], constants, to.0, to.1, None).map(drop)
            }))
        }),
        speed("rmsnorm_weight", format!("{what} and dx"), moved(3 * n), move |f| backward(f, true)),
    ]
}

/// What works on rows, one a token.
fn rows_by_token(model: &str, c: &ModelConfig, tokens: usize, dtype: DType) -> Vec<Speed> {
    let (hidden, vocab) = (c.hidden_size, c.vocab_size);
    let (heads, head_dim, theta) = (c.num_attention_heads, c.head_dim, c.rope_theta);
    let (n, q) = (tokens * hidden, heads * head_dim);
    let what = format!("{model} [{tokens}, {hidden}]");
    let pair = move |f: &mut Filler| Ok((f.tensor(&[tokens, hidden])?, f.tensor(&[tokens, hidden])?));
    let table = move |f: &Filler| {
        RopeTable::new(f.device(), &RopeScaling::None.frequencies(theta, head_dim, false), tokens, 1.0)
    };
    // tokens spread over the vocabulary, some of them twice
    let token = move |t: usize| t.wrapping_mul(7919) % vocab;
    let mut rows = vec![
        speed("rope", format!("{model} [{tokens}, {q}]"), moved(2 * tokens * q), move |f| {
            let (x, y, positions) = (f.tensor(&[tokens, q])?, f.tensor(&[tokens, q])?, f.indices(tokens, |t| t)?);
            let table = table(f)?;
            Ok(Box::new(move || turn(&x, &table, &positions, Turn::Forward, To::Into(&y)).map(drop)))
        }),
        speed("gather_rows", &what, moved(2 * n), move |f| {
            let ((x, y), places) = (pair(f)?, f.indices(tokens, |t| tokens - 1 - t)?);
            Ok(Box::new(move || gather_rows(&x, &places, To::Into(&y)).map(drop)))
        }),
        speed("scatter_rows_add", &what, moved(3 * n), move |f| {
            let ((x, dy), places) = (pair(f)?, f.indices(tokens, |t| tokens - 1 - t)?);
            Ok(Box::new(move || scatter_rows_add(&x, &places, &dy)))
        }),
        speed("center", &what, moved(3 * n), move |f| {
            let (x, y) = pair(f)?;
            Ok(Box::new(move || center(&x, To::Into(&y)).map(drop)))
        }),
        speed("columns", &what, moved(n), move |f| {
            let (x, y) = (f.tensor(&[tokens, hidden])?, f.tensor(&[tokens, hidden / 2])?);
            Ok(Box::new(move || columns(&x, hidden / 4, hidden / 2, To::Into(&y)).map(drop)))
        }),
        speed("dropout", &what, moved(2 * n), move |f| {
            let ((x, y), keys) = (pair(f)?, f.indices(tokens, |t| t)?);
            let some = Dropout { p: 0.1, seed: 1, stream: 2, step: 3 };
            Ok(Box::new(move || drop_some(&x, &keys, some, To::Into(&y)).map(drop)))
        }),
        speed("embedding_backward", format!("{what} of {vocab}"), moved(3 * n), move |f| {
            let (dw, dy) = (f.tensor(&[vocab, hidden])?, f.tensor(&[tokens, hidden])?);
            let ids: Vec<u32> = (0..tokens).map(|t| token(t) as u32).collect();
            let order = TokenOrder::new(f.device(), &ids, vocab)?;
            Ok(Box::new(move || embedding_backward(&dw, &order, &dy, 1.0)))
        }),
    ];
    if hidden.is_multiple_of(dtype.block_elements()) {
        rows.push(speed("embedding", format!("{what} of {vocab} {dtype}"), moved(n), move |f| {
            let (table, y) = (f.matrix(dtype, vocab, hidden)?, f.tensor(&[tokens, hidden])?);
            let ids = f.indices(tokens, token)?;
            Ok(Box::new(move || embedding_forward(&table, None, &ids, 1.0, To::Into(&y)).map(drop)))
        }));
    }
    rows
}

/// Queries, keys and values out of one matrix, turned, normed too where so named, and their gradients back into one of `element`s.
fn turned(model: &str, c: &ModelConfig, tokens: usize, element: Element) -> [Speed; 4] {
    let (heads, kv_heads, head_dim, theta) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rope_theta);
    let widths = [heads, kv_heads, kv_heads].map(|h| h * head_dim);
    let width: usize = widths.iter().sum();
    let (n, what) = (tokens * width, format!("{model} [{tokens}, {width}]"));
    let norm = RmsNorm { eps: c.rms_norm_eps, unit_offset: false };
    let operands = move |f: &mut Filler| -> Result<_> {
        let table = RopeTable::new(f.device(), &RopeScaling::None.frequencies(theta, head_dim, false), tokens, 1.0)?;
        let [q, k, v] = widths.map(|w| f.tensor(&[tokens, w]));
        let weights = f.tensor(&[2, head_dim.next_multiple_of(64)])?;
        Ok((table, f.indices(tokens, |t| t)?, weights, f.tensor(&[tokens, width])?, [q?, k?, v?]))
    };
    let split = move |f: &mut Filler, normed: bool| -> Result<Job> {
        let (table, positions, weights, all, [q, k, v]) = operands(f)?;
        Ok(Box::new(move || {
            let heads = Heads { heads, kv_heads, table: &table, positions: &positions };
            let to = [&q, &k, &v].map(To::Into);
            match normed {
                false => rope_split(&all, heads, to).map(drop),
                true => norm_split(&all, HeadNorm { norm, weights: &weights }, heads, to).map(drop),
            }
        }))
    };
    let merge = move |f: &mut Filler, normed: bool| -> Result<Job> {
        let (table, positions, weights, all, [q, k, v]) = operands(f)?;
        let merged = f.tensor_of(element, &[tokens, width])?;
        Ok(Box::new(move || {
            let heads = Heads { heads, kv_heads, table: &table, positions: &positions };
            let (d, to) = ([&q, &k, &v], To::Into(&merged));
            match normed {
                false => rope_merge(d, heads, to).map(drop),
                true => norm_merge(d, &all, HeadNorm { norm, weights: &weights }, heads, to).map(drop),
            }
        }))
    };
    let merged = |read: usize| Cost { flops: 0.0, bytes: words(read) + (element.bytes() * n) as f64 };
    [
        speed("rope_split", &what, moved(2 * n), move |f| split(f, false)),
        speed("norm_split", &what, moved(2 * n), move |f| split(f, true)),
        speed("rope_merge", &what, merged(n), move |f| merge(f, false)),
        speed("norm_merge", &what, merged(2 * n), move |f| merge(f, true)),
    ]
}

/// A chunk of the head's logits.
fn vocabulary(model: &str, c: &ModelConfig, tokens: usize) -> [Speed; 3] {
    let vocab = c.vocab_size;
    let what = format!("{model} [{tokens}, {vocab}]");
    let operands = move |f: &mut Filler| -> Result<_> {
        Ok((f.tensor(&[tokens, vocab])?, f.indices(tokens, |t| t % vocab)?, f.tensor(&[tokens])?))
    };
    [
        speed("cross_entropy", &what, moved(tokens * vocab), move |f| {
            let (logits, targets, nll) = operands(f)?;
            Ok(Box::new(move || cross_entropy(&logits, &targets, Logits::plain(vocab), To::Into(&nll)).map(drop)))
        }),
        speed("cross_entropy_grad", &what, moved(2 * tokens * vocab), move |f| {
            let (logits, targets, nll) = operands(f)?;
            Ok(Box::new(move || {
                cross_entropy_grad(&logits, &targets, Logits::plain(vocab), 1.0, To::Into(&nll)).map(drop)
            }))
        }),
        speed("argmax", &what, moved(tokens * vocab), move |f| {
            let (logits, _, best) = operands(f)?;
            Ok(Box::new(move || argmax_rows(&logits, vocab, To::Into(&best)).map(drop)))
        }),
    ]
}

/// The optimiser on as many parameters as one matrix has, and that matrix's mask.
fn parameters(model: &str, c: &ModelConfig, density: f64) -> [Speed; 5] {
    let n = c.hidden_size * c.intermediate_size;
    let what = format!("{model} [{n}]");
    [
        speed("adamw", &what, moved(7 * n), move |f| {
            let (param, grad) = (f.tensor(&[n])?, f.tensor(&[n])?);
            let (m, v) = (f.tensor(&[n])?, f.tensor(&[n])?);
            v.clear()?;
            let steps = counted(f)?;
            let step = AdamW {
                lr: 1e-4,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                grad_scale: 1.0,
                bf16: false,
            };
            Ok(Box::new(move || adamw_step(&param, &grad, [&m, &v], &steps, &step, None)))
        }),
        speed("adamw_count", &what, moved(4), move |f| {
            let (loss, norm, steps) = (f.tensor(&[1])?, f.tensor(&[2])?, counted(f)?);
            norm.clear()?;
            Ok(Box::new(move || count_step(&steps, &loss, &norm, 0.9, 0.999)))
        }),
        speed("sum_of_squares", &what, moved(n), move |f| {
            let (x, out) = (f.tensor(&[n])?, f.tensor(&[2])?);
            Ok(Box::new(move || sum_of_squares(&[&x], &out)))
        }),
        speed("score", &what, moved(3 * n), move |f| {
            let (score, grad, sum) = (f.tensor(&[n])?, f.tensor(&[n])?, f.tensor(&[2])?);
            sum.clear()?;
            Ok(Box::new(move || score_accumulate(&score, &grad, &sum, 1, true, 1.0)))
        }),
        speed("topk", &what, moved(n), move |f| {
            let score = f.tensor(&[n])?;
            let (k, mask) = ((density * n as f64) as usize, f.indices(n.div_ceil(32), |_| 0)?);
            Ok(Box::new(move || topk_mask(&score, k.max(1), To::Into(&mask)).map(drop)))
        }),
    ]
}

/// A count that stands at its first step.
fn counted(f: &mut Filler) -> Result<StepCount> {
    let (loss, norm) = (f.tensor(&[1])?, f.tensor(&[2])?);
    norm.clear()?;
    let steps = StepCount::new(f.device())?;
    count_step(&steps, &loss, &norm, 0.9, 0.999)?;
    Ok(steps)
}
