//! What a run says about its length, and what its folder has of it.

use super::{Watcher, config, tiny};
use rugosa::train::Session;

#[test]
fn what_is_thrown_away_is_said_before_it_and_where_it_was_better_behind() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    let text = "seq_len = 24\nrank = 4\ndensity = 0.05\nschedule = 'wl6'\nlora_lr = 0.02\nsteps = 1\n\
                gradient_accumulation_steps = 2";
    let config = config(dir.path(), "out", text);
    let mut watcher = Watcher::default();
    let session = Session::prepare(config.clone(), &mut watcher).unwrap();
    let before = watcher.notes.iter().find(|n| n.starts_with("schedule: ")).expect("a line before the run");
    assert!(before.contains("6 steps of low-rank warm-up and 1 to choose the masks, thrown away"), "{before}");
    session.run(&mut watcher).unwrap();
    let behind = watcher.notes.iter().find(|n| n.starts_with("the last loss, ")).expect("a line behind the run");
    assert!(behind.contains("thrown away at the restart"), "{behind}");

    // what followed from the data is in the file
    let written = std::fs::read_to_string(config.out.join("config.toml")).unwrap();
    for line in ["schedule = \"wl6\"", "mask_grads = 1", "warmup_steps = 0", "steps = 1", "lora_lr = 0.02"] {
        assert!(written.lines().any(|l| l == line), "{line} is missing in\n{written}");
    }
}
