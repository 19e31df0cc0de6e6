use super::*;
use crate::adapters::Scope;
use crate::adapters::targets::{LinearShape, Place, Target};
use crate::device::dry::DryBackend;
use crate::device::tiles::{Family, ProductKey};
use crate::device::{Caps, Device};
use crate::kernels::optimizer::StepCount;
use crate::optim::LossScale;

fn device() -> Device {
    Device::new(Box::new(DryBackend::new(Caps { ..DryBackend::caps_for_tests() })))
}

fn header(step: u64) -> Header {
    Header {
        version: 0,
        step,
        position: Position { epoch: 1, index: 2 },
        skipped: Skipped { in_a_row: 3, in_all: 5 },
        loss: Some(0.1 + 0.2),
        loss_scale: LossScale::dynamic(),
        config: "rank = 8\n".into(),
        sources: BTreeMap::from([("model".to_owned(), "00".to_owned())]),
        blocks: Vec::new(),
        scores: None,
        has_masks: false,
        tiles: Some(SavedTiles { device: "a GPU".into(), table: tiles() }),
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

fn put(out: &Path, step: u64) {
    let blocks = [block(&device(), 64)];
    save(out, header(step), &Parts { blocks: &blocks, collector: None, masks: BTreeMap::new() }).unwrap();
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

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
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
    save(dir.path(), header(4), &Parts { blocks: &blocks, collector: Some(&collector), masks: masks.clone() }).unwrap();
    assert_eq!(names(dir.path()), ["state"]);
    assert_eq!(names(&dir.path().join("state")), ["DONE", "masks.safetensors", "state.json", "tensors.bin"]);

    let saved = find(dir.path()).unwrap().unwrap();
    let h = &saved.header;
    assert_eq!(h.tiles, header(4).tiles);
    assert_eq!((h.step, h.position, h.loss), (4, Position { epoch: 1, index: 2 }, Some(0.1 + 0.2)));
    assert_eq!(h.skipped, Skipped { in_a_row: 3, in_all: 5 });
    assert_eq!(saved.masks(|_| Some((3, 4))).unwrap(), Some(masks));
    let mut again = [block(&device, 64), block(&device, 128)];
    let fresh = self::collector(&device);
    saved.restore(&mut again, Some(&fresh)).unwrap();
    assert_eq!(fresh.scores().map(|s| s.2).collect::<Vec<_>>(), [[5, 1]]);
    let size = std::fs::metadata(dir.path().join("state/tensors.bin")).unwrap().len();
    assert_eq!(size, 4 * (3 * (64 + 128) + 12));
    // other blocks
    let err = saved.restore(&mut [block(&device, 64)], None).unwrap_err().to_string();
    assert!(err.contains("state.json: blocks:"), "{err}");
}

#[test]
fn at_every_moment_of_saving_one_state_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    assert_eq!(step_of(out), None);
    // the first one, torn
    std::fs::create_dir(out.join("state.new")).unwrap();
    std::fs::write(out.join("state.new/tensors.bin"), [1, 2]).unwrap();
    assert_eq!(step_of(out), None);
    put(out, 1);
    assert_eq!((step_of(out), names(out)), (Some(1), vec!["state".to_owned()]));
    // the second one: torn, whole, between the renames, before the last removal
    let one = out.join("one");
    copy(&out.join("state"), &one);
    put(out, 2);
    let two = out.join("two");
    std::fs::rename(out.join("state"), &two).unwrap();
    for (state, new, old, expected) in [
        (Some(&one), None, None, 1),
        (Some(&one), Some(&two), None, 2),
        (None, Some(&two), Some(&one), 2),
        (Some(&two), None, Some(&one), 2),
        (None, None, Some(&one), 1),
    ] {
        remove_all(out).unwrap();
        for (from, name) in [(state, "state"), (new, "state.new"), (old, "state.old")] {
            from.iter().for_each(|f| copy(f, &out.join(name)));
        }
        assert_eq!(step_of(out), Some(expected));
        // and what is left over is not in the way of the next one
        put(out, 3);
        assert_eq!((step_of(out), names(out)), (Some(3), vec!["one".into(), "state".into(), "two".to_owned()]));
    }
    copy(&one, &out.join("state.new"));
    std::fs::remove_file(out.join("state.new/DONE")).unwrap();
    assert_eq!(step_of(out), Some(3));
    remove_all(out).unwrap();
    assert_eq!(step_of(out), None);
}

#[test]
fn damage_is_seen_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    put(out, 1);
    let tensors = out.join("state/tensors.bin");
    let mut bytes = std::fs::read(&tensors).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&tensors, &bytes).unwrap();
    let err = find(out).unwrap_err().to_string();
    assert!(err.contains("tensors.bin: digest: is not as it was written"), "{err}");
    std::fs::write(&tensors, &bytes[..50]).unwrap();
    assert!(find(out).is_err());
    std::fs::remove_file(&tensors).unwrap();
    assert!(matches!(find(out), Err(Error::Io { path, .. }) if path.ends_with("tensors.bin")));
    // an earlier one that is whole is taken instead
    put(&out.join("state"), 0);
    std::fs::rename(out.join("state/state"), out.join("state.old")).unwrap();
    assert_eq!(step_of(out), Some(0));
}

#[test]
fn a_state_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 1);
    let folder = dir.path().join("state");
    let text = std::fs::read_to_string(folder.join(HEADER)).unwrap().replace("\"version\": 3", "\"version\": 99");
    std::fs::write(folder.join(HEADER), text).unwrap();
    let mut done: Done = read_json(&folder.join(DONE)).unwrap();
    let (digest, bytes) = digest_file(&folder.join(HEADER)).unwrap();
    done.files.insert(HEADER.into(), (bytes, digest));
    std::fs::write(folder.join(DONE), serde_json::to_string(&done).unwrap()).unwrap();
    let err = find(dir.path()).unwrap_err().to_string();
    assert!(err.contains("state.json: version: is 99"), "{err}");
}
