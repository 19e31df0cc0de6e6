//! Environment variables: one table of all that the program, its tests and its build read.
//!
//! The environment is read once: [`settings`] has what it says. A value that means nothing, and a name that is almost one of
//! these, would do nothing without a word, so [`check`] refuses both: the program calls it before anything else, and a library
//! user meets it where a device is opened.

mod parse;

use crate::error::{Error, Result};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Who reads a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Program,
    Tests,
    Build,
}

/// A row of [`VARIABLES`].
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    pub name: &'static str,
    /// What it may say.
    pub values: &'static str,
    pub what: &'static str,
    /// Why results depend on it, to the last bits at least; `None` where they do not.
    pub numbers: Option<&'static str>,
    pub reader: Reader,
}

pub const DEVICE: &str = "RUGOSA_DEVICE";
pub const DISABLE: &str = "RUGOSA_DISABLE";
pub const LIMITS: &str = "RUGOSA_LIMITS";
pub const CLASS: &str = "RUGOSA_CLASS";
pub const SPARSE: &str = "RUGOSA_SPARSE";
pub const SELFTEST: &str = "RUGOSA_SELFTEST";
pub const CACHE: &str = "RUGOSA_CACHE";
pub const CUDA: &str = "RUGOSA_CUDA";
pub const DUMP_SHADERS: &str = "RUGOSA_DUMP_SHADERS";
pub const LOG: &str = "RUGOSA_LOG";
pub const RANK_TIMEOUT: &str = "RUGOSA_RANK_TIMEOUT";
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";
pub const HF_HOME: &str = "HF_HOME";
pub const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
pub const HF_TOKEN: &str = "HF_TOKEN";
pub const HF_TOKEN_PATH: &str = "HF_TOKEN_PATH";
pub const HF_HUB_OFFLINE: &str = "HF_HUB_OFFLINE";
pub const HF_ENDPOINT: &str = "HF_ENDPOINT";
pub const FAULT: &str = "RUGOSA_FAULT";
pub const FUZZ_SECONDS: &str = "RUGOSA_FUZZ_SECONDS";
pub const REQUIRE: &str = "RUGOSA_REQUIRE";
pub const PORTABILITY: &str = "RUGOSA_PORTABILITY";

/// Optional features of devices, as [`DISABLE`] and tables call them.
pub const FEATURES: [&str; 7] = ["f16", "subgroup", "coop", "timestamps", "int64", "images", "gemm"];
/// Kinds of devices, as [`CLASS`] calls them.
pub const CLASSES: [&str; 3] = ["software", "integrated", "discrete"];

const fn program(
    name: &'static str,
    values: &'static str,
    what: &'static str,
    numbers: Option<&'static str>,
) -> Variable {
    Variable { name, values, what, numbers, reader: Reader::Program }
}

const fn other(name: &'static str, reader: Reader, values: &'static str, what: &'static str) -> Variable {
    Variable { name, values, what, numbers: None, reader }
}

/// Every variable. Names that begin with `RUGOSA_TEST_` are the tests' own and not listed.
pub const VARIABLES: &[Variable] = &[
    program(
        DEVICE,
        "INDEX|NAME",
        "device to compute on where none is asked for: its index or a part of its name",
        Some("devices round differently"),
    ),
    program(
        DISABLE,
        "NAME,…",
        "optional features that are not used: f16, subgroup, coop, timestamps, int64, images, gemm",
        Some("other kernels sum in another order"),
    ),
    program(
        LIMITS,
        "default",
        "WebGPU's default limits, whatever the device offers",
        Some("other tiles sum in another order"),
    ),
    program(
        CLASS,
        "software|integrated|discrete",
        "treat the device as one of this kind",
        Some("other kernels and tiles sum in another order"),
    ),
    program(
        SPARSE,
        "apart",
        "keep sparse adapters out of the weights' memory, and decode weights in tiles alone",
        Some("other kernels sum in another order"),
    ),
    program(SELFTEST, "on|off", "off: no check of the device before a run", None),
    program(
        CACHE,
        "off|DIR",
        "keep nothing from run to run, or keep it in this folder; without it in the user's cache folder",
        Some("tiles that were measured and kept there sum in another order"),
    ),
    program(CUDA, "DIR", "a folder with CUDA's NVRTC and cuBLASLt, which is looked into before the system's", None),
    program(DUMP_SHADERS, "DIR", "write each shader to this folder as the driver gets it", None),
    program(
        LOG,
        "LEVEL|TARGET=LEVEL,…",
        "what is logged: off, error, warn, info, debug or trace, of all or of single crates (wgpu_hal=info)",
        None,
    ),
    program(
        RANK_TIMEOUT,
        "SECONDS",
        "how long the ranks of a run wait for one that does not answer, 600 without it",
        None,
    ),
    program(
        EPOCH,
        "SECONDS",
        "the time that chat templates see, in seconds since 1970; without it the clock's",
        Some("templates that write the date"),
    ),
    program(HF_HOME, "DIR", "where names that begin with hf: are fetched to; else ~/.cache/huggingface", None),
    program(HF_HUB_CACHE, "DIR", "the same, for what is fetched alone; else hub in the folder above", None),
    program(HF_TOKEN, "TOKEN", "for private and gated names; else what hf auth login has left", None),
    program(HF_TOKEN_PATH, "FILE", "where that token lies; else token in HF_HOME", None),
    program(HF_HUB_OFFLINE, "1", "fetch nothing: names that begin with hf: are looked for in the cache alone", None),
    program(HF_ENDPOINT, "URL", "another server with the Hub's interface, a mirror say", None),
    other(
        FAULT,
        Reader::Tests,
        "kill|full|read-only:N",
        "at the Nth file operation of a run end the process, or let it and later ones fail as on such a disk",
    ),
    other("RUGOSA_COMMIT", Reader::Build, "HASH", "the commit that reports of `rugosa bench` name"),
    other(FUZZ_SECONDS, Reader::Tests, "SECONDS", "how long each reader is fuzzed"),
    other("RUGOSA_MUTANTS", Reader::Tests, "NAME", "plant only these bugs"),
    other(REQUIRE, Reader::Tests, "NAME,…", "optional features without which the tests of them fail"),
    other(
        PORTABILITY,
        Reader::Tests,
        "strict|quick",
        "drivers that cannot be had are failures; only the self-test and the tests of matrix units on them",
    ),
];

