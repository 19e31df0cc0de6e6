use super::*;
use crate::adapters::Scope;
use crate::adapters::targets::{LinearShape, Place, Target};
use crate::device::dry::DryBackend;
use crate::device::tiles::{Family, ProductKey};
use crate::device::{Caps, Device};
use crate::env::FaultKind;
use crate::io::disk::{Operation, recorded, with_fault};
use crate::kernels::optimizer::StepCount;
use crate::optim::LossScale;
use crate::train::evaluator::Best;

fn device() -> Device {
    Device::new(Box::new(DryBackend::new(Caps { ..DryBackend::caps_for_tests() })))
}

pub fn header(step: u64) -> Header {
    Header {
        version: 0,
        step,
        position: Position { epoch: 1, index: 2 },
        skipped: Skipped { in_a_row: 3, in_all: 5 },
        loss: Some(0.1 + 0.2),
        loss_scale: LossScale::dynamic(),
        config: "rank = 8\n".into(),
        sources: BTreeMap::from([("model".to_owned(), "00".to_owned())]),
        clock: 86_400,
        blocks: Vec::new(),
        scores: None,
        has_masks: false,
        standing: Standing::default(),
        has_best: false,
        tiles: SavedTiles { device: "a GPU".into(), table: tiles() },
        platform: Platform { precision: Precision::F16, other: BTreeMap::from([("rugosa".into(), "0.1".into())]) },
    }
}

fn tiles() -> TileTable {
    let (family, formats) = (Family::RosaLinearCoop, [0, 4]);
    let mut table = TileTable::default();
    table.set(
        ProductKey { family, layout: 1, m: 64, n: 8, k: 96, formats, sparse: true, low_rank: false, count: 0, span: 0 },
        [1, 2, 3, 4, 5, 6, 7],
    );
    table
}

fn block(device: &Device, elements: usize) -> Block {
    let steps = StepCount::new(device).unwrap();
    Block::new(Group::LowRank, Tensor::zeros(device, &[elements], "adapter").unwrap(), &steps).unwrap()
}

fn collector(device: &Device) -> MaskCollector {
    let module = LinearShape {
        name: "m.q_proj".into(),
        out_features: 3,
        in_features: 4,
        place: Place { linear: 0, first_row: 0, rows: 3 },
    };
    let target = Target { index: 0, module, rank: 0, alpha: 1.0, scale: 1.0, nnz: 2 };
    let targets = [target];
    MaskCollector::new(device, &targets, true, &Scope::all(&targets)).unwrap()
}

/// Saves the state of a run before `step`, of the last three.
fn put(out: &Path, step: u64) -> Result<()> {
    let blocks = [block(&device(), 64)];
    save(out, header(step), &Parts { blocks: &blocks, ..Parts::none() }, 3)
}

fn step_of(out: &Path) -> Option<u64> {
    find(out).unwrap().map(|s| s.header.step)
}

fn names(out: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, &bytes).unwrap();
}

fn adapter_folder() -> AdapterFolder {
    use crate::io::adapter::{AdapterConfig, AdapterKind, Matrix, ModuleTensors};
    let matrix = |rows, cols| Some(Matrix { rows, cols, data: vec![0.5; rows * cols] });
    let module = ModuleTensors { a: matrix(1, 4), b: matrix(3, 1), sparse: None };
    let config = AdapterConfig { r: 1, ..AdapterConfig::new(AdapterKind::Lora) };
    AdapterFolder { config, modules: BTreeMap::from([("m.q_proj".to_owned(), module)]) }
}

