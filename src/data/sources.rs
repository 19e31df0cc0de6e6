//! What `--data` names: a file of rows, or several with how much of each is taken, `a.jsonl,b.csv:0.3`.

use crate::error::{Error, Result};
use crate::io::hub::{self, HubName, RepoKind};
use crate::rng::Rng;
use std::path::{Path, PathBuf};

/// Times that a file's rows are taken in an epoch, at most.
const MOST_TIMES: f64 = 100.0;

/// One file of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    pub path: PathBuf,
    /// How often its rows are in an epoch: 1 for each once, 0.3 for as many drawn at random as are three tenths of it.
    pub weight: f64,
}

/// The files that `data` names. A file that exists under a name is that file, whatever commas and colons are in it.
///
/// # Errors
/// [`Error::Invalid`] for a weight that is none, and for a name that is missing.
pub fn sources(data: &Path) -> Result<Vec<DataSource>> {
    let whole = || vec![DataSource { path: data.to_path_buf(), weight: 1.0 }];
    let Some(text) = data.to_str().filter(|_| !data.exists()) else { return Ok(whole()) };
    let source = |part: &str| {
        let (path, weight) = if Path::new(part).exists() { (part, 1.0) } else { weighted(part) };
        if !(weight > 0.0 && weight <= MOST_TIMES) {
            let reason = format!("{part}: the weight of a file must be over 0, at most {MOST_TIMES}");
            return Err(Error::option("data", reason).as_usage());
        }
        if path.is_empty() {
            let reason = format!("\"{text}\" names a file without a name; several are a.jsonl,b.csv:0.3");
            return Err(Error::option("data", reason).as_usage());
        }
        Ok(DataSource { path: path.into(), weight })
    };
    named(text).into_iter().map(source).collect()
}

/// A name and its weight.
fn weighted(part: &str) -> (&str, f64) {
    let split = part.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.trim().parse::<f64>().ok()?)));
    split.unwrap_or((part, 1.0))
}

/// The parts of a list between commas; those that only together are the name of a file stay together.
fn named(text: &str) -> Vec<&str> {
    let is_file = |part: &str| Path::new(part).is_file() || Path::new(weighted(part).0).is_file();
    let mut parts = Vec::new();
    let mut rest = Some(text);
    while let Some(list) = rest {
        let ends = || list.match_indices(',').map(|(at, _)| at).chain([list.len()]);
        let end = ends().find(|end| is_file(&list[..*end])).or_else(|| ends().next()).unwrap_or(list.len());
        parts.push(&list[..end]);
        rest = list.get(end + 1..);
    }
    parts
}

/// The same with absolute paths; a name on the Hub stays one.
///
/// # Errors
/// As [`sources`]; [`Error::Io`] where the process has no working folder.
pub fn located(data: &Path) -> Result<PathBuf> {
    mapped(data, |path| match HubName::of(path, RepoKind::Dataset)? {
        Some(_) => Ok(path.to_path_buf()),
        None => std::path::absolute(path).map_err(Error::io(path)),
    })
}

/// The same with each name on the Hub as the commit that it stands for now.
///
/// # Errors
/// As [`sources`] and [`hub::pinned`].
pub fn pinned(data: &Path) -> Result<PathBuf> {
    mapped(data, |path| hub::pinned(path, RepoKind::Dataset))
}

