//! One sequence that grows: what an answer and the next prompt have in common is computed once.

use super::cache::Cache;
use super::run::{Request, choose, decode, prefill};
use super::sampler::Sampler;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernels::To;
use crate::kernels::embedding::gather_rows;
use crate::nn::Decoder;
use crate::tensor::Tensor;

/// The cache grows in steps of so many tokens.
const STEP: usize = 512;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a token that ends answers.
    Stop,
    /// At the most tokens that were asked for.
    Length,
    /// At the last position of the model.
    Context,
    /// Whoever saw the tokens wanted no more.
    Interrupted,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub ids: Vec<u32>,
    pub ended: Ended,
    /// Tokens of the prompt that were in the cache already.
    pub kept: usize,
}

/// The keys and values of what one conversation has had so far.
pub struct Session {
    device: Device,
    cache: Option<Cache>,
    /// The tokens whose keys and values the cache holds, from its first row on.
    cached: Vec<u32>,
    /// Answers so far: each draws from a stream of its own.
    answers: usize,
}

impl Session {
    pub fn new(device: &Device) -> Session {
        Session { device: device.clone(), cache: None, cached: Vec::new(), answers: 0 }
    }

    /// Forgets everything: for another adapter on the model, with which keys and values are others.
    pub fn forget(&mut self) {
        self.cached.clear();
    }

    /// Continues `prompt` (token ids, at least one). `on_token` sees each new token and ends the answer by returning false.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty prompt, and one that leaves no room in the model's positions; those of the device.
    pub fn answer(
        &mut self,
        model: &Decoder,
        prompt: &[u32],
        request: &Request<'_>,
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<Answer> {
        let most = model.rope.positions();
        if prompt.is_empty() {
            return Err(Error::invalid("prompt", "is empty; a model needs a token to start from"));
        }
        if prompt.len() >= most {
            let reason = format!("its {} tokens leave no room in the model's {most} positions", prompt.len());
            return Err(Error::invalid("prompt", reason));
        }
        let length = prompt.len().saturating_add(request.max_new_tokens).min(most);
        let (kept, mut hidden) = self.read(model, prompt, length)?;
        let cache = self.cache.as_ref().ok_or_else(|| Error::shape("session", "a cache that was not made"))?;
        let mut samplers = [Sampler::new(request.sampling, self.answers)];
        self.answers += 1;
        let mut answer = Answer { ids: Vec::new(), ended: Ended::Length, kept };
        loop {
            let position = self.cached.len();
            let token = choose(model, &hidden, &[(0, position)], &mut samplers, request.sampling)?[0];
            if request.stop.contains(&token) {
                answer.ended = Ended::Stop;
                return Ok(answer);
            }
            answer.ids.push(token);
            answer.ended = match () {
                () if !on_token(token) => Ended::Interrupted,
                () if answer.ids.len() >= request.max_new_tokens => Ended::Length,
                () if position >= length => Ended::Context,
                () => {
                    hidden = decode(&self.device, model, cache, &[(0, position, token)])?;
                    self.cached.push(token);
                    continue;
                }
            };
            return Ok(answer);
        }
    }

    /// Computes what of `prompt` is not in the cache, which gets room for `length` tokens; how many tokens were there, and the
    /// hidden state of the last one.
    fn read(&mut self, model: &Decoder, prompt: &[u32], length: usize) -> Result<(usize, Tensor)> {
        // one token is computed at least: its hidden state is wanted
        let equal = self.cached.iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
        let has_room = self.cache.as_ref().is_some_and(|cache| cache.length() >= length);
        let new: Vec<_> = (equal..prompt.len()).map(|at| (0, at, prompt[at])).collect();
        // many new tokens are cheaper in a pass over all of them
        let kept = if has_room && new.len() <= equal { equal } else { 0 };
        if !has_room {
            self.cache = None; // its memory is free for the larger one
            self.cached.clear();
            let room = (2 * length).next_multiple_of(STEP).min(model.rope.positions());
            self.cache = Some(Cache::new(&self.device, model, 1, room)?);
        }
        let cache = self.cache.as_ref().ok_or_else(|| Error::shape("session", "a cache that was not made"))?;
        self.cached.truncate(kept);
        let hidden = if kept > 0 {
            let all = decode(&self.device, model, cache, &new)?;
            let last = Tensor::from_slice(&self.device, &[1], &[new.len() as u32 - 1], "batch")?;
            gather_rows(&all, &last, To::default())?
        } else {
            prefill(&self.device, model, cache, &[prompt.to_vec()])?
        };
        self.cached.extend_from_slice(&prompt[kept..]);
        Ok((kept, hidden))
    }
}
