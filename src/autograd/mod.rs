//! Autograd-lite: a tape of closures over device tensors.
//!
//! Only activations flow along the tape. Trainable tensors are [`Param`]s with a gradient buffer of their own, which
//! backward kernels add to directly. An operation is recorded only if something trainable needs its gradient; what its
//! backward holds is freed as soon as that has run. Each operation has its forward and backward side by side in `ops`.

mod kept;
pub mod ops;
mod param;
mod tape;

pub use kept::Kept;
pub use param::Param;
pub use tape::{Dropout, Grads, Tape, Var, VarId};
