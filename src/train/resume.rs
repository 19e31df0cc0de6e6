//! Whether a run may go on: its configuration, its model and its data must be what they were.

use super::config::{Checkpointing, Method, PartialConfig, TrainConfig};
use super::output::CONFIG_FILE;
use super::state::{self, Header, Saved};
use crate::data::Dataset;
use crate::device::Caps;
use crate::device::tiles::TileTable;
use crate::error::{Error, Result};
use crate::io::adapter;
use crate::io::digest::{Digest, digest_file, sample_file};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Keys that may change: they decide where the run computes and what is shown, not what comes out.
const FREE: &[&str] = &["out", "device", "vram", "tune", "save_steps", "log_steps"];
/// Keys of paths: files may move, their contents may not change.
const SOURCES: &[&str] = &["model", "data", "mask", "init_adapter"];

/// The state of the run in the folder of `config`, and `config`, which must be the run's: what it leaves to the data is as
/// the run has it.
///
/// # Errors
/// [`Error::File`] if the run is finished or has no state; [`Error::Invalid`] that names a key that has changed; those of
/// [`state::find`].
pub fn find(mut config: TrainConfig) -> Result<(TrainConfig, Saved)> {
    let out = &config.out;
    let Some(saved) = state::find(out)? else {
        let reason = if is_finished(&config) {
            "the run is finished; to train further start another one from it, with --init-adapter or --model"
        } else {
            "there is no saved state: the run stopped before the first one; start it again in another --out, with \
             --save-steps"
        };
        return Err(Error::file(out, "--resume", reason));
    };
    let then = PartialConfig::parse(&out.join(CONFIG_FILE), &saved.header.config)?;
    config.schedule = config.schedule.or(then.schedule);
    config.mask_grads = config.mask_grads.or(then.mask_grads);
    config.gradient_accumulation_steps = config.gradient_accumulation_steps.or(then.gradient_accumulation_steps);
    config.warmup_steps = config.warmup_steps.or(then.warmup_steps);
    if config.steps.is_none() {
        config.epochs = config.epochs.or(then.epochs);
    }
    if config.checkpointing == Checkpointing::AUTO {
        config.checkpointing = then.checkpointing.unwrap_or(config.checkpointing);
    }
    check_config(&config, &saved.header)?;
    Ok((config, saved))
}

/// Whether the run has written what it was for.
fn is_finished(config: &TrainConfig) -> bool {
    let last = match (config.mask_file().filter(|_| config.mask_only), config.method) {
        (Some(masks), _) => masks,
        (None, Method::Full) => config.out.join("config.json"),
        (None, _) => config.out.join(adapter::CONFIG_FILE),
    };
    last.exists()
}

fn check_config(config: &TrainConfig, header: &Header) -> Result<()> {
    let table = |text: &str| -> Result<toml::Table> {
        text.parse().map_err(|e: toml::de::Error| Error::invalid("config.toml", e.message().replace('\n', "; ")))
    };
    let (now, then) = (table(&config.to_toml()?)?, table(&header.config)?);
    // masks that are given have a density of their own, which the configuration of the run took over
    let masks_given = || {
        let adapter = config.init_adapter.as_ref().and_then(|folder| adapter::Outline::read(folder).ok());
        config.mask.is_some() || adapter.is_some_and(|a| a.modules.values().any(|halves| halves.sparse))
    };
    let shown = |value: Option<&toml::Value>| value.map_or("not given".to_owned(), ToString::to_string);
    for key in now.keys().chain(then.keys()) {
        let (a, b) = (now.get(key), then.get(key));
        let moved = SOURCES.contains(&key.as_str()) && a.is_some() && b.is_some();
        let settled = key.starts_with("density") && masks_given();
        // scores that were saved are of the groups that they were made in
        let grouped = key == "mask_workspace" && header.scores.is_none();
        if a != b && !moved && !settled && !grouped && !FREE.contains(&key.as_str()) {
            let reason = format!(
                "is {}, but {} in the run to resume; change it back, or start another run in another --out",
                shown(a),
                shown(b)
            );
            return Err(Error::invalid(key.as_str(), reason));
        }
    }
    Ok(())
}

/// Digests of everything that the run reads, by key.
///
/// # Errors
/// [`Error::Io`].
pub fn sources(config: &TrainConfig, dataset: &Dataset) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::from([
        ("model".to_owned(), digest_of(&model_files(&config.model)?)?),
        ("data".to_owned(), dataset.digest()),
    ]);
    if let Some(mask) = &config.mask {
        all.insert("mask".into(), digest_file(mask)?.0);
    }
    if let Some(folder) = &config.init_adapter {
        all.insert(
            "init_adapter".into(),
            digest_of(&[adapter::CONFIG_FILE, adapter::TENSORS_FILE].map(|f| folder.join(f)))?,
        );
    }
    Ok(all)
}

/// Checks that what the run reads is what it read before.
///
/// # Errors
/// [`Error::File`] with the path and the key of what has changed.
pub fn check_sources(config: &TrainConfig, now: &BTreeMap<String, String>, saved: &Saved) -> Result<()> {
    let path = |key: &str| match key {
        "data" => Some(&config.data),
        "mask" => config.mask.as_ref(),
        "init_adapter" => config.init_adapter.as_ref(),
        _ => Some(&config.model),
    };
    for (key, digest) in &saved.header.sources {
        if now.get(key) != Some(digest) {
            let reason = "is not what the run to resume began with; put it back, or start another run in another --out";
            return Err(Error::file(path(key).unwrap_or(&config.out), key, reason));
        }
    }
    Ok(())
}

