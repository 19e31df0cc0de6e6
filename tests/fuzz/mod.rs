//! Readers of files from elsewhere, fed with broken ones: valid files with bytes changed, cut, repeated and replaced by numbers
//! that headers should not hold. A reader may refuse or accept; it must not panic, and a message is one line.
//!
//! The same inputs in each run, for two seconds a reader; `RUGOSA_FUZZ_SECONDS=600 cargo test --release --test suite fuzz::` goes on
//! further down the same sequence. What fails is named by its number in it. The targets in `fuzz/` look further, led by coverage.

use crate::common::readers;
use rugosa::error::Error;
use rugosa::rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What one input may take, on a busy machine without optimisation.
const SLOWEST: Duration = Duration::from_secs(60);

/// Numbers at the edges of what fields hold.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, 1 << 40, i64::MAX as u64, u64::MAX];

/// Words that mean something to one of the formats.
const WORDS: [&str; 14] = [
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "[]",
    "{}",
    "\"\"",
    "\"F64\"",
    "\"BOOL\"",
    "\\ud800",
    "[[",
    "0.5",
    "\n",
    "\u{feff}",
];

/// What chat templates are made of.
const JINJA: [&str; 40] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "-%}",
    "{#",
    "#}",
    "'",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    "~",
    "**",
    " * 99999999",
    "[::-2]",
    " in ",
    " not ",
    " is ",
    " if ",
    " else ",
    "range(99999)",
    "ns.l",
    "[ns.l, ns.l]",
    "loop.changed(loop)",
    "namespace(a=ns)",
    "| sort",
    "| groupby(0)",
    "| tojson",
    "| list",
    "| batch(9, 0)",
    "{% endfor %}",
    "{% for a in ns.l recursive %}",
    "{% set ns.l = [ns.l] %}",
    "{{ loop(ns.l) }}",
    "%9999999d",
    "'nan' | float",
];

/// What tokenizers are made of.
const PARTS: [&str; 20] = [
    "null",
    "-1",
    "\"\"",
    "18446744073709551615",
    "4294967295",
    "\"Sequence\"",
    "\"Replace\"",
    "\"ByteLevel\"",
    "\"Strip\"",
    "\"Prepend\"",
    "\"Metaspace\"",
    "\"Unigram\"",
    "\"WordPiece\"",
    "\"Regex\"",
    "\"é\"",
    "[]",
    "{}",
    "\"(a*)*\\\\1\"",
    "\"continuing_subword_prefix\": \"é\", ",
    "\"byte_fallback\": true, ",
];

/// `seed` after a handful of changes, most of them in the first 2 KiB, where headers are.
fn mutate(rng: &mut Rng, seed: &[u8], words: &[&str]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + rng.below(4) {
        if bytes.is_empty() {
            break;
        }
        let span = if rng.below(4) > 0 { bytes.len().min(2048) } else { bytes.len() };
        let at = rng.below(span as u64) as usize;
        let end = (at + 1 + rng.below(16) as usize).min(bytes.len());
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.below(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let edge = EDGES[rng.below(10) as usize].to_le_bytes();
                let width = [1, 2, 4, 8][rng.below(4) as usize].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => drop(bytes.splice(at..end, words[rng.below(words.len() as u64) as usize].bytes())),
            _ => {
                // another digit for a digit
                if let Some(i) = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()) {
                    bytes[i] = b'0' + rng.below(10) as u8;
                }
            }
        }
    }
    bytes
}

/// Feeds mutations of `seed`, written to `path`, to `read` until the time is over.
fn fuzz(name: &str, seed: &[u8], path: &Path, read: impl Fn(&Path) -> Result<(), Error>) {
    fuzz_with(name, &[seed], &WORDS, path, read);
}

