//! What a device has proved, in the user's cache folder: a file for each device, driver and version of this program, with a
//! line for each specialisation. A file that is damaged, or another device's, counts for nothing and is written anew.

use crate::device::Caps;
use crate::io::atomic::write_atomic;
use crate::io::digest::Digest;
use crate::rng::Rng;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Specialisations that are kept, at most; a file that grows over it is begun afresh.
const MOST: usize = 1 << 16;
/// Characters of a digest.
const DIGEST: usize = 16;

fn path(folder: &Path, caps: &Caps) -> PathBuf {
    folder.join(format!("proved-{:016x}", Rng::named(0, &caps.identity()).next_u64()))
}

/// The digests of what a device has proved.
pub(super) fn read(folder: &Path, caps: &Caps) -> BTreeSet<String> {
    let path = path(folder, caps);
    let most = (MOST * (DIGEST + 1)) as u64 + (64 << 10);
    if !std::fs::metadata(&path).is_ok_and(|file| file.len() <= most) {
        return BTreeSet::new();
    }
    std::fs::read_to_string(&path).ok().and_then(|text| parse(&text, &caps.identity())).unwrap_or_default()
}

fn parse(text: &str, identity: &str) -> Option<BTreeSet<String>> {
    let (said, rest) = text.split_once('\n')?;
    let lines = (said == Digest::of(rest.as_bytes())).then(|| rest.strip_prefix(identity))??;
    Some(lines.lines().map(str::to_owned).collect())
}

/// Adds to it. Where it cannot be written, the next run proves again.
pub(super) fn add(folder: &Path, caps: &Caps, fresh: impl Iterator<Item = String>) {
    let fresh: BTreeSet<String> = fresh.collect();
    if fresh.is_empty() {
        return;
    }
    // another process may have added some meanwhile
    let mut all = read(folder, caps);
    if all.len() + fresh.len() > MOST {
        all.clear();
    }
    all.extend(fresh);
    let mut rest = caps.identity();
    all.iter().for_each(|line| rest.extend([line.as_str(), "\n"]));
    let _ = std::fs::create_dir_all(folder);
    let _ = write_atomic(&path(folder, caps), |w| write!(w, "{}\n{rest}", Digest::of(rest.as_bytes())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn what_is_added_is_there_for_the_same_driver_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, caps) = (dir.path().join("a/b"), DryBackend::caps_for_tests());
        assert!(read(&folder, &caps).is_empty() && !folder.exists());
        add(&folder, &caps, ["1".to_owned()].into_iter());
        add(&folder, &caps, ["2".to_owned()].into_iter());
        assert_eq!(read(&folder, &caps), set(&["1", "2"]));
        let other = Caps { driver: "another".into(), ..caps.clone() };
        assert!(read(&folder, &other).is_empty());
        // under another's name it is still the other's
        std::fs::copy(path(&folder, &caps), path(&folder, &other)).unwrap();
        assert!(read(&folder, &other).is_empty());
    }

    #[test]
    fn a_damaged_file_counts_for_nothing_and_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let caps = DryBackend::caps_for_tests();
        add(dir.path(), &caps, ["1", "2"].map(String::from).into_iter());
        let (path, whole) = (path(dir.path(), &caps), std::fs::read(path(dir.path(), &caps)).unwrap());
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(read(dir.path(), &caps).is_empty(), "byte {i}");
            std::fs::write(&path, &whole[..i]).unwrap();
            assert!(read(dir.path(), &caps).is_empty(), "cut at {i}");
        }
        add(dir.path(), &caps, ["3".to_owned()].into_iter());
        assert_eq!(read(dir.path(), &caps), set(&["3"]));
    }
}
