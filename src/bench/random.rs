//! A model with random weights.

use crate::cases::Filler;
use crate::error::Result;
use crate::nn::Decoder;

/// Fills all weights of `model`: norms with 1, biases with 0, the rest at random.
pub(super) fn fill(model: &Decoder) -> Result<()> {
    let layer_norms = model.layers.iter().flat_map(|l| l.norms());
    for norm in layer_norms.map(|(_, norm)| norm).chain([&model.norm]) {
        norm.weight.value.write(&vec![1f32; norm.weight.value.len()])?;
    }
    let mut filler = Filler::new(model.norm.weight.value.device());
    for linear in model.linears() {
        linear.shards().iter().try_for_each(|(_, shard)| filler.fill(shard))?;
        if let Some(bias) = linear.bias() {
            bias.clear()?;
        }
    }
    let tied = model.config.tie_word_embeddings;
    let head = if tied { &[][..] } else { &model.head.shards };
    for (_, shard) in model.embedding.shards.iter().chain(head) {
        filler.fill(shard)?;
    }
    Ok(())
}
