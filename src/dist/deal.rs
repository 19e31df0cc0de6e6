//! Which rank computes which micro-batches of a step.

/// The rank of each micro-batch, by their tokens: the largest first, each to the rank that has the fewest tokens so far. The
/// ranks of a step so end at about the same time, also where rows differ in length.
pub fn deal(tokens: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(tokens[*i])); // stable: every rank deals alike
    let (mut held, mut rank_of) = (vec![(0, 0); ranks.max(1)], vec![0; tokens.len()]);
    for i in order {
        // where all are empty, each has one before any has two
        let least = (0..held.len()).min_by_key(|rank| held[*rank]).unwrap_or(0);
        held[least] = (held[least].0 + tokens[i], held[least].1 + 1);
        rank_of[i] = least;
    }
    rank_of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_gets_about_as_many_tokens() {
        assert_eq!(deal(&[5, 5, 5, 5], 1), [0; 4]);
        assert_eq!(deal(&[8, 8, 8, 8], 4), [0, 1, 2, 3]);
        assert_eq!(deal(&[1, 9, 2, 8], 2), [0, 0, 1, 1], "10 and 10");
        assert_eq!(deal(&[3], 2), [0], "the others have none");
        assert_eq!(deal(&[], 3), [0; 0]);
        let tokens: Vec<usize> = (0..64).map(|i| 20 + (i * 37) % 101).collect();
        let held =
            |rank| deal(&tokens, 4).iter().zip(&tokens).filter(|(r, _)| **r == rank).map(|(_, n)| n).sum::<usize>();
        let all: Vec<usize> = (0..4).map(held).collect();
        assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 30, "{all:?}");
    }
}
