//! Whose a run folder is, and what can be done with one whose run has not finished.

use super::resume::{SAVING, bench, lines, results, resume, train, until};
use super::{fails, rugosa, run};
use std::path::Path;

/// A run that is killed after `count` of its steps; with `more` it saves states or not.
fn killed(folder: &Path, out: &Path, more: &str, count: usize) {
    let mut child = until(&mut train(folder, out.file_name().unwrap().to_str().unwrap(), more), out, count);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn one_process_at_a_time_trains_in_a_folder() {
    let (dir, _, out) = bench();
    let endless = "--steps 100000 --save-steps 1";
    let mut first = until(&mut train(dir.path(), "killed", endless), &out, 2);
    // Windows lets nobody else read a file that is locked
    let process = if cfg!(windows) { "another process".to_owned() } else { format!("process {}", first.id()) };
    let taken = format!("--out: {process} is training in this folder");
    fails(&mut resume(&out), 1, &[out.to_str().unwrap(), &taken, "wait for its end"]);
    fails(&mut train(dir.path(), "killed", endless), 1, &[&taken]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(out.join("rugosa.lock").exists(), "the lock of a process that is gone locks nothing");
    let before = lines(&out);
    let mut second = until(&mut resume(&out), &out, before + 2);
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(lines(&out) >= before + 2);
}

#[test]
fn a_run_that_stopped_before_its_first_state_begins_again() {
    let (dir, whole, out) = bench();
    let (code, _, stderr) = run(&mut train(dir.path(), "whole", "--steps 4"));
    assert_eq!(code, Some(0), "{stderr}");
    killed(dir.path(), &out, "--steps 4", 2);
    // another run does not throw its steps away
    fails(
        &mut train(dir.path(), "killed", "--steps 5"),
        1,
        &["steps of another run", "steps: is 5, but 4", "another --out"],
    );
    // a file that a process left that died while it wrote it
    std::fs::write(out.join(".rugosa-abc.part"), "{").unwrap();
    let (code, _, stderr) = run(&mut train(dir.path(), "killed", "--steps 4"));
    assert!(code == Some(0) && stderr.contains("steps are done again"), "{stderr}");
    assert!(!out.join(".rugosa-abc.part").exists() && !out.join("rugosa.lock").exists());
    assert_eq!(results(&whole), results(&out));

    let third = dir.path().join("third");
    killed(dir.path(), &third, "--steps 4", 1);
    let (code, _, stderr) = run(&mut resume(&third));
    assert!(
        code == Some(0) && stderr.contains("stopped before its first state was saved: it begins again"),
        "{stderr}"
    );
    assert_eq!(results(&whole), results(&third));

    // without a step another run may take the folder, but nobody's own file
    let fourth = dir.path().join("fourth");
    std::fs::create_dir(&fourth).unwrap();
    std::fs::copy(third.join("config.toml"), fourth.join("config.toml")).unwrap();
    let text = std::fs::read_to_string(third.join("config.toml")).unwrap();
    std::fs::write(fourth.join("config.toml"), format!("# mine\n{text}")).unwrap();
    fails(&mut train(dir.path(), "fourth", "--steps 1"), 1, &["fourth: --out: the run folder exists already"]);
    std::fs::write(fourth.join("config.toml"), text).unwrap();
    let (code, _, stderr) = run(&mut train(dir.path(), "fourth", "--steps 3"));
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_run_goes_on_in_another_working_folder() {
    let (dir, whole, out) = bench();
    let relative = |out: &str| {
        let mut command = rugosa("train --schedule wl2 --mask-grads 2 --rank 4 --density 0.05 --seq-len 32");
        command.args(format!("--model model --data rows.jsonl --save-mask {out}.masks --out {out}").split_whitespace());
        command.args("--gradient-accumulation-steps 2 --steps 4 --save-steps 1".split_whitespace());
        command.current_dir(dir.path());
        command
    };
    let (code, _, stderr) = run(&mut relative("whole"));
    assert_eq!(code, Some(0), "{stderr}");
    let mut child = until(&mut relative("killed"), &out, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(resume(&out).current_dir(elsewhere.path()));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(results(&whole), results(&out));
    let config = |out: &Path| std::fs::read(out.join("adapter_config.json")).unwrap();
    assert!(config(&whole) == config(&out));
    let masks = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(masks("whole.masks") == masks("killed.masks"));
}

#[test]
fn the_adapter_of_a_run_that_goes_on_can_be_used() {
    let (dir, _, out) = bench();
    killed(dir.path(), &out, SAVING, 7);
    let newest = std::fs::read_dir(out.join("state")).unwrap().map(|e| e.unwrap().path());
    let newest = newest.filter(|p| p.join("DONE").exists()).max_by_key(|p| step_of(p)).unwrap();
    let steps = step_of(&newest);
    let eval = |adapter: &Path| {
        let mut command = rugosa("eval --json");
        for (flag, path) in [("--model", dir.path().join("model")), ("--data", dir.path().join("rows.jsonl"))] {
            command.arg(flag).arg(path);
        }
        command.arg("--adapter").arg(adapter);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    let (of_run, said) = eval(&out);
    assert!(said.contains(&format!("has not finished: its adapter after {steps} steps is taken")), "{said}");
    assert_eq!(of_run, eval(&newest).0);
    let mut command = train(dir.path(), "next", "--steps 3");
    let (code, _, said) = run(command.arg("--init-adapter").arg(&out));
    assert!(code == Some(0) && said.contains(&format!("its adapter after {steps} steps is taken")), "{said}");
}

fn step_of(state: &Path) -> u64 {
    state.file_name().unwrap().to_str().unwrap().strip_prefix("step-").unwrap().parse().unwrap()
}

/// The first loss of a run goes by forward passes alone, so it shows that the state was read; later ones differ by rounding.
#[test]
fn other_switches_are_said_and_change_no_more_than_rounding() {
    let (dir, whole, out) = bench();
    let (code, _, stderr) = run(&mut train(dir.path(), "whole", SAVING));
    assert_eq!(code, Some(0), "{stderr}");
    killed(dir.path(), &out, SAVING, 6);
    let (code, _, said) = run(resume(&out).env("RUGOSA_SPARSE", "apart").env("RUGOSA_DISABLE", "images"));
    assert_eq!(code, Some(0), "{said}");
    let line = "the run goes on, but not bit for bit: RUGOSA_DISABLE was not set and is images, RUGOSA_SPARSE was not set and is \
                apart; numbers round otherwise";
    assert_eq!(said.matches(line).count(), 1, "{said}");
    let ((_, whole), (_, other)) = (results(&whole), results(&out));
    assert_eq!(whole.len(), other.len());
    for (whole, other) in whole.iter().zip(&other) {
        let [a, b] = [whole, other].map(|line| line["loss"].as_f64().unwrap());
        assert!((a - b).abs() <= 1e-4 * a, "{whole} {other}");
    }
}

/// A small file system in memory: what a test leaves out where it may make none.
#[cfg(target_os = "linux")]
mod small_disk {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    struct Mounted<'a>(&'a Path);

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }

    fn mount(options: &str, at: &Path) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
        command.output().is_ok_and(|output| output.status.success())
    }

    #[test]
    fn a_full_disk_and_one_that_takes_nothing_leave_the_last_state() {
        let (dir, whole, _) = bench();
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        if !mount("size=900k", &disk) {
            let _ = writeln!(std::io::stderr(), "skipped: a full disk: no file system may be mounted here");
            return;
        }
        let _mounted = Mounted(&disk);
        let (code, _, stderr) = run(&mut train(dir.path(), "whole", SAVING));
        assert_eq!(code, Some(0), "{stderr}");
        // states grow once there are masks
        let out = disk.join("run");
        let (code, _, said) = run(&mut train(dir.path(), "disk/run", &format!("{SAVING} --keep-states 4")));
        assert_eq!(code, Some(1), "{said}");
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(
            matches!(errors[..], [line] if line.contains("disk/run/") && line.contains("free some space")),
            "{said}"
        );
        let done = lines(&out);
        assert!(done >= 2, "{said}");
        assert!(out.join(format!("state/step-{}/DONE", done - 1)).exists());
        assert!(mount("remount,ro", &disk));
        let refused = [out.to_str().unwrap(), "can be written to"];
        fails(&mut resume(&out), 1, &refused);
        assert!(mount("remount,rw,size=20m", &disk));
        let (code, _, said) = run(&mut resume(&out));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(results(&whole), results(&out));
    }
}
