//! A safetensors file.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../tests/common/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::feed(&[("a.safetensors", data)], |folder| readers::safetensors(
    &folder.join("a.safetensors")
)));
