//! Batched generation.

use super::cache::Cache;
use super::sampler::{Sampler, Sampling};
use crate::autograd::Tape;
use crate::data::{Batch, ExampleRef, IGNORED};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::embedding::gather_rows;
use crate::kernels::loss::{NO_TOKEN, argmax_rows};
use crate::nn::{Decoder, DeviceBatch, Input, Pass};
use crate::tensor::Tensor;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// At most this many tokens a sequence.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; they are not part of the result.
    pub stop: &'a [u32],
    pub sampling: Sampling,
}

/// What follows a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    GoOn,
    /// The token's sequence is at its end.
    EndThis,
    /// All are.
    EndAll,
}

impl From<bool> for Flow {
    /// Whether to go on.
    fn from(go_on: bool) -> Flow {
        if go_on { Flow::GoOn } else { Flow::EndAll }
    }
}

/// Continues each of `prompts` (token ids, at least one). `on_token` sees each new token with its sequence's index, and
/// says whether to go on; false ends all. New tokens only.
///
/// # Errors
/// [`Error::Invalid`] for an empty prompt, or one that leaves no room in the model's positions.
pub fn generate<F: Into<Flow>>(
    device: &Device,
    model: &Decoder,
    prompts: &[Vec<u32>],
    request: &Request<'_>,
    mut on_token: impl FnMut(usize, u32) -> F,
) -> Result<Vec<Vec<u32>>> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if prompts.iter().any(Vec::is_empty) {
        return Err(Error::option("prompt", "is empty; a model needs a token to start from"));
    }
    let most = model.rope.positions();
    if longest >= most {
        let reason = format!("its {longest} tokens leave no room in the model's {most} positions; shorten it");
        return Err(Error::option("prompt", reason));
    }
    let length = longest.saturating_add(request.max_new_tokens).min(most);
    let cache = Cache::new(device, model, prompts.len(), length)?;
    let mut samplers: Vec<Sampler> = (0..prompts.len()).map(|i| Sampler::new(request.sampling, i)).collect();
    let mut produced: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    // sequences still under way, with the position of their next token
    let mut live: Vec<(usize, usize)> = prompts.iter().enumerate().map(|(i, p)| (i, p.len())).collect();

    let mut hidden = prefill(device, model, &cache, prompts)?;
    loop {
        let next = choose(model, &hidden, &live, &mut samplers, request.sampling)?;
        let mut step: Vec<(usize, usize, u32)> = Vec::new();
        let mut go_on = true;
        for (&(sequence, position), &token) in live.iter().zip(&next) {
            if request.stop.contains(&token) {
                continue;
            }
            produced[sequence].push(token);
            let flow = on_token(sequence, token).into();
            go_on &= flow != Flow::EndAll;
            if flow == Flow::GoOn && produced[sequence].len() < request.max_new_tokens && position < length {
                step.push((sequence, position, token));
            }
        }
        if step.is_empty() || !go_on {
            return Ok(produced);
        }
        hidden = decode(device, model, &cache, &step)?;
        live = step.iter().map(|&(s, p, _)| (s, p + 1)).collect();
    }
}

/// Runs all prompts in one pass; the hidden states of their last tokens `[prompts, hidden]`.
pub(super) fn prefill(device: &Device, model: &Decoder, cache: &Cache, prompts: &[Vec<u32>]) -> Result<Tensor> {
    let window = model.config.sliding_window;
    let none: Vec<Vec<i32>> = prompts.iter().map(|p| vec![IGNORED; p.len()]).collect();
    let examples = prompts.iter().zip(&none).map(|(ids, labels)| ExampleRef { ids, labels, line: 0 });
    let batch = Batch::new(examples, 0);
    let places: Vec<(usize, usize)> =
        prompts.iter().enumerate().flat_map(|(s, p)| (0..p.len()).map(move |i| (s, i))).collect();
    let mut input = DeviceBatch::upload(device, &batch, window)?.input;
    if let Pass::Segments(sight) = input.pass {
        input.pass = Pass::Prefill(sight, Box::new(cache.places(&places, window)?));
    }
    let hidden = model.hidden(&mut Tape::inference(), &input, 0)?;
    let mut end = 0u32;
    let last: Vec<u32> = prompts
        .iter()
        .map(|p| {
            end += p.len() as u32;
            end - 1
        })
        .collect();
    let last = Tensor::from_slice(device, &[last.len()], &last, "batch")?;
    gather_rows(hidden.untracked("generate")?, &last, To::default())
}

/// Runs tokens, given as (sequence, position, token), that see what the cache has of their sequences, and each other where they
/// are of one; their hidden states `[tokens, hidden]`.
pub(super) fn decode(
    device: &Device,
    model: &Decoder,
    cache: &Cache,
    tokens: &[(usize, usize, u32)],
) -> Result<Tensor> {
    let places: Vec<(usize, usize)> = tokens.iter().map(|&(s, p, _)| (s, p)).collect();
    let up = |v: Vec<u32>| Tensor::from_slice(device, &[v.len()], &v, "batch");
    let input = Input {
        tokens: up(tokens.iter().map(|t| t.2).collect())?,
        positions: up(tokens.iter().map(|t| t.1 as u32).collect())?,
        pass: Pass::Decode(cache.places(&places, model.config.sliding_window)?),
    };
    Ok(model.hidden(&mut Tape::inference(), &input, 0)?.untracked("generate")?.clone())
}

/// The next token of each live sequence.
///
/// # Errors
/// [`Error::NonFinite`] where a logit is not.
pub(super) fn choose(
    model: &Decoder,
    hidden: &Tensor,
    live: &[(usize, usize)],
    samplers: &mut [Sampler],
    sampling: Sampling,
) -> Result<Vec<u32>> {
    let logits = model.head.logits(hidden)?;
    let vocab = model.head.vocab;
    if sampling.temperature == 0.0 {
        // four bytes a sequence travel instead of the logits
        let best: Vec<u32> = argmax_rows(&logits, vocab, To::default())?.read()?;
        return if best.contains(&NO_TOKEN) { Err(not_finite(&logits)) } else { Ok(best) };
    }
    let values: Vec<f32> = logits.read()?;
    if values.iter().any(|l| !l.is_finite()) {
        return Err(not_finite(&logits));
    }
    let cap = |l: f32| model.head.softcap.map_or(l, |c| c * (l / c).tanh());
    Ok(live
        .iter()
        .zip(values.chunks_exact(vocab))
        .map(|(&(sequence, _), row)| samplers[sequence].choose(&row.iter().map(|&l| cap(l)).collect::<Vec<_>>()))
        .collect())
}

fn not_finite(logits: &Tensor) -> Error {
    let way_out = match logits.device().precision() {
        Precision::F16 => "f16 may be too small for this model: use ⟨precision⟩ f32",
        Precision::F32 => "check the device with rugosa selftest, or use another model or adapter",
    };
    let reason = format!("numbers overflow on the way to them, so that there is no next token; {way_out}");
    Error::NonFinite { what: "logits".into(), reason }
}
