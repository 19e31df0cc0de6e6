//! Text to batches: tokenizers, chat templates, files of rows, packing and the order of batches. CPU only.
//!
//! The way through: [`Dataset::open`] tokenises every row of a file, or of several, once; [`Dataset::batches`] then deals it out, one
//! optimiser step's micro-batches at a time, in an order that depends on the seed alone and can be taken up anywhere; [`Ahead`]
//! makes them on a thread of its own.

pub mod ahead;
pub mod answers;
mod border;
pub mod chat;
mod conversions;
pub mod dataset;
mod files;
mod guard;
mod jinja;
mod json;
mod meanings;
pub mod order;
pub mod pack;
pub mod pairs;
pub mod preview;
pub mod report;
pub mod rows;
pub mod sources;
pub mod split;
#[cfg(test)]
mod tests;
pub mod tokenizer;
mod tokenizer_check;
mod tokenizer_gguf;
mod tokenizer_to_gguf;

pub use ahead::Ahead;
pub use answers::{Answer, answers};
pub use chat::{ChatTemplate, Message, TrainOn};
pub use dataset::{DataOptions, Dataset, EmptyRows, ExampleRef, Truncate};
pub use jinja::clock::{now, strftime};
pub use order::{BatchOptions, BatchSize, Batches, Position};
pub use pack::Batch;
pub use pairs::PromptFormat;
pub use report::PrepReport;
pub use rows::{Example, IGNORED, RowForm, RowKind};
pub use split::split;
pub use tokenizer::{TextStream, Tokenizer};
