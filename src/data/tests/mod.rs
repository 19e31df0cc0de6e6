//! Tests of this module, by subject.
mod batches;
mod chat;
mod files;
mod hostile;
mod pairs;
#[cfg(feature = "parquet")]
mod parquet;
mod rows;
mod sources;
mod split;
mod support;
mod tokenizer;
mod turns;
