//! A model's `config.json`, a zero byte, its `generation_config.json`, a zero byte, and its index of shards.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../tests/common/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |b| *b == 0);
    let names = ["config.json", "generation_config.json", "model.safetensors.index.json"];
    let files = names.map(|name| (name, parts.next().unwrap_or(b"{}")));
    common::feed(&files, |folder| {
        let (config, index) = (readers::configuration(folder), readers::index(folder));
        config.and(index)
    });
});