/// The tiles that a run to resume goes on with, where this device has `measured` ones, and a line about them where there is
/// something to say. They are those that it began with, whatever was measured since: others would sum in another order.
pub fn tiles(saved: &Header, caps: &Caps, measured: TileTable) -> (TileTable, Option<String>) {
    match &saved.tiles {
        Some(began) if began.device == caps.identity() => {
            let rows = began.table.len();
            let line = (rows > 0).then(|| format!("tiles: the {rows} that the run began with"));
            (began.table.clone(), line)
        }
        Some(began) if began.table.is_empty() && measured.is_empty() => (measured, None),
        Some(_) => {
            let line = "tiles: the run began on another device, driver or version, and with other tiles; it goes on, but not \
                        bit for bit";
            (measured, Some(line.into()))
        }
        None => (TileTable::default(), None),
    }
}

/// What makes a model: its weights and its configuration. The tokenizer shows in the data.
fn model_files(model: &Path) -> Result<Vec<PathBuf>> {
    if !model.is_dir() {
        return Ok(vec![model.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model).map_err(Error::io(model))? {
        let path = entry.map_err(Error::io(model))?.path();
        let weights = path.extension().is_some_and(|e| e == "safetensors");
        if weights || path.file_name().is_some_and(|n| n == "config.json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn digest_of(files: &[PathBuf]) -> Result<String> {
    let mut digest = Digest::default();
    files.iter().try_for_each(|f| sample_file(f, &mut digest))?;
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Position;

    fn config(text: &str) -> TrainConfig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, format!("model = 'm'\ndata = 'd'\nout = 'o'\n{text}")).unwrap();
        TrainConfig::resolve(PartialConfig::from_toml(&path).unwrap(), PartialConfig::default()).unwrap()
    }

    fn header(config: &TrainConfig) -> Header {
        Header {
            version: 1,
            step: 1,
            position: Position::default(),
            skipped: Default::default(),
            loss: None,
            loss_scale: crate::optim::LossScale::off(),
            config: config.to_toml().unwrap(),
            sources: BTreeMap::new(),
            blocks: Vec::new(),
            scores: None,
            has_masks: false,
            tiles: None,
        }
    }

    #[test]
    fn a_changed_key_is_named_with_both_values() {
        let then = header(&config("rank = 4\nsteps = 10"));
        assert!(check_config(&config("rank = 4\nsteps = 10"), &then).is_ok());
        let message = |text: &str| check_config(&config(text), &then).unwrap_err().to_string();
        assert!(message("rank = 2\nsteps = 10").starts_with("rank: is 2, but 4 in the run"), "{}", message("rank = 2"));
        assert!(message("rank = 4\nsteps = 10\nseed = 1").starts_with("seed: is 1, but 42"));
        assert!(message("rank = 4").contains("not given"), "{}", message("rank = 4"));
        assert!(
            message("rank = 4\nsteps = 10\nmask = 'x'\nschedule = 'wl64'").starts_with("mask: is \"x\", but not given")
        );
    }

    #[test]
    fn what_follows_from_the_data_need_not_be_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let asked = TrainConfig { out: dir.path().into(), ..config("rank = 4") };
        let ran = asked.clone().for_data(650).unwrap();
        state::save(dir.path(), header(&ran), &state::Parts { blocks: &[], collector: None, masks: BTreeMap::new() })
            .unwrap();
        assert_eq!(find(asked.clone()).unwrap().0, ran);
        assert_eq!(find(ran.clone()).unwrap().0, ran);
        let other = TrainConfig { warmup_steps: Some(1), ..asked };
        let message = find(other).map(drop).unwrap_err().to_string();
        assert!(message.starts_with("warmup_steps: is 1, but"), "{message}");
    }

    #[test]
    fn a_run_keeps_its_tiles_where_it_can_and_says_where_it_cannot() {
        use crate::device::dry::DryBackend;
        use crate::device::tiles::{Family, ProductKey};
        use crate::train::state::SavedTiles;
        let table = |tile: u32| {
            let (family, formats) = (Family::Matmul, [0, 0]);
            let key = ProductKey {
                family,
                layout: 0,
                m: 64,
                n: 64,
                k: 64,
                formats,
                sparse: false,
                low_rank: false,
                count: 0,
                span: 0,
            };
            let mut table = TileTable::default();
            table.set(key, [tile; 7]);
            table
        };
        let caps = DryBackend::caps_for_tests();
        let began = |device: &Caps, table: TileTable| {
            let tiles = Some(SavedTiles { device: device.identity(), table });
            Header { tiles, ..header(&config("")) }
        };
        let none = TileTable::default;
        // measured since, or the file is gone: the run does not care
        for now in [none(), table(1), table(2)] {
            let (tiles, line) = tiles(&began(&caps, table(1)), &caps, now.clone());
            assert!(tiles == table(1) && line.unwrap().contains("the 1 that the run began with"));
            assert_eq!(super::tiles(&began(&caps, none()), &caps, now.clone()), (none(), None));
            // a state from before there were any
            assert_eq!(super::tiles(&header(&config("")), &caps, now), (none(), None));
        }
        let other = Caps { driver: "next".into(), ..caps.clone() };
        assert_eq!(tiles(&began(&other, none()), &caps, none()), (none(), None));
        for (then, now) in [(table(1), none()), (none(), table(1)), (table(1), table(2))] {
            let (tiles, line) = tiles(&began(&other, then), &caps, now.clone());
            assert!(tiles == now && line.unwrap().contains("not bit for bit"));
        }
    }

    #[test]
    fn where_it_computes_and_where_files_lie_may_change() {
        let then = header(&config(""));
        let mut now = config("device = '1'\nsave_steps = 3\nlog_steps = 2\ntune = 5");
        (now.out, now.model, now.data) = ("elsewhere".into(), "moved".into(), "moved.jsonl".into());
        assert!(check_config(&now, &then).is_ok());
    }
}