/// The same from several seeds in turn, with words of the format's own.
fn fuzz_with(name: &str, seeds: &[&[u8]], words: &[&str], path: &Path, read: impl Fn(&Path) -> Result<(), Error>) {
    rugosa::env::check().unwrap();
    let seconds = std::env::var("RUGOSA_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    for seed in seeds {
        std::fs::write(path, seed).unwrap();
        read(path).unwrap_or_else(|e| panic!("{name}: the file as it was is refused: {e}"));
    }
    let (mut refused, mut number, mut slowest) = (0u64, 0u64, Duration::ZERO);
    while Instant::now() < end {
        number += 1;
        let bytes = mutate(&mut Rng::new(number, 7), seeds[number as usize % seeds.len()], words);
        std::fs::write(path, &bytes).unwrap();
        let started = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| read(path)));
        slowest = slowest.max(started.elapsed());
        assert!(slowest < SLOWEST, "{name}: input {number} takes {slowest:?}");
        match done {
            Err(_) => panic!("{name}: input {number} panics"),
            Ok(Err(e)) => {
                let message = e.to_string();
                assert!(!message.contains(char::is_control), "{name}: input {number}: more than a line: {message}");
                refused += 1;
            }
            Ok(Ok(())) => {}
        }
    }
    println!("{name}: {number} inputs, {refused} refused, the slowest {slowest:.1?}");
    assert!(refused > 0, "{name}: {number} inputs and none refused");
}

fn place(name: &str) -> (tempfile::TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

#[test]
fn safetensors() {
    let seed = std::fs::read(format!("{}/golden/layer.safetensors", readers::FIXTURES)).unwrap();
    let (_folder, path) = place("a.safetensors");
    fuzz("safetensors", &seed, &path, readers::safetensors);
}

fn gguf_file() -> Vec<u8> {
    let (_folder, path) = place("seed.gguf");
    readers::write_gguf_file(&path);
    std::fs::read(&path).unwrap()
}

#[test]
fn gguf() {
    let (_folder, path) = place("a.gguf");
    fuzz("GGUF", &gguf_file(), &path, readers::gguf);
}

#[test]
fn tokenizer_from_gguf() {
    let (_folder, path) = place("a.gguf");
    fuzz("tokenizer", &gguf_file(), &path, readers::tokenizer);
}

#[test]
fn rows() {
    let (_folder, path) = place("a.jsonl");
    fuzz("rows", readers::ROWS.as_bytes(), &path, readers::rows);
}

#[test]
fn adapters() {
    let source = readers::adapter_folder();
    for (fuzzed, kept) in
        [("adapter_config.json", "adapter_model.safetensors"), ("adapter_model.safetensors", "adapter_config.json")]
    {
        let (folder, path) = place(fuzzed);
        std::fs::copy(source.join(kept), folder.path().join(kept)).unwrap();
        let seed = std::fs::read(source.join(fuzzed)).unwrap();
        fuzz(fuzzed, &seed, &path, |_| readers::adapter(folder.path()));
    }
}

#[test]
fn tokenizer_from_json() {
    let (folder, path) = place("tokenizer.json");
    let demo = std::fs::read(readers::DEMO_TOKENIZER).unwrap();
    let seeds = [readers::tokenizer_file(false), readers::tokenizer_file(true), demo];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    fuzz_with("tokenizer.json", &seeds, &PARTS, &path, |_| readers::tokenizer_json(folder.path()));
}

#[test]
fn templates() {
    let (_folder, path) = place("a.jinja");
    fuzz_with("templates", &[readers::TEMPLATE.as_bytes()], &JINJA, &path, readers::template);
}

#[test]
fn configurations() {
    let (folder, path) = place("config.json");
    let seeds: Vec<Vec<u8>> = readers::configurations().iter().map(|path| std::fs::read(path).unwrap()).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    fuzz_with("config.json", &seeds, &WORDS, &path, |_| readers::configuration(folder.path()));
}

#[test]
fn indices() {
    let (folder, path) = place("model.safetensors.index.json");
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let name = if shard.contains("00001") { "a.weight" } else { "b" };
        let tensor = rugosa::io::safetensors::OutTensor::f32(name, &[1], &[0.5]);
        rugosa::io::safetensors::write_safetensors(&folder.path().join(shard), &[tensor], &Default::default()).unwrap();
    }
    fuzz("index.json", readers::INDEX.as_bytes(), &path, |_| readers::index(folder.path()));
}
