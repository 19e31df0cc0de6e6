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

/// The answers of an example: each run of learnt tokens, up to the first of `stop` in it; what is learnt behind that is a next
/// answer. A stop token directly behind another ends nothing. At `cut` tokens of the example's row are missing: an answer that
/// is not over before is none, and `None` stands for it.
pub fn answers<'a>(example: ExampleRef<'a>, cut: Option<usize>, stop: &[u32]) -> Vec<Option<Answer<'a>>> {
    let (ids, labels) = (example.ids, example.labels);
    let learnt = |at: usize| labels[at] != IGNORED;
    let stops = |at: usize| stop.contains(&ids[at]);
    let mut found = Vec::new();
    // nothing is before the first token
    let mut at = 1;
    while at < ids.len() {
        if !learnt(at) || (stops(at) && stops(at - 1)) {
            at += 1;
            continue;
        }
        let end = at + (at..ids.len()).take_while(|&i| learnt(i) && !stops(i)).count();
        let ended = end < ids.len() && learnt(end) && stops(end);
        let whole = cut.is_none_or(|cut| cut > end);
        found.push(whole.then_some(Answer { prompt: &ids[..at], said: &ids[at..end], ended }));
        at = end + usize::from(ended);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[i32], cut: Option<usize>) -> Vec<Option<(usize, Vec<u32>, bool)>> {
        // what is not learnt is no stop token
        let ids: Vec<u32> = labels.iter().map(|&l| u32::try_from(l).unwrap_or(1)).collect();
        let example = ExampleRef { ids: &ids, labels, line: 1 };
        let all = answers(example, cut, &[5, 15]);
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
        assert_eq!(of(&[-100, -100, 3, 4, 5, 6], Some(6)), [Some((2, vec![3, 4], true)), None]);
        assert_eq!(of(&[-100, -100, 3, 4, 5], Some(5)), [Some((2, vec![3, 4], true))]);
        assert_eq!(of(&[-100, -100, 3, 4, 5, -100], Some(6)), [Some((2, vec![3, 4], true))]);
        // what is missing may be its beginning
        assert_eq!(of(&[-100, -100, 3, 4, 5], Some(2)), [None]);
    }

    #[test]
    fn what_is_learnt_behind_a_stop_token_is_a_next_answer() {
        let (first, second) = (Some((1, vec![3, 4], true)), Some((4, vec![7, 8], true)));
        let labels = [-100, 3, 4, 5, 7, 8, 5];
        assert_eq!(of(&labels, None), [first.clone(), second]);
        assert_eq!(of(&labels[..6], Some(6)), [first.clone(), None]);
        assert_eq!(of(&labels[..4], Some(4)), std::slice::from_ref(&first));
        assert_eq!(of(&labels[..3], Some(3)), [None]);
        // whose beginning is missing, and what stands behind it
        assert_eq!(of(&labels, Some(1)), [None, None]);
        assert_eq!(of(&[-100, 3, 4, 5, 7], None), [first, Some((4, vec![7], false))]);
    }

    #[test]
    fn a_stop_token_behind_a_stop_token_is_no_answer() {
        assert_eq!(of(&[-100, 3, 5, 15], None), [Some((1, vec![3], true))]);
        assert_eq!(of(&[-100, 3, 5, 15, 15, 4, 5], None), [Some((1, vec![3], true)), Some((5, vec![4], true))]);
        // an empty answer is one
        assert_eq!(of(&[-100, 5, 15], None), [Some((1, vec![], true))]);
    }
}
