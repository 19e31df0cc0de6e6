//! Ranks that train together have the masks, the losses and the adapter of one. Here they are threads; by MPI they are in
//! `tests/mpi/run.sh`.

use super::resume::{COMMON, contents};
use super::{Watcher, config, tiny};
use rugosa::dist::{on_threads, within};
use rugosa::error::{Error, Result};
use rugosa::train::config::TrainConfig;
use rugosa::train::{Outcome, Session};
use std::path::Path;

/// What became of each of `ranks` that run `config` together, the first with what it was told.
fn together(
    ranks: usize,
    resume: bool,
    config: impl Fn(usize) -> TrainConfig + Sync,
    stop_at: Option<u64>,
) -> Vec<(Result<Outcome>, Watcher)> {
    let one = |rank: usize| {
        // the first alone is asked to stop
        let mut watcher = Watcher { stop_at: stop_at.filter(|_| rank == 0), ..Watcher::default() };
        let prepare = if resume { Session::resume } else { Session::prepare };
        let ended = prepare(config(rank), &mut watcher)
            .and_then(|session| session.run(&mut watcher))
            .map(|trained| trained.outcome);
        (ended, watcher)
    };
    let (one, all) = (&one, on_threads(ranks));
    std::thread::scope(|scope| {
        let running: Vec<_> =
            all.into_iter().enumerate().map(|(rank, all)| scope.spawn(move || within(&all, || one(rank)))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 22, 6, 20);
    dir
}

/// Losses by step, and those of evaluations.
fn losses(out: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let of = |line: &str| -> f64 {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["loss"].as_f64().or(json["eval_loss"].as_f64()).unwrap()
    };
    text.lines().map(of).collect()
}

/// Adapters are near to each other: sums in another order, through a few steps of AdamW.
#[track_caller]
fn assert_near(one: &Path, other: &Path) {
    let read = |out: &Path| {
        let bytes = std::fs::read(out.join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<(String, Vec<u8>, bool)> = file
            .tensors()
            .into_iter()
            .map(|(name, t)| (name, t.data().to_vec(), t.dtype() == safetensors::Dtype::F32))
            .collect();
        all.sort();
        all
    };
    let (one, other) = (read(one), read(other));
    assert_eq!(one.len(), other.len());
    for ((name, a, is_float), (_, b, _)) in one.iter().zip(&other) {
        if !is_float {
            assert!(a == b, "{name}");
            continue;
        }
        let floats = |bytes: &[u8]| bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect::<Vec<f32>>();
        let (a, b) = (floats(a), floats(b));
        let size = a.iter().fold(0f32, |most, x| most.max(x.abs()));
        let apart = a.iter().zip(&b).fold(0f32, |most, (x, y)| most.max((x - y).abs()));
        assert!(apart <= 2e-3 * size, "{name}: {apart} apart of {size}");
    }
}

const RUN: &str = "schedule = 'wl2'\nmask_grads = 2\nepochs = 2\nbatch_size = 1\ngradient_accumulation_steps = 5\nseq_len = 24\n\
                   rank = 4\ndensity = 0.05\ndropout = 0.1\nwarmup_steps = 1\nmax_grad_norm = 0.5\n";

#[test]
fn ranks_have_the_masks_losses_and_adapter_of_one_and_repeat_bit_for_bit() {
    let dir = folder();
    let masks = |name: &str| dir.path().join(format!("{name}.safetensors"));
    let of = |name: &str| {
        let text = format!("{RUN}eval_split = 0.1\neval_steps = 3\nsave_mask = '{}'\n", masks(name).display());
        config(dir.path(), name, &text)
    };
    let run = |name: &str, ranks: usize| {
        let config = of(name);
        let all = together(ranks, false, |_| config.clone(), None);
        let outcomes: Vec<&Outcome> = all.iter().map(|(ended, _)| ended.as_ref().unwrap()).collect();
        assert!(
            outcomes
                .iter()
                .all(|o| (o.steps, o.loss, o.best) == (outcomes[0].steps, outcomes[0].loss, outcomes[0].best))
        );
        config.out
    };
    let one = run("one", 1);
    let mask_of = |name: &str| std::fs::read(masks(name)).unwrap();
    for (name, ranks) in [("two", 2), ("three", 3), ("again", 3), ("five", 5)] {
        let out = run(name, ranks);
        assert!(mask_of(name) == mask_of("one"), "{ranks} ranks: other masks");
        let (a, b) = (losses(&one), losses(&out));
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4 * a), "{ranks} ranks:\n{a:?}\n{b:?}");
        assert_near(&one, &out);
    }
    let (three, again) = (contents(&dir.path().join("three")), contents(&dir.path().join("again")));
    let differ: Vec<_> = three.keys().filter(|name| three[*name] != again[*name]).collect();
    assert!(differ.is_empty(), "{differ:?} are not the same a second time");
}

#[test]
fn a_run_stops_on_all_ranks_together_and_goes_on_on_another_number_of_them() {
    let dir = folder();
    let whole = config(dir.path(), "whole", RUN);
    let (ended, _) = together(2, false, |_| whole.clone(), None).remove(0);
    let steps = ended.unwrap().steps;
    // in the warm-up, amid the collecting, and behind it
    for stop in [1, 3, 6] {
        let parts = config(dir.path(), &format!("parts{stop}"), RUN);
        let stopped = together(2, false, |_| parts.clone(), Some(stop));
        assert!(
            stopped.iter().all(|(ended, _)| matches!(ended, Err(Error::Interrupted))),
            "{stop}: {:?}",
            stopped.iter().map(|(ended, _)| ended).collect::<Vec<_>>()
        );
        assert!(stopped[1].1.notes.iter().any(|note| note.contains("⟨resume⟩")), "it was told too");
        let other = config(dir.path(), &format!("other{stop}"), RUN);
        copy(&parts.out, &other.out);
        // the same number: bit for bit
        let ended = together(2, true, |_| parts.clone(), None).remove(0).0.unwrap();
        assert_eq!(ended.steps, steps);
        let (a, b) = (contents(&whole.out), contents(&parts.out));
        assert!(a == b, "stopped before step {stop}: {:?}", a.keys().filter(|k| a[*k] != b[*k]).collect::<Vec<_>>());
        // another one
        let ranks = if stop == 6 { 3 } else { 1 };
        together(ranks, true, |_| other.clone(), None).remove(0).0.unwrap();
        assert_near(&whole.out, &other.out);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            std::fs::copy(entry.path(), to).map(drop).unwrap()
        }
    }
}

