//! Products as a run asked for them, with random operands.

use crate::cases::speeds::Job;
use crate::cases::{Filler, MaskKind};
use crate::device::tiles::{Family, Product};
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::attention::{
    AttentionShape, Gradients, Ranges, Saved, attention_backward, attention_forward, operands,
};
use crate::kernels::product::{Fused, Layout, Operand, Out, matmul, matmul_on_units, rosa_linear};
use crate::kernels::sparse::sddmm;
use crate::tensor::{Element, Tensor, Weight, WeightFormat};

/// A product's operands, what runs it, and where it writes.
pub(super) fn prepare(filler: &mut Filler, product: &Product) -> Result<(Job, Tensor)> {
    match product.key.family {
        Family::Matmul | Family::MatmulCoop | Family::RosaLinear | Family::RosaLinearCoop => dense(filler, product),
        Family::Sddmm => entries(filler, product),
        Family::AttentionForward | Family::AttentionQuery | Family::AttentionKeyValue => attention(filler, product),
    }
}

fn unknown(product: &Product) -> Error {
    Error::shape("tune", format!("{:?}", product.key))
}

fn format(product: &Product, i: usize) -> Result<WeightFormat> {
    WeightFormat::numbered(product.key.formats[i]).ok_or_else(|| unknown(product))
}

fn element(product: &Product, i: usize) -> Result<Element> {
    Ok(if format(product, i)? == WeightFormat::F16 { Element::F16 } else { Element::F32 })
}

fn dense(filler: &mut Filler, product: &Product) -> Result<(Job, Tensor)> {
    let Product { key, shape: [m, n, k], stride_column, rank, nnz, bias, accumulate, .. } = *product;
    let layout = [Layout::Nt, Layout::Nn, Layout::Tn].into_iter().find(|l| *l as u32 == key.layout);
    let layout = layout.ok_or_else(|| unknown(product))?;
    // zeros, so that what lies beside the product's columns is the same each time
    let c = Tensor::zeros(filler.device(), &[m, stride_column.0], "bench")?;
    let to = c.clone();
    let a = if layout == Layout::Tn { [k, m] } else { [m, k] };
    let b = if layout == Layout::Nt { [n, k] } else { [k, n] };
    let job: Job = match key.family {
        Family::Matmul => {
            let (a, b) = (filler.tensor(&a)?, filler.tensor(&b)?);
            Box::new(move || matmul(layout, &a, &b, out(&c, stride_column, accumulate)).map(drop))
        }
        Family::MatmulCoop => {
            let a = Matrix::new(filler, format(product, 0)?, a)?;
            let b = Matrix::new(filler, format(product, 1)?, b)?;
            Box::new(move || {
                let out = out(&c, stride_column, accumulate);
                matmul_on_units(layout, a.operand(), b.operand(), c.device(), out).map(drop)
            })
        }
        _ => {
            let x = filler.tensor_of(element(product, 0)?, &a)?;
            let w = weight(filler, format(product, 1)?, b)?;
            let density = density(nnz, b[0] * b[1]);
            let sparse = key.sparse.then(|| filler.mask(MaskKind::Uniform, w.rows(), w.cols(), density)).transpose()?;
            let v = if layout == Layout::Nt { [n, rank] } else { [rank, n] };
            let low_rank = key.low_rank.then(|| Ok((filler.tensor(&[m, rank])?, filler.tensor(&v)?))).transpose()?;
            let bias = bias.then(|| filler.tensor(&[n])).transpose()?;
            Box::new(move || {
                let fused = Fused {
                    sparse: sparse.as_ref().map(|(index, values)| (index, values)),
                    low_rank: low_rank.as_ref().map(|(u, v)| (u, 0, v)),
                    bias: bias.as_ref(),
                };
                rosa_linear(layout, &x, &w, fused, out(&c, stride_column, accumulate)).map(drop)
            })
        }
    };
    Ok((job, to))
}

/// Of so many entries, and not one less by rounding; a mask that is nearly full takes long to draw, and no product is another with it.
fn density(nnz: usize, elements: usize) -> f64 {
    ((nnz as f64 + 0.5) / elements.max(1) as f64).min(0.5)
}