#[test]
fn a_state_comes_back_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = device();
    let collector = collector(&device);
    collector.set_counts(0, [5, 1]);
    let mask = CsrPattern::from_flat(3, 4, &[1, 11]).unwrap();
    let masks = BTreeMap::from([("m.q_proj".to_owned(), mask)]);
    let blocks = [block(&device, 64), block(&device, 128)];
    let best = [vec![1u8; 4 * 64], vec![2u8; 4 * 128]];
    let parts = Parts {
        blocks: &blocks,
        collector: Some(&collector),
        masks: masks.clone(),
        adapter: Some(adapter_folder()),
        best: &best,
    };
    let standing = Standing { after: Some(4), best: Some(Best { after: 2, loss: 0.1 + 0.2 }), since_best: 1 };
    save(dir.path(), Header { standing: standing.clone(), ..header(4) }, &parts, 1).unwrap();
    assert_eq!(names(&dir.path().join(FOLDER)), ["step-4"]);
    let folder = dir.path().join("state/step-4");
    let mut files = vec!["DONE", "adapter_config.json", "adapter_model.safetensors", "best.bin"];
    files.extend(["masks.safetensors", "state.json", "tensors.bin"]);
    assert_eq!(names(&folder), files);
    assert_eq!(AdapterFolder::read(&folder, |_| Some((3, 4))).unwrap().modules, adapter_folder().modules);

    let saved = find(dir.path()).unwrap().unwrap();
    let h = &saved.header;
    assert_eq!((&h.tiles, &h.platform), (&header(4).tiles, &header(4).platform));
    assert_eq!((h.step, h.position, h.loss), (4, Position { epoch: 1, index: 2 }, Some(0.1 + 0.2)));
    assert_eq!(h.skipped, Skipped { in_a_row: 3, in_all: 5 });
    assert_eq!((&h.standing, saved.best_values().unwrap()), (&standing, best.to_vec()));
    assert_eq!(saved.masks(|_| Some((3, 4))).unwrap(), Some(masks));
    let mut again = [block(&device, 64), block(&device, 128)];
    let fresh = self::collector(&device);
    saved.restore(&mut again, Some(&fresh)).unwrap();
    assert_eq!(fresh.scores().map(|s| s.2).collect::<Vec<_>>(), [[5, 1]]);
    let size = std::fs::metadata(folder.join("tensors.bin")).unwrap().len();
    assert_eq!(size, 4 * (3 * (64 + 128) + 12));
    // other blocks
    let err = saved.restore(&mut [block(&device, 64)], None).unwrap_err().to_string();
    assert!(err.contains("state.json: blocks:"), "{err}");
}

#[test]
fn at_every_moment_of_saving_the_last_state_is_whole() {
    for kind in [FaultKind::ReadOnly, FaultKind::Full] {
        let mut at = 1;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path();
            (1..=3).for_each(|step| put(out, step).unwrap());
            let (outcome, came) = with_fault(kind, at, || put(out, 4));
            let expected = if outcome.is_ok() || out.join("state/step-4/DONE").exists() { 4 } else { 3 };
            assert_eq!(step_of(out), Some(expected), "{kind:?} at {at}");
            let damaged = find(out).unwrap().unwrap().damaged;
            assert!(damaged.is_empty(), "{kind:?} at {at}: {damaged:?}");
            if let Err(e) = outcome {
                let message = e.to_string();
                assert!(message.contains("state") && message.contains("folder"), "{kind:?} at {at}: {message}");
            }
            // and what is left over is not in the way of the next one
            put(out, 5).unwrap();
            assert_eq!(step_of(out), Some(5));
            assert!(names(&out.join(FOLDER)).len() <= 3, "{:?}", names(&out.join(FOLDER)));
            if !came {
                assert!(at > 10, "{at} operations");
                break;
            }
            at += 1;
        }
    }
}

#[test]
fn at_every_moment_of_the_end_the_last_state_is_whole_or_gone() {
    for at in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        (1..=3).for_each(|step| put(out, step).unwrap());
        let (outcome, came) = with_fault(FaultKind::ReadOnly, at, || remove_all(out));
        let left = step_of(out);
        assert!(left.is_none_or(|step| step == 3) && outcome.is_err() == came, "at {at}: {left:?}");
        remove_all(out).unwrap();
        assert!(!out.join(FOLDER).exists());
        if !came {
            break;
        }
    }
}

