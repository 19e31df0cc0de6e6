//! Runs that are killed at random moments, and on disks that fail: taken up again each time, they end with the bytes of a run that
//! nothing has happened to.
//!
//! The tests of each method do a few of these; `make soak-kills` says how many.

use super::resume::{lines, resume, until};
use super::{rugosa, tiny};
use rugosa::rng::Rng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Kills of each method; without it [`FEW`].
const KILLS: &str = "RUGOSA_TEST_KILLS";
const FEW: usize = 2;

/// Of the operations on the disk of a run of a few steps one up to here is hit; later ones are hit once it is resumed.
const OPERATIONS: u64 = 60;

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// SIGKILL at a random time.
    Kill,
    /// The end of the process at an operation on the disk, in the middle of it where it writes.
    KillAtOperation,
    /// The disk is full from an operation on.
    Full,
    /// It takes nothing any more.
    ReadOnly,
}

/// A run in a folder of its own, beside one that nothing happens to.
struct Bench {
    dir: tempfile::TempDir,
    flags: &'static str,
    /// What the run ends with.
    expected: BTreeMap<PathBuf, Vec<u8>>,
    /// The phase of each step.
    phases: Vec<String>,
    /// From the start of the program to its first step.
    startup: Duration,
}

/// How often what was done in which phase.
type Tally = BTreeMap<(Blow, String), usize>;

impl Bench {
    fn new(flags: &'static str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path());
        tiny::write_rows(dir.path(), 20, 6, 30);
        let mut bench =
            Bench { dir, flags, expected: BTreeMap::new(), phases: Vec::new(), startup: Duration::default() };
        let out = bench.dir.path().join("whole");
        let started = Instant::now();
        let child = until(&mut bench.train(&out), &out, 1);
        bench.startup = started.elapsed();
        assert!(child.wait_with_output().unwrap().status.success());
        bench.expected = files(&out);
        let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let phase =
            |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["phase"].as_str().unwrap().to_owned();
        bench.phases = metrics.lines().filter(|line| line.starts_with("{\"step\":")).map(phase).collect();
        bench
    }

    fn train(&self, out: &Path) -> Command {
        let mut command = rugosa("train --seq-len 32 --gradient-accumulation-steps 2 --warmup-steps 1");
        if !self.flags.contains("--save-steps") {
            command.arg("--save-steps=1");
        }
        for (flag, path) in [("--model", "model"), ("--data", "rows.jsonl")] {
            command.arg(flag).arg(self.dir.path().join(path));
        }
        command.arg("--out").arg(out).args(self.flags.split_whitespace());
        command.env("RUGOSA_CACHE", self.dir.path().join("cache")).env("RUGOSA_SELFTEST", "off");
        command
    }

    /// Starts the run in `out`, or goes on with it.
    fn go_on(&self, out: &Path) -> Command {
        if !out.join("config.toml").exists() {
            return self.train(out);
        }
        let mut command = resume(out);
        command.env("RUGOSA_CACHE", self.dir.path().join("cache")).env("RUGOSA_SELFTEST", "off");
        command
    }

    /// Starts it or goes on with it, with `blow` at some moment; whether it came to that.
    fn strike(&self, out: &Path, blow: Blow, rng: &mut Rng) -> bool {
        let mut command = self.go_on(out);
        let fault = match blow {
            Blow::Kill => return self.kill(command, out, rng),
            Blow::KillAtOperation => "kill",
            Blow::Full => "full",
            Blow::ReadOnly => "read-only",
        };
        command.env("RUGOSA_FAULT", format!("{fault}:{}", 1 + rng.below(OPERATIONS)));
        let Output { status, stderr, .. } = command.output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        match status.code() {
            Some(0) => false,
            Some(1) if blow != Blow::KillAtOperation || is_over(&said) => {
                let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
                let last = said.lines().last().unwrap_or_default();
                assert!(errors == 1 && last.starts_with("error: "), "one line, the last: {said}");
                // a file of the run, or where its folder was to be made
                let named = last.contains(self.dir.path().to_str().unwrap());
                assert!(
                    named && (last.contains("another folder") || last.contains("can be written") || is_over(last)),
                    "{last}"
                );
                !is_over(last)
            }
            _ => {
                assert!(blow == Blow::KillAtOperation && !said.contains("error: "), "{blow:?}: {status}: {said}");
                true
            }
        }
    }

