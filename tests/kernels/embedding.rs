//! Rows by index, out of tables in every storage format, and back.

use crate::common::*;
use rugosa::dtype::DType;
use rugosa::kernels::To;
use rugosa::kernels::embedding::{
    TokenOrder, columns, columns_add, embedding_backward, embedding_forward, gather_rows, scatter_rows_add,
};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};

/// A table in a file's format: its bytes and what they mean.
fn table(rng: &mut Rng, dtype: DType, elements: usize) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    if !dtype.is_quantised() {
        for v in random(rng, elements) {
            match dtype {
                DType::F32 => bytes.extend(v.to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f32(v).to_le_bytes()),
                _ => bytes.extend(half::bf16::from_f32(v).to_le_bytes()),
            }
            values.push(match dtype {
                DType::F32 => v.into(),
                DType::F16 => half::f16::from_f32(v).to_f64(),
                _ => half::bf16::from_f32(v).to_f64(),
            });
        }
        return (bytes, values);
    }
    for _ in 0..elements / 32 {
        let scale = half::f16::from_f64(0.1 * rng.normal());
        let minimum = half::f16::from_f64(rng.normal());
        bytes.extend(scale.to_le_bytes());
        let codes: Vec<u8> = (0..32).map(|_| rng.below(256) as u8).collect();
        if dtype == DType::Q8_0 {
            bytes.extend(&codes);
            values.extend(codes.iter().map(|c| scale.to_f64() * f64::from(*c as i8)));
            continue;
        }
        if dtype == DType::Q4_1 {
            bytes.extend(minimum.to_le_bytes());
        }
        let offset = if dtype == DType::Q4_1 { minimum.to_f64() } else { -8.0 * scale.to_f64() };
        bytes.extend((0..16).map(|i| codes[i] & 15 | codes[i + 16] << 4));
        values.extend(codes.iter().map(|c| scale.to_f64() * f64::from(c & 15) + offset));
    }
    (bytes, values)
}

#[test]
fn embeddings_from_every_format() {
    let dev = device();
    let mut rng = Rng::named(1, "embedding");
    let plain = [DType::F32, DType::F16, DType::BF16];
    let mut cases: Vec<_> = plain.into_iter().flat_map(|d| [(d, 1), (d, 7), (d, 33), (d, 64)]).collect();
    cases.extend([DType::Q8_0, DType::Q4_0, DType::Q4_1].into_iter().flat_map(|d| [(d, 32), (d, 160)]));
    for (dtype, cols) in cases {
        let what = format!("{dtype} {cols}");
        let vocab = 20; // even: 16-bit tables are uploaded in whole words
        let (bytes, values) = table(&mut rng, dtype, vocab * cols);
        let weight = Weight::upload(dev, dtype, vocab, cols, &bytes).unwrap();
        let mut ids: Vec<u32> = (0..33).map(|_| rng.below(vocab as u64) as u32).collect();
        (ids[0], ids[1]) = (0, vocab as u32 - 1);
        ids[5] = vocab as u32; // outside: zeros
        let at = Tensor::from_slice(dev, &[ids.len()], &ids, "test").unwrap();
        let y = Guarded::new(dev, &[ids.len(), cols]);
        embedding_forward(&weight, None, &at, 1.5, To::Into(&y.tensor)).unwrap();
        let value = |id: u32, c: usize| values.get(id as usize * cols + c).map_or(0.0, |v| 1.5 * v);
        // a block's minimum and scaled code round apart
        let want =
            |v: f64| Exact { value: v, magnitude: v.abs() + if dtype.is_quantised() { 8.0 } else { 0.0 }, terms: 1 };
        let want: Vec<_> = ids.iter().flat_map(|id| (0..cols).map(|c| want(value(*id, c)))).collect();
        assert_close(&what, &y.read(&what), &want);
    }
}

#[test]
fn shards_write_the_rows_that_are_theirs() {
    let dev = device();
    let mut rng = Rng::named(4, "shards");
    for cols in [7, 32] {
        let values = random(&mut rng, 20 * cols);
        let ids: Vec<u32> = (0..40).map(|_| rng.below(20) as u32).collect();
        let at = Tensor::from_slice(dev, &[ids.len()], &ids, "test").unwrap();
        let y = Guarded::new(dev, &[ids.len(), cols]);
        // `read` fails on a row that no shard has written
        for (first, end) in [(0, 6), (6, 13), (13, 20)] {
            let bytes: Vec<u8> = values[first * cols..end * cols].iter().flat_map(|v| v.to_le_bytes()).collect();
            let shard = Weight::upload(dev, DType::F32, end - first, cols, &bytes).unwrap();
            embedding_forward(&shard, Some(first), &at, 1.0, To::Into(&y.tensor)).unwrap();
        }
        let want: Vec<f32> = ids.iter().flat_map(|id| values[*id as usize * cols..][..cols].to_vec()).collect();
        assert_eq!(y.read("shards"), want);
    }
}