#[test]
fn the_mark_is_made_when_the_disk_has_all_else_and_removed_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    put(out, 1).unwrap();
    let folder = out.join("state/step-2");
    let mark = folder.join(DONE);
    let parts = Parts { blocks: &[block(&device(), 64)], adapter: Some(adapter_folder()), ..Parts::none() };
    let done = recorded(|| save(out, header(2), &parts, 1).unwrap());
    let at = |operation, path: &Path| done.iter().position(|(o, p)| *o == operation && p == path).unwrap();
    let made = at(Operation::Rename, &mark);
    for file in names(&folder).iter().map(|name| folder.join(name)) {
        assert!(at(Operation::Sync, &file) < made, "{}", file.display());
    }
    assert!(done[..made].contains(&(Operation::Sync, folder.clone())), "names in it");
    assert!(done[..made].contains(&(Operation::Sync, out.join(FOLDER))), "its own name");
    assert_eq!(done[made + 1], (Operation::Sync, folder), "the mark's");
    let old = out.join("state/step-1");
    let removed = at(Operation::Remove, &old.join(DONE));
    assert!(made < removed && removed < at(Operation::Remove, &old));
}

#[test]
fn the_last_states_are_kept_and_a_damaged_one_is_named_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    (1..=9).for_each(|step| put(out, step).unwrap());
    assert_eq!(names(&out.join(FOLDER)), ["step-7", "step-8", "step-9"]);
    let state = |step: u64, file: &str| out.join(FOLDER).join(format!("step-{step}")).join(file);
    flip(&state(9, TENSORS), 100);
    std::fs::remove_file(state(8, HEADER)).unwrap();
    let saved = find(out).unwrap().unwrap();
    assert_eq!((saved.header.step, saved.damaged.len()), (7, 2));
    let [nine, eight] = &saved.damaged[..] else { panic!() };
    assert!(nine.contains("step-9") && nine.contains("tensors.bin: digest: is not as it was written"), "{nine}");
    assert!(nine.ends_with("the state before it is taken, that of step 7"), "{nine}");
    assert!(eight.contains("step-8"), "{eight}");
    // the run goes on from there: what was damaged is written again, and never again in the way
    put(out, 8).unwrap();
    assert_eq!((step_of(out), names(&out.join(FOLDER))), (Some(8), vec!["step-7".into(), "step-8".to_owned()]));
    // saved again where it stands, by a run that was resumed and stopped at once
    put(out, 8).unwrap();
    assert_eq!(step_of(out), Some(8));
    // nothing whole is left: the last is named
    flip(&state(7, TENSORS), 3);
    flip(&state(8, DONE), 12);
    let err = find(out).unwrap_err().to_string();
    assert!(err.contains("step-8"), "{err}");
    assert!(is_there(out));
}

#[test]
fn a_state_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 1).unwrap();
    put(dir.path(), 2).unwrap();
    let refused = |folder: &Path, version: &str| {
        let ours = format!("\"version\": {VERSION}");
        let text = std::fs::read_to_string(folder.join(HEADER)).unwrap().replace(&ours, version);
        std::fs::write(folder.join(HEADER), text).unwrap();
        let mut done: Done = read_json(&folder.join(DONE)).unwrap();
        let (digest, bytes) = digest_file(&folder.join(HEADER)).unwrap();
        done.files.insert(HEADER.into(), (bytes, digest));
        std::fs::write(folder.join(DONE), serde_json::to_string(&done).unwrap()).unwrap();
        find(dir.path()).unwrap_err().to_string()
    };
    let err = refused(&dir.path().join("state/step-2"), "\"version\": 99");
    assert!(err.contains("state.json: version: is 99"), "{err}");
    // of the version that kept one state, in the folder itself
    let old = dir.path().join("state/step-1");
    for file in names(&old) {
        std::fs::rename(old.join(&file), dir.path().join(FOLDER).join(&file)).unwrap();
    }
    let err = refused(&dir.path().join(FOLDER), "\"version\": 3");
    assert!(err.contains("state.json: version: is 3"), "{err}");
}
