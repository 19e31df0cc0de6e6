//! The answers in an example: what a model should say, and what it is given before.

use super::dataset::ExampleRef;
use super::rows::IGNORED;

/// One answer of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Everything before it, the example's own earlier answers too; never empty.
    pub prompt: &'a [u32],
    /// Its tokens, without the one that ends it.
    pub said: &'a [u32],
    /// Whether a token that ends answers follows.
    pub ended: bool,
}

/// The answers of an example: each run of learnt tokens, up to the first of `stop` in it. With `cut` the example's last run
/// went on behind the end; it is no answer unless it is over by then, and `None` stands for it.
pub fn answers<'a>(example: ExampleRef<'a>, cut: bool, stop: &[u32]) -> Vec<Option<Answer<'a>>> {
    let (ids, labels) = (example.ids, example.labels);
    let mut found = Vec::new();
    // nothing is before the first token
    let mut at = 1;
    while at < ids.len() {
        if labels[at] == IGNORED {
            at += 1;
            continue;
        }
        let length = labels[at..].iter().take_while(|l| **l != IGNORED).count();
        let run = &ids[at..at + length];
        let end = run.iter().position(|id| stop.contains(id));
        let whole = end.is_some() || !(cut && at + length == ids.len());
        let said = &run[..end.unwrap_or(length)];
        found.push(whole.then_some(Answer { prompt: &ids[..at], said, ended: end.is_some() }));
        at += length;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[i32], cut: bool) -> Vec<Option<(usize, Vec<u32>, bool)>> {
        let ids: Vec<u32> = (1..=labels.len() as u32).collect();
        let example = ExampleRef { ids: &ids, labels, line: 1 };
        let all = answers(example, cut, &[5]);
        all.into_iter().map(|a| a.map(|a| (a.prompt.len(), a.said.to_vec(), a.ended))).collect()
    }

    #[test]
    fn every_run_of_learnt_tokens_is_an_answer_up_to_what_ends_it() {
        let labels = [-100, -100, 3, 4, 5, -100, 7, 8];
        assert_eq!(of(&labels, false), [Some((2, vec![3, 4], true)), Some((6, vec![7, 8], false))]);
        assert_eq!(of(&[-100; 3], false), []);
        assert_eq!(of(&[-100, 2], false), [Some((1, vec![2], false))]);
    }

    #[test]
    fn an_answer_that_was_cut_is_none() {
        assert_eq!(of(&[-100, -100, 3, 4, 5, -100, 7, 8], true), [Some((2, vec![3, 4], true)), None]);
        // over before the cut, which is in what follows it
        assert_eq!(of(&[-100, -100, 3, 4, 5, 6], true), [Some((2, vec![3, 4], true))]);
        assert_eq!(of(&[-100, -100, 3, 4, 5, -100], true), [Some((2, vec![3, 4], true))]);
    }
}
