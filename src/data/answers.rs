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

/// The answers of an example: each run of learnt tokens, up to the first of `stop` in it. At `cut` tokens of the example's row
/// are missing: the run that they were in is no answer unless it is over before, and `None` stands for it.
pub fn answers<'a>(example: ExampleRef<'a>, cut: Option<usize>, stop: &[u32]) -> Vec<Option<Answer<'a>>> {
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
        let broken = |cut: usize| (at..=at + length).contains(&cut) && end.is_none_or(|end| at + end >= cut);
        let whole = !cut.is_some_and(broken);
        let said = &run[..end.unwrap_or(length)];
        found.push(whole.then_some(Answer { prompt: &ids[..at], said, ended: end.is_some() }));
        at += length;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[i32], cut: Option<usize>) -> Vec<Option<(usize, Vec<u32>, bool)>> {
        let ids: Vec<u32> = (1..=labels.len() as u32).collect();
        let example = ExampleRef { ids: &ids, labels, line: 1 };
        let all = answers(example, cut, &[5]);
        all.into_iter().map(|a| a.map(|a| (a.prompt.len(), a.said.to_vec(), a.ended))).collect()
    }

    #[test]
    fn every_run_of_learnt_tokens_is_an_answer_up_to_what_ends_it() {
        let labels = [-100, -100, 3, 4, 5, -100, 7, 8];
        assert_eq!(of(&labels, None), [Some((2, vec![3, 4], true)), Some((6, vec![7, 8], false))]);
        assert_eq!(of(&[-100; 3], None), []);
        assert_eq!(of(&[-100, 2], None), [Some((1, vec![2], false))]);
    }

    #[test]
    fn an_answer_that_was_cut_is_none() {
        assert_eq!(of(&[-100, -100, 3, 4, 5, -100, 7, 8], Some(8)), [Some((2, vec![3, 4], true)), None]);
        // over before the cut, which is in what follows it
        assert_eq!(of(&[-100, -100, 3, 4, 5, 6], Some(6)), [Some((2, vec![3, 4], true))]);
        assert_eq!(of(&[-100, -100, 3, 4, 5, -100], Some(6)), [Some((2, vec![3, 4], true))]);
        // what is missing may be its beginning
        assert_eq!(of(&[-100, -100, 3, 4, 5], Some(2)), [None]);
    }
}
