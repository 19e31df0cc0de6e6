//! Measured tiles in the user's cache folder: a file for each device, driver and version of this program. What is damaged,
//! or another's, is left out with a warning.

use super::TileTable;
use crate::device::{Caps, Device};
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::cache_folder;
use crate::io::digest::Digest;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a file that is read, at most.
const MOST_BYTES: u64 = 4 << 20;
/// Rows of a table, at most; one that grows over it is begun afresh.
const MOST_ROWS: usize = 8192;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// [`Caps::identity`]
    device: String,
    tiles: TileTable,
}

impl Device {
    /// Takes the tiles that were measured on this device before, if the user has a cache. How many there are.
    pub fn load_tiles(&self) -> usize {
        let table = cache_folder().map(|folder| read(&folder, self.caps())).unwrap_or_default();
        let rows = table.len();
        self.set_tiles(table);
        rows
    }
}

/// Where the tiles of a device are kept in `folder`.
pub fn path(folder: &Path, caps: &Caps) -> PathBuf {
    folder.join(format!("tiles-{:016x}", Rng::named(0, &caps.identity()).next_u64()))
}

/// The tiles that are kept in `folder` for a device; none if there is no file, or none that can be used.
pub fn read(folder: &Path, caps: &Caps) -> TileTable {
    let path = path(folder, caps);
    let Ok(file) = File::open(&path) else { return TileTable::default() };
    match parse(file, &caps.identity()) {
        Ok(table) => table,
        Err(reason) => {
            tracing::warn!("{}: {reason}; its tiles are not used, and ⟨tune⟩ writes it anew", path.display());
            TileTable::default()
        }
    }
}

fn parse(file: impl Read, device: &str) -> Result<TileTable, &'static str> {
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|_| "is damaged")?;
    if text.len() as u64 > MOST_BYTES {
        return Err("is too large");
    }
    let (said, json) = text.split_once('\n').ok_or("is damaged")?;
    if said != Digest::of(json.as_bytes()) {
        return Err("is damaged");
    }
    let content: Content = serde_json::from_str(json).map_err(|_| "is of another kind")?;
    match content {
        Content { device: of, .. } if of != device => Err("is of another device or driver"),
        Content { tiles, .. } if tiles.len() > MOST_ROWS => Err("has too many rows"),
        Content { tiles, .. } => Ok(tiles),
    }
}

