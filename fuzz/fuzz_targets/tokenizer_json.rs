//! A `tokenizer.json`.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../tests/common/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::feed(&[("tokenizer.json", data)], readers::tokenizer_json));