#[test]
fn some_columns_of_a_matrix() {
    let dev = device();
    let mut rng = Rng::named(5, "columns");
    for (n, x_cols, first, cols) in [(1, 1, 0, 1), (7, 5, 2, 3), (33, 65, 31, 33), (129, 24, 8, 16)] {
        let x = random(&mut rng, n * x_cols);
        let tx = Tensor::from_slice(dev, &[n, x_cols], &x, "test").unwrap();
        let y = Guarded::new(dev, &[n, cols]);
        columns(&tx, first, cols, To::Into(&y.tensor)).unwrap();
        let want: Vec<f32> = (0..n).flat_map(|t| x[t * x_cols + first..][..cols].to_vec()).collect();
        assert_eq!(y.read("columns"), want);
        assert!(columns(&tx, first + 1, x_cols - first, To::default()).is_err());

        let (x, y) = (Guarded::holding(dev, &[n, x_cols], &x), random(&mut rng, n * cols));
        let ty = Tensor::from_slice(dev, &[n, cols], &y, "test").unwrap();
        let before: Vec<f32> = x.read("columns_add");
        columns_add(&x.tensor, first, &ty).unwrap();
        let added = |i: usize| match (i % x_cols).checked_sub(first) {
            Some(j) if j < cols => y[i / x_cols * cols + j],
            _ => 0.0,
        };
        let want: Vec<f32> = before.iter().enumerate().map(|(i, v)| v + added(i)).collect();
        assert_eq!(x.read("columns_add"), want);
        assert!(columns_add(&x.tensor, x_cols - cols + 1, &ty).is_err());
        let other = Tensor::from_slice(dev, &[n + 1, cols], &vec![0.0f32; (n + 1) * cols], "test").unwrap();
        assert!(columns_add(&x.tensor, first, &other).is_err());
    }
}

#[test]
fn gradients_of_embeddings() {
    let dev = device();
    let mut rng = Rng::named(2, "embedding");
    for (tokens, vocab, cols) in [(1, 1, 1), (7, 5, 8), (129, 9, 33), (65, 400, 64)] {
        let ids: Vec<u32> = (0..tokens).map(|_| rng.below(vocab as u64) as u32).collect();
        let (dy, dw0) = (random(&mut rng, tokens * cols), random(&mut rng, vocab * cols));
        let mut want: Vec<Exact> = dw0.iter().map(|v| Exact::of(f64::from(*v))).collect();
        for (t, id) in ids.iter().enumerate() {
            (0..cols).for_each(|c| want[*id as usize * cols + c].add(0.5 * f64::from(dy[t * cols + c])));
        }
        let order = TokenOrder::new(dev, &ids, vocab).unwrap();
        let dw = Guarded::holding(dev, &[vocab, cols], &dw0);
        let tdy = Tensor::from_slice(dev, &[tokens, cols], &dy, "test").unwrap();
        embedding_backward(&dw.tensor, &order, &tdy, 0.5).unwrap();
        let what = format!("{tokens} tokens of {vocab}, {cols} columns");
        assert_close(&what, &dw.read(&what), &want);
    }
}

#[test]
fn rows_out_and_back() {
    let dev = device();
    let mut rng = Rng::named(3, "rows");
    for (tokens, n, cols) in [(1, 1, 1), (9, 4, 7), (65, 31, 64), (33, 33, 129), (5, 0, 8)] {
        let mut all: Vec<u32> = (0..tokens as u32).collect();
        rng.shuffle(&mut all);
        let rows = &all[..n];
        let (x, dy) = (random(&mut rng, tokens * cols), random(&mut rng, n * cols));
        let tx = Guarded::holding(dev, &[tokens, cols], &x);
        let at = Tensor::from_slice(dev, &[n], rows, "test").unwrap();
        let y = Guarded::new(dev, &[n, cols]);
        gather_rows(&tx.tensor, &at, To::Into(&y.tensor)).unwrap();
        let want: Vec<f32> = rows.iter().flat_map(|r| x[*r as usize * cols..][..cols].to_vec()).collect();
        assert_eq!(y.read("rows"), want);

        let tdy = Tensor::from_slice(dev, &[n, cols], &dy, "test").unwrap();
        scatter_rows_add(&tx.tensor, &at, &tdy).unwrap();
        let mut want = x.clone();
        for (i, r) in rows.iter().enumerate() {
            (0..cols).for_each(|c| want[*r as usize * cols + c] += dy[i * cols + c]);
        }
        assert_eq!(tx.read("x"), want, "one addition rounds alike everywhere");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let error = TokenOrder::new(dev, &[0, 4, 7], 5).unwrap_err().to_string();
    assert!(error.contains("token 2") && error.contains('7') && error.contains("of 5"), "{error}");
    let order = TokenOrder::new(dev, &[0, 4], 5).unwrap();
    let t = |shape: &[usize]| Tensor::zeros(dev, shape, "test").unwrap();
    assert!(embedding_backward(&t(&[5, 4]), &order, &t(&[3, 4]), 1.0).is_err());
    assert!(embedding_backward(&t(&[6, 4]), &order, &t(&[2, 4]), 1.0).is_err());
    assert!(embedding_backward(&t(&[5, 3]), &order, &t(&[2, 4]), 1.0).is_err());
    assert!(scatter_rows_add(&t(&[5, 4]), &t(&[3]), &t(&[2, 4])).is_err());
    let x = t(&[5, 4]);
    assert!(gather_rows(&x, &t(&[2]), To::Into(&t(&[2, 3]))).is_err());
    assert!(gather_rows(&x, &t(&[5]), To::Into(&x)).unwrap_err().to_string().contains("same buffer"));
}