#[test]
fn masks_in_groups_and_runs_of_all_weights_are_shared_too() {
    let dir = folder();
    for (name, text) in [
        ("groups", format!("{COMMON}schedule = 'default'\nsteps = 3\nmask_workspace = '100KiB'\n")),
        ("full", "method = 'full'\nsteps = 3\nbatch_size = 2\ngradient_accumulation_steps = 3\nseq_len = 24\n".into()),
    ] {
        let of = |ranks: usize| config(dir.path(), &format!("{name}{ranks}"), &text);
        for ranks in [1, 2] {
            let all = together(ranks, false, |_| of(ranks), None);
            all.into_iter().for_each(|(ended, _)| drop(ended.unwrap()));
        }
        let (a, b) = (losses(&of(1).out), losses(&of(2).out));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4 * a), "{name}: {a:?} {b:?}");
    }
}

#[test]
fn what_cannot_be_one_run_is_refused_with_the_rank_and_the_way_out() {
    let dir = folder();
    let refused = |ranks: usize, text: fn(usize) -> &'static str| -> Vec<String> {
        let of = |rank: usize| TrainConfig {
            out: dir.path().join("none"),
            ..config(dir.path(), &format!("r{rank}"), text(rank))
        };
        let all = together(ranks, false, of, None);
        assert!(!dir.path().join("none/metrics.jsonl").exists());
        all.into_iter().map(|(ended, _)| ended.unwrap_err().to_string()).collect()
    };
    let lines =
        refused(2, |rank| if rank == 0 { "seq_len = 24\nsteps = 3" } else { "seq_len = 24\nsteps = 3\nlr = 0.5" });
    assert!(lines.iter().all(|l| l.starts_with("rank 1: ⟨lr⟩: 0.5 here, but 0.0002 on rank 0; ")), "{lines:?}");
    let lines = refused(3, |_| "seq_len = 24\nsteps = 3\ngradient_accumulation_steps = 2");
    assert!(lines.iter().all(|l| l.starts_with("ranks: 3 of them, but a step has 2 micro-batches")), "{lines:?}");
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let rows = tiny::write_rows(&other, 21, 6, 20);
    let of = |rank: usize| {
        let config = config(dir.path(), "rows", "seq_len = 24\nsteps = 3\ngradient_accumulation_steps = 4");
        if rank == 1 { TrainConfig { data: rows.clone(), ..config } } else { config }
    };
    let lines: Vec<_> = together(2, false, of, None).into_iter().map(|(e, _)| e.unwrap_err().to_string()).collect();
    assert!(lines.iter().all(|l| l.starts_with("rank 1: the contents of ⟨data⟩: ")), "{lines:?}");
}