    fn kill(&self, mut command: Command, out: &Path, rng: &mut Rng) -> bool {
        let more = rng.below(3) as usize;
        let mut wait = Duration::from_millis(rng.below(80));
        let mut child = if more == 0 {
            wait = self.startup.mul_f64(rng.below(1000) as f64 / 1000.0);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        } else {
            let count = lines(out) + more;
            until(&mut command, out, count)
        };
        std::thread::sleep(wait);
        let had_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!had_ended || status.success() || finished(out), "{status}");
        !had_ended
    }

    /// The phase that the run in `out` stands in.
    fn phase(&self, out: &Path) -> String {
        match self.phases.get(lines(out)) {
            _ if !out.join("metrics.jsonl").exists() => "before the first step".into(),
            Some(phase) => phase.clone(),
            None => "after the last step".into(),
        }
    }

    /// Strikes the run in `out` until it has ended or was killed `wanted` times, and lets it end then; compares its bytes. How often
    /// it was killed.
    fn batter(&self, out: &Path, wanted: usize, rng: &mut Rng, tally: &mut Tally) -> usize {
        let mut kills = 0;
        while kills < wanted {
            // half of them in the middle of a write
            let blow =
                [Blow::Kill, Blow::KillAtOperation, Blow::Kill, Blow::KillAtOperation, Blow::Full, Blow::ReadOnly]
                    [rng.below(6) as usize];
            if self.strike(out, blow, rng) {
                kills += usize::from(matches!(blow, Blow::Kill | Blow::KillAtOperation));
                *tally.entry((blow, self.phase(out))).or_default() += 1;
                self.check_state(out);
            } else if lines(out) == self.phases.len() {
                break;
            }
        }
        let Output { status, stderr, .. } = self.go_on(out).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert!(status.success() || is_over(&said), "{said}");
        let (expected, found) = (self.expected.keys().collect::<Vec<_>>(), files(out));
        assert_eq!(expected, found.keys().collect::<Vec<_>>());
        for (name, bytes) in &self.expected {
            assert!(*bytes == found[name], "{} differs: {}", name.display(), String::from_utf8_lossy(&found[name]));
        }
        kills
    }

    /// No more than the step at hand is lost, where each is saved: amid groups of masks none is.
    fn check_state(&self, out: &Path) {
        let done = lines(out);
        let saves_each = !self.flags.contains("--save-steps") && !self.flags.contains("--mask-workspace");
        if done < 2 || finished(out) || !saves_each {
            return;
        }
        let saved = |step: usize| out.join(format!("state/step-{step}/DONE")).exists();
        assert!(saved(done) || saved(done - 1), "{done} steps are in metrics.jsonl: {:?}", files(out).keys());
    }
}

fn is_over(said: &str) -> bool {
    said.contains("--resume: the run is finished")
}

fn finished(out: &Path) -> bool {
    ["adapter_config.json", "config.json", "masks.safetensors"].iter().any(|name| out.join(name).exists())
}

const NOT_COMPARED: [&str; 3] = ["config.toml", "summary.json", "report.html"];

/// Every file below the run folder; of the metrics all but the speeds, and not the configuration, which has the folder's name, nor
/// what depends on when the process began: the summary's memory and the page made of it.
fn files(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !NOT_COMPARED.iter().any(|name| path.ends_with(name)) {
                let bytes = std::fs::read(&path).unwrap();
                let is_metrics = path.ends_with("metrics.jsonl");
                let bytes = if is_metrics { without_speeds(bytes) } else { bytes };
                all.insert(path.strip_prefix(out).unwrap().to_path_buf(), bytes);
            }
        }
    }
    all
}

/// The bytes of `metrics.jsonl` but for the digits of the speeds, which are the clock's.
fn without_speeds(bytes: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(bytes).unwrap();
    let mut parts = text.split("\"tokens_per_second\":");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once(',').unwrap();
        kept += "\"tokens_per_second\":,";
        kept += rest;
    }
    kept.into_bytes()
}

/// Kills runs with these flags as often as [`KILLS`] says, and prints what was done.
fn survives(name: &str, flags: &'static str) {
    let wanted = std::env::var(KILLS).map_or(FEW, |n| n.parse().expect("a number"));
    let bench = Bench::new(flags);
    let mut rng = Rng::named(wanted as u64, name);
    let mut tally = Tally::new();
    let (mut kills, mut runs) = (0, 0);
    while kills < wanted {
        kills += bench.batter(&bench.dir.path().join(format!("run-{runs}")), wanted - kills, &mut rng, &mut tally);
        runs += 1;
    }
    let mut line = format!("{name}: {kills} kills, {runs} runs with the bytes of an unbroken one:");
    for ((blow, phase), count) in &tally {
        write!(line, " {blow:?} in {phase} {count},").unwrap();
    }
    // past the capture of what tests that pass print
    let _ = writeln!(std::io::stderr(), "{}", line.trim_end_matches(','));
}

#[test]
fn rosa_survives() {
    survives("rosa", "--method rosa --rank 4 --density 0.05 --dropout 0.1 --schedule wl4 --mask-grads 3 --steps 4");
}

/// Evaluations between the steps, of which the best is kept.
#[test]
fn evaluated_survives() {
    survives(
        "evaluated",
        "--method rosa --rank 4 --density 0.05 --schedule wl2 --mask-grads 2 --steps 6 --eval-split 0.2 --eval-steps 2 \
         --keep best --early-stopping 2 --eval-answers 2 --eval-tokens 4",
    );
}

/// Masks alone, collected in groups, whose steps are repeated.
#[test]
fn masks_survive() {
    survives(
        "masks",
        "--method rosa --rank 4 --density 0.05 --schedule wl2 --mask-grads 2 --mask-workspace 64KiB --mask-only --steps 4",
    );
}

/// Without a state but that of an interruption: what is killed begins again.
#[test]
fn without_states_survives() {
    survives(
        "without states",
        "--method rosa --rank 4 --density 0.05 --schedule wl1 --mask-grads 2 --save-steps 0 --steps 4",
    );
}

#[test]
fn lora_survives() {
    survives("lora", "--method lora --rank 4 --steps 6");
}

#[test]
fn sparse_survives() {
    survives("spa", "--method spa --density 0.05 --mask-grads 2 --steps 4");
}

#[test]
fn full_survives() {
    survives("full", "--method full --lr 1e-3 --steps 5");
}
