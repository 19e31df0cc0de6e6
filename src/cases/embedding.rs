//! Rows by index, out of tables in every storage format, and back; columns.

use super::{DTYPES, Exact, Level, Near, Op, Row, Trial, other_dtypes, stored};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::embedding::{
    COLUMNS, GATHER, SCATTER_ADD, TokenOrder, columns, embedding_backward, embedding_forward, gather_rows,
    scatter_rows_add,
};
use crate::tensor::Weight;

const EMBEDDING: Op = Op {
    name: "embedding",
    kernels: &[&GATHER],
    why: "a block's code times its scale, plus its minimum, times the factor: each rounded once, relative to the largest \
          of them",
};
const SCATTER: Op = Op {
    name: "embedding_backward",
    kernels: &[&SCATTER_ADD],
    why: "a sum over the places of a token, in order: 4√n + 2 units of the sum of magnitudes",
};
const GATHER_OP: Op = Op { name: "gather_rows", kernels: &[&GATHER], why: "copies are exact" };
const SCATTER_ROWS: Op = Op { name: "scatter_rows_add", kernels: &[&SCATTER_ADD], why: "one addition" };
const COLUMNS_OP: Op = Op { name: "columns", kernels: &[&COLUMNS], why: "copies are exact" };

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (dtype, is_one) in DTYPES.into_iter().map(|d| (d, false)).chain(other_dtypes().map(|d| (d, true))) {
        let one = [160usize.next_multiple_of(dtype.block_elements())];
        let widths: &[usize] = match dtype.is_quantised() {
            _ if is_one => &one,
            true => &[32, 160],
            false => &[1, 7, 33, 64],
        };
        for (&cols, shard) in widths.iter().flat_map(|c| [(c, false), (c, true)]) {
            let what = format!("{dtype} 20x{cols}{}", if shard { " in shards" } else { "" });
            let level = if cols >= 32 { Level::Quick } else { Level::Full };
            rows.push(EMBEDDING.row(level, what, move |t| embedding(t, dtype, cols, shard)).of(dtype));
        }
    }
    for (tokens, vocab, cols) in [(1, 1, 1), (7, 5, 8), (129, 9, 33), (65, 400, 64)] {
        let what = format!("{tokens} tokens of {vocab}, {cols} columns");
        rows.push(SCATTER.row(Level::Quick, what, move |t| backward(t, tokens, vocab, cols)));
    }
    for (tokens, n, cols) in [(1, 1, 1), (9, 4, 7), (65, 31, 64), (33, 33, 129), (5, 0, 8)] {
        let what = format!("{n} of {tokens} rows of {cols}");
        let level = if cols > 1 { Level::Quick } else { Level::Full };
        rows.push(GATHER_OP.row(level, &what, move |t| some_rows(t, tokens, n, cols, false)));
        rows.push(SCATTER_ROWS.row(level, what, move |t| some_rows(t, tokens, n, cols, true)));
    }
    for (n, x_cols, first, cols) in [(1, 1, 0, 1), (7, 5, 2, 3), (33, 65, 31, 33), (129, 24, 8, 16)] {
        let what = format!("{first}..{} of [{n}, {x_cols}]", first + cols);
        rows.push(COLUMNS_OP.row(Level::Quick, what, move |t| {
            let x = t.random(n * x_cols);
            let y = t.out(&[n, cols])?;
            columns(&t.up(&[n, x_cols], &x)?, first, cols, To::Into(&y.tensor))?;
            let want: Vec<f32> = (0..n).flat_map(|t| x[t * x_cols + first..][..cols].to_vec()).collect();
            t.compare_exactly("y", &y, &want)
        }));
    }
    rows
}

fn embedding(t: &mut Trial<'_>, dtype: DType, cols: usize, sharded: bool) -> Result<()> {
    let vocab = 20; // even: 16-bit tables are uploaded in whole words
    let (bytes, values) = stored(dtype, &t.random(vocab * cols))?;
    let mut ids: Vec<u32> = (0..33).map(|_| t.rng.below(vocab as u64) as u32).collect();
    (ids[0], ids[1]) = (0, vocab as u32 - 1);
    if !sharded {
        ids[5] = vocab as u32; // outside of the table: zeros
    }
    let at = t.up(&[ids.len()], &ids)?;
    let y = t.out(&[ids.len(), cols])?;
    // whole words in each shard too; a row that no shard writes keeps its poison
    let shards: &[(usize, usize)] = if sharded { &[(0, 6), (6, 14), (14, 20)] } else { &[(0, 20)] };
    for &(first, end) in shards {
        let row = bytes.len() / vocab;
        let table = Weight::upload(t.device, dtype, end - first, cols, &bytes[first * row..end * row])?;
        embedding_forward(&table, sharded.then_some(first), &at, 1.5, To::Into(&y.tensor))?;
    }
    let value = |id: u32, c: usize| values.get(id as usize * cols + c).map_or(0.0, |v| 1.5 * f64::from(*v));
    let want = ids.iter().flat_map(|id| (0..cols).map(move |c| (*id, c))).map(|(id, c)| {
        let value = value(id, c);
        // a block's minimum and scaled code round apart
        Exact { value, magnitude: value.abs() + if dtype.is_quantised() { 8.0 } else { 0.0 }, terms: 1 }
    });
    let want: Vec<Near> = want.map(Near::from).collect();
    t.compare("y", &y, want)
}

fn backward(t: &mut Trial<'_>, tokens: usize, vocab: usize, cols: usize) -> Result<()> {
    let ids: Vec<u32> = (0..tokens).map(|_| t.rng.below(vocab as u64) as u32).collect();
    let (dy, start) = (t.random(tokens * cols), t.random(vocab * cols));
    let mut want: Vec<Exact> = start.iter().map(|v| Exact::of(f64::from(*v))).collect();
    for (i, id) in ids.iter().enumerate() {
        (0..cols).for_each(|c| want[*id as usize * cols + c].add(0.5 * f64::from(dy[i * cols + c])));
    }
    let order = TokenOrder::new(t.device, &ids, vocab)?;
    let dw = t.holding(&[vocab, cols], &start)?;
    embedding_backward(&dw.tensor, &order, &t.up(&[tokens, cols], &dy)?, 0.5)?;
    t.compare("dW", &dw, want)
}

fn some_rows(t: &mut Trial<'_>, tokens: usize, n: usize, cols: usize, back: bool) -> Result<()> {
    let mut rows: Vec<u32> = (0..tokens as u32).collect();
    t.rng.shuffle(&mut rows);
    rows.truncate(n);
    let (x, dy) = (t.random(tokens * cols), t.random(n * cols));
    let tx = t.holding(&[tokens, cols], &x)?;
    let at = t.up(&[n], &rows)?;
    if !back {
        let y = t.out(&[n, cols])?;
        gather_rows(&tx.tensor, &at, To::Into(&y.tensor))?;
        let want: Vec<f32> = rows.iter().flat_map(|r| x[*r as usize * cols..][..cols].to_vec()).collect();
        return t.compare_exactly("y", &y, &want);
    }
    scatter_rows_add(&tx.tensor, &at, &t.up(&[n, cols], &dy)?)?;
    let mut want = x;
    for (i, r) in rows.iter().enumerate() {
        (0..cols).for_each(|c| want[*r as usize * cols + c] += dy[i * cols + c]);
    }
    // one addition rounds alike everywhere
    t.compare_exactly("x", &tx, &want)
}