/// Where what only saves time lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// In the user's cache folder.
    #[default]
    User,
    Off,
    Folder(PathBuf),
}

/// What goes wrong at an operation on the disk, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The process ends as if it was killed.
    Kill,
    /// There is no room.
    Full,
    ReadOnly,
}

/// A fault at the operation `at`, from 1, and at all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub at: u64,
}

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub device: Option<String>,
    /// Some of [`FEATURES`].
    pub disable: Vec<&'static str>,
    pub default_limits: bool,
    /// One of [`CLASSES`].
    pub class: Option<&'static str>,
    /// S stays out of weights, and out of copies of them.
    pub separate_sparse: bool,
    pub skip_selftest: bool,
    pub cache: Cache,
    pub cuda: Option<PathBuf>,
    pub dump_shaders: Option<PathBuf>,
    pub log: Option<String>,
    /// Seconds, at least one.
    pub rank_timeout: Option<u64>,
    /// Seconds since 1970.
    pub source_date_epoch: Option<i64>,
    pub fault: Option<Fault>,
}

impl Settings {
    /// The variables that are set and change how things are computed, as they would be written again. What the others change
    /// shows elsewhere: the device and its tiles, and the rows.
    pub fn switches(&self) -> Vec<(&'static str, String)> {
        let disable = (!self.disable.is_empty()).then(|| {
            let on = FEATURES.into_iter().filter(|f| self.disable.contains(f));
            on.collect::<Vec<_>>().join(",")
        });
        let all = [
            (DISABLE, disable),
            (LIMITS, self.default_limits.then(|| "default".to_owned())),
            (CLASS, self.class.map(str::to_owned)),
            (SPARSE, self.separate_sparse.then(|| "apart".to_owned())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// What the environment said when it was first asked. Of what [`check`] refuses nothing holds.
pub fn settings() -> &'static Settings {
    &read().0
}

/// Refuses an environment that cannot be meant.
///
/// # Errors
/// [`Error::Usage`] that names each variable that is wrong, and the way out.
pub fn check() -> Result<()> {
    let mut faults = read().1.iter();
    let Some((name, reason)) = faults.next() else { return Ok(()) };
    let more: String = faults.map(|(name, reason)| format!("; {name}: {reason}")).collect();
    Err(Error::invalid(name.clone(), format!("{reason}{more}")).as_usage())
}

type Parsed = (Settings, Vec<(String, String)>);

fn read() -> &'static Parsed {
    static ENVIRONMENT: OnceLock<Parsed> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| parse::parse(std::env::vars_os()))
}

/// A variable of the system's, by its name; an empty one counts as absent.
pub fn system(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|v| !v.is_empty())
}

/// The program's variables, for its help.
pub fn help() -> String {
    let mut text =
        "Environment variables (an empty one counts as absent; an unknown value or RUGOSA_ name is refused):"
            .to_owned();
    for v in VARIABLES.iter().filter(|v| v.reader == Reader::Program) {
        let numbers = v.numbers.map(|why| format!(" [changes numbers: {why}]")).unwrap_or_default();
        // writing to a String cannot fail
        let _ = write!(text, "\n  {}={}\n          {}{numbers}", v.name, v.values, v.what);
    }
    text
}

/// The table of the README.
pub fn markdown() -> String {
    let mut text = "| variable | | changes numbers |\n|---|---|---|\n".to_owned();
    for v in VARIABLES {
        let by = match v.reader {
            Reader::Program => "",
            Reader::Tests => "tests: ",
            Reader::Build => "build: ",
        };
        let values = v.values.replace('|', "\\|");
        let _ = writeln!(text, "| `{}={values}` | {by}{} | {} |", v.name, v.what, v.numbers.unwrap_or("no"));
    }
    text
}

#[cfg(test)]
mod tests;
