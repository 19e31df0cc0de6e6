//! Tests of this module, by subject.
mod batches;
mod chat;
mod rows;
mod support;
mod tokenizer;
