//! Attention on matrix units against the f32 kernels.

use super::attention::{AttentionShape, Gradients, Ranges, Saved, attention_backward, attention_forward};
use super::output::To;
use crate::device::{Device, Precision};
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Compares forward and backward with the f32 kernels; says what departs.
pub(super) fn self_test(device: &Device) -> Result<Option<String>> {
    // two sequences, the first longer than any block
    const ENDS: [usize; 2] = [150, 187];
    const TOKENS: usize = ENDS[1];
    let head_dim = if device.caps().subgroup_max == 8 { 16 } else { 64 };
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim, scale: 0.125, softcap: None, span: None };
    let mut rng = Rng::named(2, "matrix units");
    let mut random = |heads: usize| {
        let values: Vec<f32> = (0..TOKENS * heads * shape.head_dim).map(|_| rng.normal() as f32).collect();
        Tensor::from_slice(device, &[TOKENS, heads * shape.head_dim], &values, "self-test")
    };
    let (q, k, v, d_out) =
        (random(shape.heads)?, random(shape.kv_heads)?, random(shape.kv_heads)?, random(shape.heads)?);
    let first = |t: usize| if t < ENDS[0] { 0 } else { ENDS[0] };
    let ranges = [
        (0..TOKENS).map(|t| first(t) as u32).collect::<Vec<u32>>(),
        (1..=TOKENS as u32).collect(),
        (0..TOKENS as u32).collect(),
        (0..TOKENS).map(|t| ENDS[usize::from(t >= ENDS[0])] as u32).collect(),
    ];
    let [from_key, to_key, from_query, to_query] =
        ranges.map(|r| Tensor::from_slice(device, &[TOKENS], &r, "self-test"));
    let (from_key, to_key, from_query, to_query) = (from_key?, to_key?, from_query?, to_query?);
    let keys = Ranges { start: &from_key, end: &to_key };
    let queries = Ranges { start: &from_query, end: &to_query };
    let run = |precision: Precision| -> Result<[Vec<f32>; 4]> {
        device.set_precision(precision);
        let ran = attention_forward(&q, &k, &v, keys, &shape, To::default(), To::default()).and_then(|(out, lse)| {
            let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
            let gradients = attention_backward(saved, &d_out, keys, queries, &shape, None)?;
            Ok((out, gradients))
        });
        device.set_precision(Precision::F32);
        let (out, Gradients { dq, dk, dv }) = ran?;
        Ok([out.read()?, dq.read()?, dk.read()?, dv.read()?])
    };
    let (want, got) = (run(Precision::F32)?, run(Precision::F16)?);
    for (name, (want, got)) in ["out", "dQ", "dK", "dV"].iter().zip(want.iter().zip(&got)) {
        // an operand rounded to f16 is off by 2^-11 of itself, a sum of them by less than this of the largest sum
        let bound = want.iter().fold(0.0f32, |m, w| m.max(w.abs())) / 128.0;
        if let Some(i) =
            (0..want.len()).find(|&i| (got[i] - want[i]).abs().partial_cmp(&bound) != Some(std::cmp::Ordering::Less))
        {
            let device = &device.caps().name;
            return Ok(Some(format!(
                "{device} computes {} for {} ({name} of attention, element {i})",
                got[i], want[i]
            )));
        }
    }
    Ok(None)
}
