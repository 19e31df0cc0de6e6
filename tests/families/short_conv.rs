//! Layers with a short convolution in the place of attention.

use super::golden::*;
use super::model::logits;

/// The golden rows are packed too; this tells a leak from a number that is a little off.
#[test]
fn nothing_of_a_segment_reaches_the_next() {
    let model = decoder("lfm2", false);
    let (row, _) = Golden::open("lfm2").rows().swap_remove(0);
    let first: Vec<Vec<u32>> = vec![row[..5].to_vec(), row[..5].iter().map(|id| (id + 7) % VOCAB as u32).collect()];
    let behind = |first: &Vec<u32>| logits(&model, &unlabelled(&[first.clone(), row.clone()]))[5 * VOCAB..].to_vec();
    assert_eq!(behind(&first[0]), behind(&first[1]));
}
