//! Parquet beside what Arrow reads of the same files (`tests/golden/make_parquet.py`).

use super::support::{CHATML, VOCAB, file_named, learnt, tokenizer};
use crate::data::files::RowFile;
use crate::data::{DataOptions, Dataset};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// The rows of a file, or the error without the folder's name.
fn rows(content: &[u8]) -> Result<Vec<Json>, String> {
    let (dir, path) = file_named("a.parquet", content);
    let read = || -> crate::error::Result<Vec<Json>> {
        let mut file = RowFile::open(&path, &[])?;
        let mut all = Vec::new();
        loop {
            // few bytes at once: the file is read on where it was left
            let taken = file.take(1)?;
            if taken.is_empty() {
                return Ok(all);
            }
            assert!(taken.iter().zip(all.len() + 1..).all(|(row, line)| row.line == line));
            all.extend(taken.iter().map(|row| serde_json::from_str::<Json>(&row.text).unwrap()));
        }
    };
    read().map_err(|e| {
        let e = e.to_string();
        assert!(!e.contains('\n') && e.len() < 600, "{e}");
        e.replace(&format!("{}/", dir.path().display()), "")
    })
}

#[test]
fn rows_are_those_that_arrow_reads() {
    let wanted: Json = serde_json::from_slice(&bytes("wanted.json")).unwrap();
    for name in ["messages", "zstd", "types"] {
        let got = rows(&bytes(&format!("{name}.parquet"))).unwrap();
        assert_eq!(Json::Array(got), wanted[name], "{name}");
    }
    assert_eq!(rows(&bytes("empty.parquet")), Ok(Vec::new()));
}

#[test]
fn they_are_learnt_as_lines_are() {
    let t = tokenizer(Some(CHATML), false);
    let open = |name: &str| Dataset::open(&fixture(name), &DataOptions::default(), Some(&t), VOCAB);
    let set = open("messages.parquet").unwrap();
    let learnt: Vec<String> = set.examples().map(|e| learnt(&t, e.labels)).collect();
    assert_eq!(learnt, [0, 1, 2, 3, 4].map(|i| format!("a{i} ü<|im_end|>")));
    let said = open("zstd.parquet").err().unwrap().to_string();
    assert!(said.contains("zstd.parquet:2: ") && said.contains("response"), "{said}");
    assert!(open("empty.parquet").err().unwrap().to_string().contains("there are none"));
}

#[test]
fn what_is_not_read_is_one_line() {
    let refused = |name: &str, parts: &[&str]| {
        let said = rows(&bytes(name)).unwrap_err();
        assert!(said.starts_with("a.parquet") && parts.iter().all(|part| said.contains(part)), "{said}");
    };
    refused("gzip.parquet", &["compression", "snappy or zstd"]);
    refused("image.parquet", &["a.parquet:1: column image", "without this column"]);
    refused("deep.parquet", &["nested 102 deep"]);
}

#[test]
fn damaged_files_are_one_line() {
    let whole = bytes("messages.parquet");
    for length in 0..whole.len() {
        if length < 4 {
            continue; // no Parquet yet
        }
        let said = rows(&whole[..length]).unwrap_err();
        assert!(said.starts_with("a.parquet: rows: "), "{length} bytes: {said}");
    }
    // whatever a byte says: rows or one line, and no panic
    let mut refused = 0;
    for at in 4..whole.len() {
        for bit in [0, 3, 7] {
            let mut broken = whole.clone();
            broken[at] ^= 1 << bit;
            refused += usize::from(rows(&broken).is_err());
        }
    }
    assert!(refused > 0);
}
