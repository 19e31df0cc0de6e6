//! The answers of rows, and those that a model gives.

use super::{Judge, Progress, Verdict};
use crate::data::{Answer, Dataset, Tokenizer, answers};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::generate::{Flow, Request, Sampling, generate};
use crate::nn::Decoder;

/// An answer that a model is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Of the row in its file, from 1.
    pub line: usize,
    /// Which of the row's answers, from 0.
    pub turn: usize,
    pub answer: Answer<'a>,
}

/// The answers that can be compared, and how many cannot.
#[derive(Clone, Debug, Default)]
pub struct Comparable<'a> {
    pub asked: Vec<Asked<'a>>,
    /// Of which a part or all was cut.
    pub cut: usize,
    /// That do not end within the tokens that may be given, and the tokens of the longest, with what ends it.
    pub too_long: usize,
    pub longest: usize,
    /// In which nothing is what the judge looks for.
    pub unmatched: usize,
}

impl Comparable<'_> {
    /// Leaves out the answers in which there is nothing that `judge` looks for.
    ///
    /// # Errors
    /// [`Error::File`] where the tokenizer fails.
    pub fn keep_judged(&mut self, judge: &Judge, tokenizer: &Tokenizer) -> Result<()> {
        let mut kept = Vec::with_capacity(self.asked.len());
        for asked in self.asked.drain(..) {
            match judge.wanted(&tokenizer.decode(asked.answer.said, true)?) {
                Some(_) => kept.push(asked),
                None => self.unmatched += 1,
            }
        }
        self.asked = kept;
        Ok(())
    }
}

/// The answers of the first `examples` examples that can be compared, and how many cannot: those that were cut, in part or
/// wholly, and those that do not end within `max_new_tokens`. A model that is asked for `n` tokens has not shown that it ends
/// behind them.
pub fn comparable<'a>(dataset: &'a Dataset, examples: usize, stop: &[u32], max_new_tokens: usize) -> Comparable<'a> {
    let mut all = Comparable::default();
    for (i, example) in dataset.examples().take(examples).enumerate() {
        all.cut += dataset.answers_lost(i);
        for (turn, answer) in answers(example, dataset.answer_cut_at(i), stop).into_iter().enumerate() {
            let Some(answer) = answer else {
                all.cut += 1;
                continue;
            };
            let needs = answer.said.len() + usize::from(answer.ended);
            if needs > max_new_tokens {
                all.too_long += 1;
                all.longest = all.longest.max(needs);
            } else {
                all.asked.push(Asked { line: example.line, turn, answer });
            }
        }
    }
    all
}

/// What answers are given with.
pub struct Answerer<'a> {
    pub device: &'a Device,
    pub model: &'a Decoder,
    /// Without one, tokens are compared instead of texts.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Tokens that end an answer.
    pub stop: &'a [u32],
    pub max_new_tokens: usize,
}

/// Asks the model for each answer of `asked`, the likeliest token always, `batches` of them at a time, and tells `each` what it
/// gave. How many are right. One that nothing ends is compared as far as it goes.
///
/// # Errors
/// [`Error::Interrupted`] where `progress` says so; those of `each` and of the device.
pub fn give_answers(
    with: &Answerer<'_>,
    judge: &Judge,
    batches: &[&[Asked<'_>]],
    each: &mut dyn FnMut(&Asked<'_>, &Verdict) -> Result<()>,
    progress: Progress<'_>,
) -> Result<usize> {
    let request = Request { max_new_tokens: with.max_new_tokens, stop: with.stop, sampling: Sampling::GREEDY };
    let (mut right, mut done) = (0, 0);
    for some in batches {
        let prompts: Vec<Vec<u32>> = some.iter().map(|a| a.answer.prompt.to_vec()).collect();
        let mut texts = vec![String::new(); some.len()];
        let mut streams: Vec<_> = some.iter().map(|_| with.tokenizer.map(|t| t.stream(true))).collect();
        let mut is_interrupted = false;
        let generated = generate(with.device, with.model, &prompts, &request, |i, token| {
            is_interrupted |= !progress(done);
            if is_interrupted {
                return Flow::EndAll;
            }
            if let (true, Some(stream)) = (judge.has_stop(), &mut streams[i]) {
                texts[i] += &stream.push(token).unwrap_or_default();
            }
            if judge.end(&texts[i]).is_some() { Flow::EndThis } else { Flow::GoOn }
        })?;
        if is_interrupted {
            return Err(Error::Interrupted);
        }
        for (asked, generated) in some.iter().zip(&generated) {
            let answer = &asked.answer;
            let length = if answer.ended { generated.len() } else { generated.len().min(answer.said.len()) };
            let verdict = compare(with.tokenizer, judge, answer.said, &generated[..length])?;
            right += usize::from(verdict.is_right);
            each(asked, &verdict)?;
        }
        done += some.len();
    }
    progress(done);
    Ok(right)
}

fn compare(tokenizer: Option<&Tokenizer>, judge: &Judge, said: &[u32], given: &[u32]) -> Result<Verdict> {
    // as text: one string may be cut into tokens in several ways
    let text = |ids: &[u32]| match tokenizer {
        Some(t) => t.decode(ids, true),
        None => Ok(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    };
    let expected = text(said)?;
    let wanted = judge.wanted(&expected).unwrap_or_default();
    Ok(judge.verdict(&expected, wanted, &text(given)?))
}
