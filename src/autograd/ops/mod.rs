//! Differentiable operations, each with its backward beside it.

mod attention;
mod bias;
mod center;
mod embedding;
mod head;
mod linear;
mod mlp;
mod norm;
mod residual;
mod rope;
mod scale;
mod short_conv;

pub use attention::{AttentionInputs, attention, made_of};
pub use bias::bias_gradient;
pub use center::center;
pub use embedding::{EmbeddingTable, embed};
pub use head::{Head, HeadLoss, Targets, head_logits, head_loss, head_nll};
pub use linear::{Attachment, Block, GradientSink, Linear, LowRank, RowSink, Sparse, linear};
pub use mlp::{Activation, Stored, gated, gated_both};
pub use norm::{HeadNorms, Norm, add_rmsnorm, rmsnorm};
pub use residual::add;
pub use rope::{rope, split};
pub use scale::scale;
pub use short_conv::short_conv;
