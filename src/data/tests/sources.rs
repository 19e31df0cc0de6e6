//! Several files, and some of their rows.

use super::support::*;
use crate::data::{DataOptions, Dataset};
use std::path::{Path, PathBuf};

/// Files with `counts` rows each, `{"text": "<file><row>"}`.
fn files(counts: &[usize]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let write = |(i, count): (usize, &usize)| {
        let path = dir.path().join(format!("{i}.jsonl"));
        let rows: Vec<String> = (0..*count).map(|row| format!("{{\"text\": \"{i}{row}\"}}\n")).collect();
        std::fs::write(&path, rows.concat()).unwrap();
        path
    };
    let paths = counts.iter().enumerate().map(write).collect();
    (dir, paths)
}

/// The texts of the rows, and what is said of them.
fn texts(data: impl AsRef<Path>, options: &DataOptions) -> Result<(Vec<String>, Vec<String>), String> {
    let t = tokenizer(Some(CHATML), false);
    let set = Dataset::open(data.as_ref(), options, Some(&t), VOCAB).map_err(|e| e.to_string())?;
    let ids: usize = set.examples().map(|e| e.ids.len()).sum();
    assert_eq!((set.report().tokens, set.report().supervised), (ids, ids - set.len()));
    Ok((set.examples().map(|e| t.decode(e.ids, true).unwrap()).collect(), set.notes()))
}

#[test]
fn several_files_are_one_set() {
    let (_dir, paths) = files(&[2, 10, 3]);
    let [a, b, c] = [0, 1, 2].map(|i| paths[i].display().to_string());
    let all = |data: &str, options: &DataOptions| texts(data, options).unwrap();
    let plain = DataOptions::default();
    let (rows, notes) = all(&format!("{a},{c}"), &plain);
    assert_eq!(rows, ["00", "01", "20", "21", "22"]);
    let said = format!("an epoch has of {a}: 2 of 2 rows, {c}: 3 of 3 rows");
    assert!(notes.contains(&said), "{notes:?}");
    let (rows, notes) = all(&format!("{a},{b}:0.3,{c}:2"), &plain);
    assert_eq!((rows.len(), &rows[..2]), (2 + 3 + 6, &["00".to_owned(), "01".to_owned()][..]));
    assert!(rows[2..5].iter().all(|row| row.starts_with('1')) && rows[5..8] == rows[8..], "{rows:?}");
    assert!(notes.iter().any(|n| n.contains("1.jsonl: 3 of 10 rows")), "{notes:?}");
    // another seed draws other rows; the same one the same
    let seeded = |seed| all(&format!("{b}:0.5"), &DataOptions { seed, ..plain.clone() }).0;
    assert!(seeded(1) == seeded(1) && seeded(1) != seeded(2));
    let limited = DataOptions { limit: Some(2), ..plain.clone() };
    assert_eq!(all(&format!("{b},{c}"), &limited).0, ["10", "11", "20", "21"]);
    assert_eq!(all(&a, &DataOptions { limit: Some(9), ..plain }).0, ["00", "01"]);
}

#[test]
fn what_is_wrong_with_one_file_names_it() {
    let (dir, paths) = files(&[2, 0]);
    let (good, empty) = (paths[0].display(), paths[1].display());
    let refused = |data: String| texts(data, &DataOptions::default()).unwrap_err();
    assert!(refused(format!("{good},{empty}")).contains("1.jsonl: rows: there are none"));
    assert!(refused(format!("{good},nowhere.csv")).starts_with("nowhere.csv: "));
    assert!(refused(format!("{good}:0")).starts_with("⟨data⟩: "));
    let bad = dir.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"text\": \"ab\"}\n{\"prompt\": 1}\n").unwrap();
    let message = refused(format!("{good},{}", bad.display()));
    assert!(message.contains("bad.jsonl:2: "), "{message}");
    // what is behind the limit is not looked at
    let limited = DataOptions { limit: Some(1), ..DataOptions::default() };
    assert_eq!(texts(&bad, &limited).unwrap().0, ["ab"]);
}
