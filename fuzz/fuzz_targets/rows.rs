//! Rows in JSON lines.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../tests/common/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::feed(&[("a.jsonl", data)], |folder| readers::rows(
    &folder.join("a.jsonl")
)));