/// Adds `fresh` to the tiles that are kept in `folder` for a device.
///
/// # Errors
/// [`Error::Io`].
pub fn add(folder: &Path, caps: &Caps, fresh: &TileTable) -> Result<()> {
    // another process may have added some meanwhile
    let mut tiles = read(folder, caps);
    tiles.extend(fresh);
    if tiles.len() > MOST_ROWS {
        tiles = fresh.clone();
    }
    let content = Content { device: caps.identity(), tiles };
    let json = serde_json::to_string(&content).map_err(|e| Error::invalid("tiles", e.to_string()))?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let path = path(folder, caps);
    write_atomic(&path, |w| write!(w, "{}\n{json}", Digest::of(json.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;
    use crate::device::dry::DryBackend;

    fn table(lengths: &[usize], tile: u32) -> TileTable {
        let mut table = TileTable::default();
        lengths.iter().for_each(|&m| table.set(key(m, 0), [tile; 7]));
        table
    }

    #[test]
    fn what_is_added_is_there_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, caps) = (dir.path().join("a/rugosa"), DryBackend::caps_for_tests());
        assert!(read(&folder, &caps).is_empty() && !folder.exists());
        add(&folder, &caps, &table(&[1, 2], 64)).unwrap();
        add(&folder, &caps, &table(&[2, 4], 32)).unwrap();
        let tiles = read(&folder, &caps);
        assert_eq!([1, 2, 4].map(|m| tiles.get(&key(m, 0))), [Some([64; 7]), Some([32; 7]), Some([32; 7])]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        let many: Vec<usize> = (0..14).map(|i| 1 << i).collect();
        add(&folder, &caps, &table(&many, 16)).unwrap();
        assert_eq!(read(&folder, &caps).len(), 14);
    }

    #[test]
    fn another_driver_class_or_version_has_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let caps = DryBackend::caps_for_tests();
        add(dir.path(), &caps, &table(&[1], 64)).unwrap();
        let others = [
            Caps { driver: "next".into(), ..caps.clone() },
            Caps { name: "next".into(), ..caps.clone() },
            Caps { class: crate::device::DeviceClass::Integrated, ..caps.clone() },
        ];
        for other in others {
            assert!(read(dir.path(), &other).is_empty());
            // nor is the file of one taken for that of another
            std::fs::copy(path(dir.path(), &caps), path(dir.path(), &other)).unwrap();
            assert!(read(dir.path(), &other).is_empty());
        }
        let file = || File::open(path(dir.path(), &caps)).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert!(caps.identity().starts_with(&format!("rugosa {version}\n")));
        assert!(parse(file(), &caps.identity()).is_ok());
        let next = caps.identity().replacen(version, "999.0.0", 1);
        assert_eq!(parse(file(), &next).unwrap_err(), "is of another device or driver");
    }

    #[test]
    fn a_file_that_is_damaged_or_hostile_is_not_used_and_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let caps = DryBackend::caps_for_tests();
        add(dir.path(), &caps, &table(&[1, 2], 64)).unwrap();
        let at = path(dir.path(), &caps);
        let whole = std::fs::read(&at).unwrap();
        let rows = |bytes: &[u8]| {
            std::fs::write(&at, bytes).unwrap();
            read(dir.path(), &caps).len()
        };
        assert_eq!(rows(&whole), 2);
        for cut in [0, 1, 16, 17, whole.len() / 2, whole.len() - 1] {
            assert_eq!(rows(&whole[..cut]), 0, "{cut} bytes");
        }
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 1;
            assert_eq!(rows(&bytes), 0, "byte {i}");
        }
        // a right digest makes no file right
        let signed = |json: &str| format!("{}\n{json}", Digest::of(json.as_bytes())).into_bytes();
        let device = serde_json::to_string(&caps.identity()).unwrap();
        let row = r#"{"product":{"family":"matmul","layout":0,"m":1,"n":1,"k":1,"formats":[0,0],"sparse":false,"low_rank":false,"count":0,"span":0},"tile":[1,1,1,1,1,1,1]}"#;
        assert_eq!(rows(&signed(&format!(r#"{{"device":{device},"tiles":[{row}]}}"#))), 1);
        let other = |from: &str, to: &str| format!(r#"{{"device":{device},"tiles":[{}]}}"#, row.replace(from, to));
        for json in [
            "",
            "{}",
            "[]",
            &other(r#""m":1"#, r#""m":-1"#),
            &other(r#""m":1"#, r#""m":1e300"#),
            &other("matmul", "softmax"),
            &other("[1,1,1,1,1,1,1]", "[1,1]"),
            &other(r#""layout""#, r#""colour""#),
        ] {
            assert_eq!(rows(&signed(json)), 0, "{json}");
        }
        let many = |n: usize| {
            let row = |i: usize| row.replace(r#""n":1"#, &format!(r#""n":{i}"#));
            let rows: Vec<String> = (0..n).map(row).collect();
            signed(&format!(r#"{{"device":{device},"tiles":[{}]}}"#, rows.join(",")))
        };
        assert_eq!((rows(&many(MOST_ROWS)), rows(&many(MOST_ROWS + 1))), (MOST_ROWS, 0));
        assert_eq!(rows(&vec![b' '; MOST_BYTES as usize + 1]), 0);
        add(dir.path(), &caps, &table(&[8], 32)).unwrap();
        assert_eq!(read(dir.path(), &caps), table(&[8], 32));
    }
}
