//! Kernels are compiled before the first step, all of them.

use super::{Watcher, config, tiny};
use rugosa::train::Session;

#[test]
fn no_step_compiles_a_kernel() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 24, 12, 48);
    let common = "steps = 3\nbatch_size = 2\ngradient_accumulation_steps = 2\nseq_len = 64\nrank = 4\ndensity = 0.05\n";
    let ways = [
        ("rosa", "method = 'rosa'\nschedule = 'wl1'\ndropout = 0.1\nmax_grad_norm = 1.0"),
        ("continued", "method = 'rosa'\nschedule = 'wl1'\nrestart = false\ncheckpointing = 2\npacking = false"),
        ("mean", "method = 'rosa'\nschedule = 'default'\nmask_mode = 'mean'\nmask_grads = 2"),
        ("lora", "method = 'lora'\nbatch_size = 1"),
        ("spa", "method = 'spa'"),
        ("full", "method = 'full'"),
    ];
    for (name, more) in ways {
        let common =
            if more.contains("batch_size") { common.replace("batch_size = 2\n", "") } else { common.to_owned() };
        let mut watcher = Watcher::default();
        let session = Session::prepare(config(dir.path(), name, &format!("{common}{more}")), &mut watcher).unwrap();
        let (device, ready) = (session.device().clone(), session.device().counters().pipelines);
        assert!(ready > 10, "{name}: {ready} pipelines are ready");
        assert!(watcher.notes.iter().any(|n| n.starts_with("kernels: ")), "{name}: {:?}", watcher.notes);
        assert_eq!(watcher.compiled.last().map(|c| c.done), watcher.compiled.last().map(|c| c.of), "{name}");
        session.run(&mut watcher).unwrap();
        assert_eq!(device.counters().pipelines, ready, "{name}: pipelines compiled in steps");
    }
}
