//! The handful of rows that a device must pass before a run is entrusted to it.
//!
//! What has passed is noted in the user's cache folder by device, driver, features and version of this program, so the
//! rows run once after each of them changes. `RUGOSA_SELFTEST=off` leaves them out.

use super::{Level, table};
use crate::device::Device;
use crate::env;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::cache_folder;
use crate::rng::Rng;
use std::path::Path;

/// How a device came to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The user said so.
    SwitchedOff,
    /// It passed before.
    Remembered,
    /// It passed so many rows now.
    Passed(usize),
}

/// Runs the start-up rows on `device` unless they passed before, or the user switched them off.
///
/// # Errors
/// [`Error::Kernel`] that names the device, the kernels and the numbers, where it computes wrongly.
pub fn trust(device: &Device) -> Result<Trust> {
    if env::settings().skip_selftest {
        return Ok(Trust::SwitchedOff);
    }
    trust_in(device, cache_folder().as_deref())
}

/// [`trust`] with the folder where notes are kept, if there is one.
///
/// # Errors
/// As [`trust`].
pub fn trust_in(device: &Device, cache: Option<&Path>) -> Result<Trust> {
    let key = device.caps().identity();
    let note = cache.map(|folder| folder.join(note_name(&key)));
    if note.as_ref().is_some_and(|path| std::fs::read_to_string(path).is_ok_and(|text| text == key)) {
        return Ok(Trust::Remembered);
    }
    let rows: Vec<_> = table().into_iter().filter(|r| r.level == Level::Startup).collect();
    for row in &rows {
        let outcome = row.run(device)?;
        if let Some(fault) = &outcome.fault {
            let caps = device.caps();
            return Err(Error::Kernel {
                name: row.suspects(&outcome),
                reason: format!(
                    "{} ({}) computes wrongly: {} {}: {fault}; update its driver, choose another --device, or go on \
                     at your own risk with {}=off",
                    caps.name,
                    caps.driver,
                    row.op,
                    row.what,
                    env::SELFTEST
                ),
            });
        }
    }
    if let (Some(folder), Some(path)) = (cache, &note) {
        // where no note can be left the rows run again, which costs a second
        let _ = std::fs::create_dir_all(folder);
        let _ = write_atomic(path, |w| w.write_all(key.as_bytes()));
    }
    Ok(Trust::Passed(rows.len()))
}

fn note_name(key: &str) -> String {
    format!("selftest-{:016x}", Rng::named(0, key).next_u64())
}
