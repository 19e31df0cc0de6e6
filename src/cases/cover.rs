//! The rows of the table that launch given specialisations: few of them, and small ones.
//!
//! What a row launches on a device is found out on one that only counts, so it depends on nothing but what the kernels' host
//! half makes of the row. Tiles are chosen by the size of a product, and rows are small: where a run has a tile that no row has
//! by itself, a row is given it, as a measurement of tiles would ([`Device::try_tile`]); and where operands of a run are too
//! large to be images, so are a row's ([`Device::try_images`]).

use super::{Level, Outcome, Row, on_all_cores, table};
use crate::device::tiles::{ProductKey, TileId};
use crate::device::{Device, KernelSpec};
use crate::error::Result;
use std::collections::{HashMap, HashSet};

/// What a row is given in place of what is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// The tile of one of its products.
    pub tile: Option<(ProductKey, TileId)>,
    /// Bytes of the largest operand that is an image.
    pub images: Option<u64>,
}

impl Setting {
    fn apply(self, device: &Device) {
        device.try_tile(self.tile);
        device.try_images(self.images);
    }
}

/// A row in a setting.
pub struct Check {
    pub row: Row,
    pub setting: Setting,
}

/// Checks that launch what is wanted.
#[derive(Default)]
pub struct Cover {
    /// The smallest first.
    pub checks: Vec<Check>,
    /// What no row of the table launches on this device.
    pub missing: Vec<KernelSpec>,
}

impl Check {
    /// Runs the row in its setting, and says what it launched.
    ///
    /// # Errors
    /// As [`Row::run`].
    pub fn run(&self, device: &Device) -> Result<(Outcome, HashSet<KernelSpec>)> {
        self.setting.apply(device);
        let ran = self.row.run_noting(device);
        Setting::default().apply(device);
        ran
    }

    /// The row's name, and its setting.
    pub fn name(&self) -> String {
        let Setting { tile, images } = self.setting;
        let tile = tile.map_or(String::new(), |(_, tile)| format!(" in tile {tile:?}"));
        let images = images.map_or(String::new(), |most| format!(", images of {most} bytes at most"));
        format!("{} {}{tile}{images}", self.row.op, self.row.what)
    }
}

/// What a row, in a setting, does on the device.
struct Candidate {
    row: usize,
    setting: Setting,
    /// Indices of what is wanted.
    proves: Vec<usize>,
    /// What else it launches, and has to be compiled for it alone.
    others: Vec<KernelSpec>,
    /// That it holds on the device at once: how large it is.
    bytes: u64,
}

/// The rows that launch `wanted` on `device`, each specialisation at least once.
pub fn cover(device: &Device, wanted: &[KernelSpec]) -> Cover {
    let rows = table();
    let search = Search::new(device, &rows, wanted);
    let mut candidates = Vec::new();
    let mut found = HashSet::new();
    // most of what a run launches is in small rows, in the setting that is theirs
    let levels = [Level::Quick, Level::Full, Level::Spare];
    let steps = [Settings::Own, Settings::Tiles, Settings::Images].into_iter().flat_map(|s| levels.map(|l| (s, l)));
    for (settings, level) in steps {
        let missing = || (0..wanted.len()).filter(|i| !found.contains(i)).map(|i| &wanted[i]);
        let missing: HashSet<&str> = missing().filter(|spec| settings.concern(spec)).map(|s| s.kernel.name).collect();
        if missing.is_empty() {
            continue;
        }
        let fresh = search.candidates(level, settings, &missing);
        found.extend(fresh.iter().flat_map(|c| c.proves.iter().copied()));
        candidates.extend(fresh);
    }
    let chosen = choose(candidates, wanted.len());
    let missing = (0..wanted.len()).filter(|i| !found.contains(i)).map(|i| wanted[i].clone()).collect();
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let mut checks: Vec<Check> = Vec::new();
    for Candidate { row, setting, .. } in chosen {
        // a row that is wanted in several settings is made again
        let row = rows[row].take().or_else(|| table().into_iter().nth(row));
        checks.extend(row.map(|row| Check { row, setting }));
    }
    Cover { checks, missing }
}

/// What rows are looked at in.
#[derive(Clone, Copy, PartialEq)]
enum Settings {
    /// Their own.
    Own,
    /// Each of the other tiles that their products can have.
    Tiles,
    /// Fewer images.
    Images,
}

impl Settings {
    /// Whether they make a difference to a specialisation.
    fn concern(self, spec: &KernelSpec) -> bool {
        self != Settings::Images || (0..spec.kernel.bindings.len()).any(|i| spec.kernel.bindings[i].image.is_some())
    }
}

/// The largest images of [`Settings::Images`]: rows' operands have some kilobytes.
fn image_sizes() -> impl Iterator<Item = u64> {
    std::iter::once(0).chain((10..18).map(|i| 1 << i))
}

/// A look at what rows launch.
struct Search<'a> {
    device: &'a Device,
    rows: &'a [Row],
    wanted: HashMap<&'a KernelSpec, usize>,
    /// Formats of weights among them.
    formats: HashSet<Option<u32>>,
}

impl<'a> Search<'a> {
    fn new(device: &'a Device, rows: &'a [Row], wanted: &'a [KernelSpec]) -> Self {
        let formats = wanted.iter().map(|spec| spec.get("WFMT")).collect();
        Search { device, rows, wanted: wanted.iter().zip(0..).collect(), formats }
    }

