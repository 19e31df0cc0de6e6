//! How good a model is on rows: the loss of their learnt tokens, and whether it gives their answers. `rugosa eval` and the
//! evaluations during a run are both these.

mod answers;
mod judge;
mod loss;

pub use answers::{Answerer, Asked, Comparable, comparable, give_answers};
pub use judge::{Judge, Verdict};
pub use loss::{batches_of_rows, batches_of_tokens, check_finite, token_nll, total};

use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::io::config::ModelConfig;

/// Told how many rows or answers are done; whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(usize) -> bool;

/// Tokens of the model's configuration and of its tokenizer that end an answer and that the model can give.
///
/// # Errors
/// [`Error::File`] where there are some and the model can give none of them: no answer would ever end.
pub fn stop_tokens(config: &ModelConfig, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let rows = config.vocab_size;
    let mut stop = config.eos_token_ids.clone();
    if let Some(t) = tokenizer {
        stop.extend(t.end_of_turn());
        if stop.iter().all(|&id| id as usize >= rows) {
            t.check_ids(&stop, rows)
                .map_err(|reason| Error::file(t.source(), "tokenizer", format!("no answer would end: {reason}")))?;
        }
    }
    stop.retain(|&id| (id as usize) < rows);
    stop.sort_unstable();
    stop.dedup();
    Ok(stop)
}
