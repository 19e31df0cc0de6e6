//! A chat template, with conversations that have all that templates ask for.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../tests/common/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::feed(&[("a.jinja", data)], |folder| readers::template(
    &folder.join("a.jinja")
)));
