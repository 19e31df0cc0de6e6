//! An adapter folder: its configuration, a zero byte, and its tensors.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../tests/common/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let (config, tensors) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    common::feed(&[("adapter_config.json", config), ("adapter_model.safetensors", tensors)], readers::adapter);
});