    /// The rows of a level that may launch one of these kernels, where they launch something that is wanted.
    fn candidates(&self, level: Level, settings: Settings, kernels: &HashSet<&str>) -> Vec<Candidate> {
        let of_level = |i: &usize| {
            let row = &self.rows[*i];
            row.level == level
                && row.format.is_none_or(|f| self.formats.contains(&Some(f as u32)))
                && row.kernels.iter().any(|k| kernels.contains(k.name))
        };
        let rows: Vec<usize> = (0..self.rows.len()).filter(of_level).collect();
        let mut all = on_all_cores(self.device, &rows, |counting, &row| {
            let settings = self.settings(counting, row, settings);
            settings.into_iter().filter_map(|setting| self.candidate(counting, row, setting)).collect()
        });
        all.sort_by_key(|c: &Candidate| (c.row, c.setting));
        all
    }

    fn settings(&self, counting: &Device, row: usize, settings: Settings) -> Vec<Setting> {
        match settings {
            Settings::Own => vec![Setting::default()],
            Settings::Images => image_sizes().map(|most| Setting { tile: None, images: Some(most) }).collect(),
            Settings::Tiles => {
                counting.note_products(true);
                self.rows[row].launches(counting);
                let products = counting.note_products(false);
                let tiles = products.iter().flat_map(|p| p.tiles.iter().skip(1).map(|tile| (p.key, *tile)));
                tiles.map(|tile| Setting { tile: Some(tile), images: None }).collect()
            }
        }
    }

    fn candidate(&self, counting: &Device, row: usize, setting: Setting) -> Option<Candidate> {
        setting.apply(counting);
        counting.restart_peaks();
        let launched: HashSet<KernelSpec> = self.rows[row].launches(counting).into_iter().collect();
        Setting::default().apply(counting);
        let bytes = counting.ledger().peak();
        let mut candidate = Candidate { row, setting, proves: Vec::new(), others: Vec::new(), bytes };
        for spec in launched {
            match self.wanted.get(&spec) {
                Some(&i) => candidate.proves.push(i),
                None => candidate.others.push(spec),
            }
        }
        candidate.proves.sort_unstable();
        (!candidate.proves.is_empty()).then_some(candidate)
    }
}

/// What compiling a kernel that is not wanted costs, and so many bytes of operands, beside the start of a row.
const COMPILING: f64 = 8.0;
const BYTES: f64 = (256 << 10) as f64;

/// A few of `candidates` that launch all that any of them launches: again and again that with the most for its cost.
fn choose(mut candidates: Vec<Candidate>, wanted: usize) -> Vec<Candidate> {
    let mut left = vec![true; wanted];
    let mut compiled: HashSet<KernelSpec> = HashSet::new();
    let mut chosen: Vec<Candidate> = Vec::new();
    loop {
        let worth = |c: &Candidate| {
            let fresh = c.proves.iter().filter(|i| left[**i]).count();
            let others = c.others.iter().filter(|spec| !compiled.contains(*spec)).count();
            fresh as f64 / (1.0 + COMPILING * others as f64 + c.bytes as f64 / BYTES)
        };
        candidates.retain(|c| c.proves.iter().any(|i| left[*i]));
        let worths = candidates.iter().map(worth).enumerate();
        // the first of equals, which does not depend on threads
        let Some((best, _)) = worths.reduce(|a, b| if b.1 > a.1 { b } else { a }) else { break };
        let best = candidates.remove(best);
        best.proves.iter().for_each(|i| left[*i] = false);
        compiled.extend(best.others.iter().cloned());
        chosen.push(best);
    }
    chosen.sort_by_key(|c| (c.bytes, c.row));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::kernels;

    fn device() -> Device {
        Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())))
    }

    #[test]
    fn few_rows_launch_what_many_do() {
        let device = device();
        let rows = table().into_iter().filter(|r| r.level <= Level::Quick && r.op != "product");
        let rows: Vec<Row> = rows.step_by(7).collect();
        let wanted = super::super::launches(&device, &rows);
        let cover = cover(&device, &wanted);
        assert_eq!(cover.missing, []);
        assert!(cover.checks.len() < rows.len(), "{} checks for {} rows", cover.checks.len(), rows.len());
        let launched: HashSet<KernelSpec> = cover.checks.iter().flat_map(|c| c.row.launches(&device)).collect();
        assert!(cover.checks.iter().all(|c| c.setting == Setting::default()));
        let missed: Vec<_> = wanted.iter().filter(|spec| !launched.contains(*spec)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn what_no_row_launches_is_named() {
        // a kernel of software renderers, on a GPU
        let foreign = kernels::variants().into_iter().find(|s| s.kernel.name == "rmsnorm_simd").unwrap();
        let cover = cover(&device(), std::slice::from_ref(&foreign));
        assert_eq!((cover.missing, cover.checks.len()), (vec![foreign], 0));
    }

    #[test]
    fn a_tile_that_rows_do_not_have_is_given_to_one() {
        let device = device();
        let large =
            kernels::variants().into_iter().filter(|s| s.kernel.name == "rosa_linear" && s.get("BM") == Some(128));
        let is_wanted =
            |s: &KernelSpec| ["VEC", "SPARSE", "BIAS", "ACCUMULATE"].map(|c| s.get(c)) == [2, 1, 0, 0].map(Some);
        let large: Vec<_> = large.filter(|s| s.get("TM") == Some(16) && is_wanted(s)).collect();
        let cover = cover(&device, &large);
        assert!(!large.is_empty());
        assert_eq!(cover.missing, []);
        assert!(cover.checks.iter().all(|c| c.setting.tile.is_some_and(|(_, tile)| tile[0] == 128)));
    }
}
