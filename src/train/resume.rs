//! Whether a run may go on: its configuration, its model and its data must be what they were.

use super::config::{Checkpointing, Method, PartialConfig, TrainConfig};
use super::evaluation::Evaluation;
use super::output::CONFIG_FILE;
use super::phase::Schedule;
use super::state::{self, Saved, SavedTiles};
use super::{folder, output};
use crate::data::{self, Dataset};
use crate::device::Caps;
use crate::device::tiles::TileTable;
use crate::env;
use crate::error::{Error, Result};
use crate::io::adapter;
use crate::io::digest::{Digest, digest_file, sample_file};
use crate::io::hub::{self, RepoKind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Keys that may change: they decide where the run computes and what is shown, not what comes out.
pub(super) const FREE: &[&str] =
    &["out", "device", "vram", "tune", "save_steps", "keep_states", "log_steps", "tensorboard"];
/// The adapter to start from among the sources.
pub const ADAPTER_KEY: &str = "init_adapter";
/// Keys of paths: files may move, their contents may not change.
pub(super) const SOURCES: &[&str] = &["model", "data", "mask", ADAPTER_KEY, "eval_data", "sample_prompts"];

/// The last state of the run in the folder of `config`, if it has saved one, and `config`, which must be the run's: what it leaves
/// to the data is as the run has it, and so is an adapter to start from that the run keeps.
///
/// # Errors
/// [`Error::File`] if the run is finished or there is none; [`Error::Invalid`] that names a key that has changed; those of
/// [`state::find`].
pub fn find(mut config: TrainConfig) -> Result<(TrainConfig, Option<Saved>)> {
    let kept = config.out.join(output::INIT_ADAPTER);
    if config.init_adapter.is_some() && kept.join(adapter::CONFIG_FILE).exists() {
        config.init_adapter = Some(kept);
    }
    let out = &config.out;
    let saved = state::find(out)?;
    if saved.is_none() && is_finished(&config) {
        // what is left of them, and of a file that was being written, where the process ended in the middle of that
        state::remove_all(out)?;
        folder::sweep(out)?;
        let reason = "the run is finished; to train further start another one from it, with ⟨init_adapter⟩ or ⟨model⟩";
        return Err(Error::file(out, "⟨resume⟩", reason));
    }
    let then = match &saved {
        Some(saved) => saved.header.config.clone(),
        None => folder::configuration(out)?,
    };
    let has_scores = saved.as_ref().is_some_and(|saved| saved.header.scores.is_some());
    Ok((same_run(config, &then, has_scores)?, saved))
}

/// `config`, which must be that of the run whose `config.toml` has the text `then`, with what it leaves to the data.
/// `has_scores`: its state is one amid the collecting of masks.
///
/// # Errors
/// [`Error::Invalid`] that names a key that has changed.
pub fn same_run(mut config: TrainConfig, then: &str, has_scores: bool) -> Result<TrainConfig> {
    let run = PartialConfig::parse(&config.out.join(CONFIG_FILE), then)?;
    config.schedule = config.schedule.or(run.schedule);
    config.mask_grads = config.mask_grads.or(run.mask_grads);
    config.gradient_accumulation_steps = config.gradient_accumulation_steps.or(run.gradient_accumulation_steps);
    config.warmup_steps = config.warmup_steps.or(run.warmup_steps);
    if config.evaluates() {
        config.eval_steps = config.eval_steps.or(run.eval_steps);
    }
    if config.steps.is_none() {
        config.epochs = config.epochs.or(run.epochs);
    }
    if config.checkpointing == Checkpointing::AUTO {
        config.checkpointing = run.checkpointing.unwrap_or(config.checkpointing);
    }
    check_config(&config, then, has_scores)?;
    Ok(config)
}

/// Whether the run has written what it was for.
fn is_finished(config: &TrainConfig) -> bool {
    match (config.mask_file().filter(|_| config.mask_only), config.method) {
        // the file may be somebody else's, and is written before the last step is noted
        (Some(masks), _) => masks.exists() && folder::steps_noted(&config.out) >= steps_to_masks(&config.out),
        (None, Method::Full) => config.out.join("config.json").exists(),
        (None, _) => config.out.join(adapter::CONFIG_FILE).exists(),
    }
}

/// The steps until the masks are there, of the run in a folder; 0 where it does not say.
fn steps_to_masks(out: &Path) -> usize {
    let run = folder::configuration(out).and_then(|text| PartialConfig::parse(&out.join(CONFIG_FILE), &text));
    let Ok(run) = run else { return 0 };
    let warmup = if let Some(Schedule::WarmLora(steps)) = run.schedule { steps } else { 0 };
    (warmup + run.mask_grads.unwrap_or(0)) as usize
}

fn check_config(config: &TrainConfig, then: &str, has_scores: bool) -> Result<()> {
    let table = |text: &str| -> Result<toml::Table> {
        text.parse().map_err(|e: toml::de::Error| Error::invalid("config.toml", e.message().replace('\n', "; ")))
    };
    let (now, then) = (table(&config.located()?.to_toml()?)?, table(then)?);
    // masks that are given have a density of their own, which the configuration of the run took over
    let masks_given = || {
        let read =
            |folder: &PathBuf| output::adapter_in(folder).and_then(|place| adapter::Outline::read(&place.folder));
        let adapter = config.init_adapter.as_ref().and_then(|folder| read(folder).ok());
        config.mask.is_some() || adapter.is_some_and(|a| a.modules.values().any(|halves| halves.sparse))
    };
    let shown = |value: Option<&toml::Value>| value.map_or("not given".to_owned(), ToString::to_string);
    for key in now.keys().chain(then.keys()) {
        let (a, b) = (now.get(key), then.get(key));
        let moved = SOURCES.contains(&key.as_str()) && a.is_some() && b.is_some();
        let settled = key.starts_with("density") && masks_given();
        // scores that were saved are of the groups that they were made in
        let grouped = key == "mask_workspace" && !has_scores;
        if a != b && !moved && !settled && !grouped && !FREE.contains(&key.as_str()) {
            let reason = format!(
                "is {}, but {} in the run to resume; change it back, or start another run in another ⟨out⟩",
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
pub fn sources(
    config: &TrainConfig,
    dataset: &Dataset,
    evaluation: Option<&Evaluation>,
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::from([
        ("model".to_owned(), digest_of(&model_files(&config.model)?)?),
        ("data".to_owned(), dataset.digest()),
    ]);
    if let Some(mask) = &config.mask {
        all.insert("mask".into(), digest_file(mask)?.0);
    }
    if let Some(folder) = &config.init_adapter {
        all.insert(ADAPTER_KEY.into(), digest_of_adapter(&output::adapter_in(folder)?.folder)?);
    }
    if let Some(rows) = evaluation.and_then(Evaluation::rows) {
        all.insert("eval_data".into(), rows.digest());
    }
    if let Some(prompts) = &config.sample_prompts {
        all.insert("sample_prompts".into(), digest_file(prompts)?.0);
    }
    Ok(all)
}

/// Digest of the adapter in `folder`.
///
/// # Errors
/// [`Error::Io`].
pub fn digest_of_adapter(folder: &Path) -> Result<String> {
    digest_of(&[adapter::CONFIG_FILE, adapter::TENSORS_FILE].map(|f| folder.join(f)))
}

/// Checks that what the run reads is what it read before.
///
/// # Errors
/// [`Error::File`] with the path and the key of what has changed.
pub fn check_sources(
    config: &TrainConfig,
    now: &BTreeMap<String, String>,
    dataset: &Dataset,
    saved: &Saved,
) -> Result<()> {
    let path = |key: &str| match key {
        "data" => Some(&config.data),
        "mask" => config.mask.as_ref(),
        "eval_data" => config.eval_data.as_ref().or(Some(&config.data)),
        "sample_prompts" => config.sample_prompts.as_ref(),
        ADAPTER_KEY => config.init_adapter.as_ref(),
        _ => Some(&config.model),
    };
    for (key, digest) in &saved.header.sources {
        if now.get(key) != Some(digest) {
            let date =
                if key == "data" && dataset.report().asks_in_chat() { date_hint(saved.header.clock) } else { None };
            let reason = format!(
                "is not what the run to resume began with; put it back{}, or start another run in another ⟨out⟩",
                date.unwrap_or_default()
            );
            return Err(Error::file(path(key).unwrap_or(&config.out), key, reason));
        }
    }
    Ok(())
}

/// Templates may write the date, and rows of another day are other rows.
fn date_hint(clock: i64) -> Option<String> {
    let day = |seconds: i64| seconds.div_euclid(86_400);
    (day(clock) != day(data::now()))
        .then(|| format!(" (or, where the chat template writes the date, set {}={clock})", env::EPOCH))
}

/// The tiles that a run to resume goes on with, where this device has `measured` ones, and a line about them where there is
/// something to say. They are those that it began with, whatever was measured since: others would sum in another order.
pub fn tiles(began: &SavedTiles, caps: &Caps, measured: TileTable) -> (TileTable, Option<String>) {
    if began.device == caps.identity() {
        let rows = began.table.len();
        let line = (rows > 0).then(|| format!("tiles: the {rows} that the run began with"));
        return (began.table.clone(), line);
    }
    let differ = !began.table.is_empty() || !measured.is_empty();
    (measured, differ.then(|| "tiles: those of this device; the run began with others".to_owned()))
}

/// What makes a model: its weights and its configuration. The tokenizer shows in the data.
fn model_files(model: &Path) -> Result<Vec<PathBuf>> {
    let model = &*hub::local(model, RepoKind::Model)?;
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
    use crate::train::state::Header;

    fn config(text: &str) -> TrainConfig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, format!("model = 'm'\ndata = 'd'\nout = 'o'\n{text}")).unwrap();
        TrainConfig::resolve(PartialConfig::from_toml(&path).unwrap(), PartialConfig::default()).unwrap()
    }

    fn written(config: &TrainConfig) -> String {
        config.located().unwrap().to_toml().unwrap()
    }

    #[test]
    fn a_changed_key_is_named_with_both_values() {
        let then = written(&config("rank = 4\nsteps = 10"));
        assert!(check_config(&config("rank = 4\nsteps = 10"), &then, false).is_ok());
        let message = |text: &str| check_config(&config(text), &then, false).unwrap_err().to_string();
        assert!(message("rank = 2\nsteps = 10").starts_with("rank: is 2, but 4 in the run"), "{}", message("rank = 2"));
        assert!(message("rank = 4\nsteps = 10\nseed = 1").starts_with("seed: is 1, but 42"));
        assert!(message("rank = 4").contains("not given"), "{}", message("rank = 4"));
        let given = message("rank = 4\nsteps = 10\nmask = 'x'\nschedule = 'wl64'");
        assert!(given.starts_with("mask: is \"") && given.contains("x\", but not given"), "{given}");
    }

    #[test]
    fn masks_alone_are_finished_once_every_step_before_them_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let masks = dir.path().join("masks.safetensors");
        let text = "mask_only = true\nschedule = 'wl3'\nmask_grads = 2\nsteps = 9";
        let run = TrainConfig { out: dir.path().into(), save_mask: Some(masks.clone()), ..config(text) };
        std::fs::write(dir.path().join(CONFIG_FILE), written(&run)).unwrap();
        let finished = |steps: usize| {
            std::fs::write(dir.path().join("metrics.jsonl"), "{\"step\":0}\n".repeat(steps)).unwrap();
            is_finished(&run)
        };
        assert!(!finished(5), "there are no masks");
        std::fs::write(&masks, "").unwrap();
        assert_eq!([0, 4, 5].map(finished), [false, false, true]);
    }

    #[test]
    fn what_follows_from_the_data_need_not_be_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let asked = TrainConfig { out: dir.path().into(), ..config("rank = 4") };
        let ran = asked.clone().for_data(650).unwrap();
        let message = |config: &TrainConfig| find(config.clone()).map(drop).unwrap_err().to_string();
        assert!(message(&asked).contains("config.toml: "), "there is no run: {}", message(&asked));
        std::fs::write(dir.path().join(CONFIG_FILE), written(&ran)).unwrap();
        let found = find(asked.clone()).unwrap();
        assert!(found.0 == ran && found.1.is_none(), "a run that saved no state");
        let header = Header { config: written(&ran), ..state::header_for_tests(1) };
        state::save(dir.path(), header, &state::Parts::none(), 1).unwrap();
        let found = find(asked.clone()).unwrap();
        assert!(found.0 == ran && found.1.is_some());
        assert_eq!(find(ran.clone()).unwrap().0, ran);
        let other = message(&TrainConfig { warmup_steps: Some(1), ..asked.clone() });
        assert!(other.starts_with("warmup_steps: is 1, but"), "{other}");
        state::remove_all(dir.path()).unwrap();
        std::fs::write(dir.path().join(adapter::CONFIG_FILE), "{}").unwrap();
        assert!(message(&asked).contains("⟨resume⟩: the run is finished"), "{}", message(&asked));
    }

    #[test]
    fn a_run_keeps_its_tiles_where_it_can_and_says_where_it_cannot() {
        use crate::device::dry::DryBackend;
        use crate::device::tiles::{Family, ProductKey};
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
        let began = |device: &Caps, table: TileTable| SavedTiles { device: device.identity(), table };
        let none = TileTable::default;
        // measured since, or the file is gone: the run does not care
        for now in [none(), table(1), table(2)] {
            let (tiles, line) = tiles(&began(&caps, table(1)), &caps, now.clone());
            assert!(tiles == table(1) && line.unwrap().contains("the 1 that the run began with"));
            assert_eq!(super::tiles(&began(&caps, none()), &caps, now), (none(), None));
        }
        let other = Caps { driver: "next".into(), ..caps.clone() };
        assert_eq!(tiles(&began(&other, none()), &caps, none()), (none(), None));
        for (then, now) in [(table(1), none()), (none(), table(1)), (table(1), table(2))] {
            let (tiles, line) = tiles(&began(&other, then), &caps, now.clone());
            assert!(tiles == now && line.unwrap().contains("the run began with others"));
        }
    }

    #[test]
    fn rows_of_another_day_have_a_way_out() {
        assert_eq!(date_hint(data::now()), None);
        assert!(date_hint(86_400).unwrap().contains("set SOURCE_DATE_EPOCH=86400)"));
    }

    #[test]
    fn where_it_computes_and_where_files_lie_may_change() {
        let then = written(&config(""));
        let mut now = config("device = '1'\nsave_steps = 3\nkeep_states = 5\nlog_steps = 2\ntune = 5");
        (now.out, now.model, now.data) = ("elsewhere".into(), "moved".into(), "moved.jsonl".into());
        assert!(check_config(&now, &then, false).is_ok());
    }
}