/// The same list with other paths.
fn mapped(data: &Path, path: impl Fn(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
    let sources = sources(data)?;
    if let [source @ DataSource { weight: 1.0, .. }] = sources.as_slice() {
        return path(&source.path);
    }
    let one = |source: &DataSource| -> Result<String> {
        let weight = if source.weight == 1.0 { String::new() } else { format!(":{}", source.weight) };
        Ok(format!("{}{weight}", path(&source.path)?.display()))
    };
    Ok(sources.iter().map(one).collect::<Result<Vec<_>>>()?.join(",").into())
}

impl DataSource {
    /// Which of the `rows` rows of the file, the `index`th of a set, an epoch has; drawn from `seed` where it has not all.
    pub(super) fn draw(&self, rows: usize, seed: u64, index: usize) -> Vec<usize> {
        let times = self.weight.floor();
        let mut all: Vec<usize> = (0..rows).collect();
        let drawn = ((self.weight - times) * rows as f64).round() as usize;
        let mut taken = all.repeat(times as usize);
        // of a file that is named there is something
        let drawn = if taken.is_empty() { drawn.max(1).min(rows) } else { drawn };
        if drawn > 0 {
            Rng::named(seed, &format!("rows of file {index}")).shuffle(&mut all);
            all.truncate(drawn);
            all.sort_unstable();
            taken.append(&mut all);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, f64)>, String> {
        let all = sources(Path::new(text)).map_err(|e| e.to_string())?;
        Ok(all.into_iter().map(|s| (s.path.display().to_string(), s.weight)).collect())
    }

    #[test]
    fn files_and_weights_are_told_apart() {
        let named = |list: &[(&str, f64)]| Ok(list.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect::<Vec<_>>());
        assert_eq!(of("a.jsonl"), named(&[("a.jsonl", 1.0)]));
        assert_eq!(of("a.jsonl,b/c.csv:0.3,d:2"), named(&[("a.jsonl", 1.0), ("b/c.csv", 0.3), ("d", 2.0)]));
        assert_eq!(of(r"C:\rows.jsonl"), named(&[(r"C:\rows.jsonl", 1.0)]));
        for bad in ["a:0", "a:-1", "a:101", "a:nan"] {
            let message = of(bad).unwrap_err();
            assert!(message.starts_with(&format!("⟨data⟩: {bad}: the weight of a file must be over 0")), "{message}");
        }
        assert!(of("a.jsonl,").unwrap_err().contains("names a file without a name"));
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a,b:0.5");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(of(odd.to_str().unwrap()), named(&[(odd.to_str().unwrap(), 1.0)]));
        // in a list too, and in a folder that has a comma in its name beside one that has the part before
        std::fs::create_dir_all(dir.path().join("x,y")).unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        let file = dir.path().join("x,y/one.jsonl");
        std::fs::write(&file, "").unwrap();
        let (odd, file) = (odd.to_str().unwrap(), file.to_str().unwrap());
        let want = named(&[(file, 0.5), ("none.jsonl", 2.0), (odd, 1.0), (file, 1.0)]);
        assert_eq!(of(&format!("{file}:0.5,none.jsonl:2,{odd},{file}")), want);
    }

    #[test]
    fn every_file_of_a_list_is_located() {
        let mixed = located(Path::new("hf:org/set/rows.jsonl:0.5,a.jsonl")).unwrap();
        let here = std::path::absolute("a.jsonl").unwrap();
        assert_eq!(mixed, PathBuf::from(format!("hf:org/set/rows.jsonl:0.5,{}", here.display())));
        let at = |name: &str| std::path::absolute(name).unwrap().display().to_string();
        assert_eq!(located(Path::new("a.jsonl")).unwrap(), PathBuf::from(at("a.jsonl")));
        let list = located(Path::new("a.jsonl,b.csv:0.3")).unwrap();
        assert_eq!(list, PathBuf::from(format!("{},{}:0.3", at("a.jsonl"), at("b.csv"))));
        assert_eq!(located(&list).unwrap(), list);
    }

    #[test]
    fn as_many_rows_are_drawn_as_the_weight_says() {
        let draw = |weight: f64, seed: u64| DataSource { path: "x".into(), weight }.draw(10, seed, 0);
        assert_eq!(draw(1.0, 1), (0..10).collect::<Vec<_>>());
        assert_eq!(draw(2.0, 1), (0..10).chain(0..10).collect::<Vec<_>>());
        let some = draw(0.3, 1);
        assert!(some.len() == 3 && some.is_sorted() && some != draw(0.3, 2), "{some:?}");
        assert_eq!(some, draw(0.3, 1));
        assert_eq!(draw(1.5, 1).len(), 15);
        assert_eq!(draw(0.01, 1).len(), 1);
    }
}
