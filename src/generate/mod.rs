//! Generation: prefill, then token by token through a key-value cache; and conversations, which keep theirs.

mod cache;
mod conversation;
mod run;
mod sampler;
mod session;

pub use conversation::Conversation;
pub use run::{Flow, Request, generate};
pub use sampler::{Sampler, Sampling};
pub use session::{Answer, Ended, Session};