/// dS of a mask, which is drawn with the density of the product's.
fn entries(filler: &mut Filler, product: &Product) -> Result<(Job, Tensor)> {
    let [rows, cols, tokens] = product.shape;
    let dy = filler.tensor_of(element(product, 0)?, &[tokens, rows])?;
    let x = filler.tensor_of(element(product, 1)?, &[tokens, cols])?;
    let density = density(product.nnz, rows * cols);
    let (index, _) = filler.mask(MaskKind::Clustered, rows, cols, density)?;
    let ds = Tensor::zeros(filler.device(), &[index.nnz()], "bench")?;
    let to = ds.clone();
    Ok((Box::new(move || sddmm(&dy, &x, &index, &ds)), to))
}

/// A pass of causal attention over segments as long as what the product's queries see at most; the backward's passes run with
/// each other.
fn attention(filler: &mut Filler, product: &Product) -> Result<(Job, Tensor)> {
    let ([tokens, heads, head_dim], kv_heads) = (product.shape, product.key.count);
    let span = product.key.span.clamp(1, tokens.max(1));
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
    // random operands are 0.02 from zero: so scores are 1 from it
    let scale = 2500.0 / (head_dim as f32).sqrt();
    let shape = AttentionShape { heads, kv_heads, head_dim, scale, softcap: None, span: Some(span) };
    let made_of = operands(filler.device());
    let mut of = |width: usize| filler.tensor_of(made_of, &[tokens, width]);
    let (q, k, v) = (of(wide)?, of(narrow)?, of(narrow)?);
    let [start, end, first, last] = filler.segments(tokens, span)?;
    let (out, lse) = (filler.tensor(&[tokens, wide])?, filler.tensor(&[tokens, heads])?);
    if product.key.family == Family::AttentionForward {
        let to = out.clone();
        let forward = move || {
            let keys = Ranges { start: &start, end: &end };
            attention_forward(&q, &k, &v, keys, &shape, To::Into(&out), To::Into(&lse)).map(drop)
        };
        return Ok((Box::new(forward), to));
    }
    attention_forward(&q, &k, &v, Ranges { start: &start, end: &end }, &shape, To::Into(&out), To::Into(&lse))?;
    let d_out = filler.tensor(&[tokens, wide])?;
    // both gradients of a pass in one tensor, as one is what is compared
    let second = (tokens * narrow).next_multiple_of(64);
    let (dq, dkv) = (filler.tensor(&[tokens, wide])?, Tensor::zeros(filler.device(), &[2 * second], "bench")?);
    let to = if product.key.family == Family::AttentionQuery { dq.clone() } else { dkv.clone() };
    let part = |first: usize| dkv.view(first, &[tokens, narrow]);
    let gradients = Gradients { dq, dk: part(0)?, dv: part(second)? };
    let backward = move || {
        let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        let (keys, queries) = (Ranges { start: &start, end: &end }, Ranges { start: &first, end: &last });
        attention_backward(saved, &d_out, keys, queries, &shape, Some(&gradients)).map(drop)
    };
    Ok((Box::new(backward), to))
}

fn out(c: &Tensor, stride_column: (usize, usize), accumulate: bool) -> Out<'_> {
    Out { to: Some(c), stride_column: Some(stride_column), accumulate, ..Out::default() }
}

fn weight(filler: &mut Filler, format: WeightFormat, [rows, cols]: [usize; 2]) -> Result<Weight> {
    let weight = Weight::empty(filler.device(), format, rows, cols, "bench")?;
    filler.fill(&weight)?;
    Ok(weight)
}

/// An operand on matrix units.
enum Matrix {
    Tensor(Tensor),
    Weight(Weight),
}

impl Matrix {
    fn new(filler: &mut Filler, format: WeightFormat, shape: [usize; 2]) -> Result<Matrix> {
        match format {
            WeightFormat::F32 => filler.tensor(&shape).map(Matrix::Tensor),
            other => weight(filler, other, shape).map(Matrix::Weight),
        }
    }

    fn operand(&self) -> Operand<'_> {
        match self {
            Matrix::Tensor(t) => Operand::Tensor(t),
            Matrix::Weight(w) => Operand::Weight(w),
        }
    }
}
