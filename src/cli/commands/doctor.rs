//! `rugosa doctor`: what this machine computes on, what is fast on it and what not, and what is in the way.

use super::devices::used;
use super::print;
use super::selftest::check;
use crate::cases::Level;
use crate::cli::args::DoctorArgs;
use crate::cli::downloads::size;
use crate::cli::signal;
use crate::device::choose::{AdapterRow, list_devices};
use crate::device::{Device, DeviceClass, DeviceOptions, Feature, Precision};
use crate::env::{self, HF_TOKEN, Reader};
use crate::error::Result;
use crate::io::cache_folder;
use crate::kernels::precision;
use crate::shown;
use crate::train::plan;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Room on a disk under which a download or a run is likely to stop.
const LITTLE_ROOM: u64 = 5_000_000_000;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// As it should be.
    Good,
    /// Slower than it could be, or likely to be in the way.
    Note,
    /// Nothing works while this is so.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    topic: &'static str,
    weight: Weight,
    text: String,
}

fn finding(topic: &'static str, weight: Weight, text: impl Into<String>) -> Finding {
    Finding { topic, weight, text: text.into() }
}

pub fn run(args: &DoctorArgs) -> Result<()> {
    signal::install(None)?;
    let options = DeviceOptions::from_env(args.device.device.clone());
    let mut found = vec![program()];
    let opened = list_devices(&options).and_then(|rows| {
        let device = Device::open(&options)?;
        Ok((rows, device))
    });
    let verdict = match opened {
        Ok((rows, device)) => {
            if let Some(row) = rows.iter().find(|row| row.chosen) {
                found.extend(about_device(row, &device, &options));
            }
            found.push(matrix_units(&device, &options)?);
            if args.no_selftest { Ok(()) } else { self_test(&device, &mut found)? }
        }
        Err(error) => {
            found.push(finding("device", Weight::Bad, format!("{error}; see docs/install.md")));
            Err(error)
        }
    };
    found.extend(disks());
    found.extend(environment());
    print(&if args.json { as_json(&found) } else { as_text(&found) })?;
    verdict
}

fn program() -> Finding {
    let features: Vec<&str> = [("hub", cfg!(feature = "hub")), ("cuda", cfg!(feature = "cuda"))]
        .into_iter()
        .filter(|f| f.1)
        .map(|f| f.0)
        .collect();
    let built = if features.is_empty() { String::new() } else { format!(", with {}", features.join(", ")) };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = format!("{} on {os} {arch}{built}; {cores} threads", env!("CARGO_PKG_VERSION"));
    finding("rugosa", Weight::Good, text)
}

/// What the chosen device is, and what of it is used.
fn about_device(row: &AdapterRow, device: &Device, options: &DeviceOptions) -> Vec<Finding> {
    let caps = device.caps();
    let memory = caps.memory.map(|m| format!(", {} of its own memory", plan::size(m))).unwrap_or_default();
    let text = format!("{} ({}, {}{memory})", row.name, row.api, row.class.name());
    let is_software = caps.class == DeviceClass::Software;
    let mut found = vec![
        finding("device", if is_software { Weight::Note } else { Weight::Good }, text),
        finding("driver", Weight::Good, row.driver.clone()),
    ];
    if is_software {
        const SLOW: &str = "this is a software renderer: everything runs on the CPU. With a GPU in this machine install its driver (docs/install.md); rugosa devices lists what there is";
        found.push(finding("speed", Weight::Note, SLOW));
    }
    let used: Vec<String> = used(row, options).iter().map(Feature::to_string).collect();
    let names = if used.is_empty() { "none".to_owned() } else { used.join(", ") };
    found.push(finding("features", Weight::Good, format!("used: {names}")));
    let off: Vec<String> = options.disable.iter().map(Feature::to_string).collect();
    if !off.is_empty() {
        found.push(finding("features", Weight::Note, format!("switched off by {}: {}", env::DISABLE, off.join(", "))));
    }
    found
}

/// Whether `--precision f16` is faster here, and why not.
fn matrix_units(device: &Device, options: &DeviceOptions) -> Result<Finding> {
    let usable = precision::enable(device)? == Precision::F16;
    device.set_precision(Precision::F32);
    if usable {
        let text = "usable and right: --precision f16 runs products on them, several times as fast";
        return Ok(finding("matrix units", Weight::Good, text));
    }
    let caps = device.caps();
    let why = match caps.class {
        DeviceClass::Software => "none on a software renderer",
        _ if options.disable.iter().any(|f| matches!(f, Feature::CoopMatrix | Feature::F16)) => "switched off",
        _ if caps.api != "Vulkan" => "not reached through this API: only Vulkan has them here",
        _ if !caps.has(Feature::CoopMatrix) => {
            "the driver offers none that fit (VK_KHR_cooperative_matrix with f16 operands and f32 sums): a newer one may"
        }
        _ if !caps.has(Feature::F16) => "the driver has no f16 in shaders",
        _ => "they were tried and do not compute rightly: a newer driver may",
    };
    let weight = if caps.class == DeviceClass::Software { Weight::Good } else { Weight::Note };
    Ok(finding("matrix units", weight, format!("{why}; --precision f16 runs as f32")))
}

/// The small cases of the table; whether they are right.
fn self_test(device: &Device, found: &mut Vec<Finding>) -> Result<Result<()>> {
    super::tell("checking the kernels (--no-selftest leaves it out) …");
    let report = check(device, Level::Quick, None)?;
    let (cases, failed, seconds) = report.counts();
    let verdict = report.verdict();
    found.push(match &verdict {
        Ok(()) => finding("self-test", Weight::Good, format!("{cases} cases right, {seconds:.1} s")),
        Err(error) => {
            let text =
                format!("{failed} of {cases} cases wrong: {error}; update the driver, or choose another --device");
            finding("self-test", Weight::Bad, text)
        }
    });
    Ok(verdict)
}

/// Room where things are written.
fn disks() -> Vec<Finding> {
    let here = std::env::current_dir().ok();
    [("working folder", here), ("rugosa's cache", cache_folder()), ("models by name", hub_cache())]
        .into_iter()
        .filter_map(|(what, folder)| {
            let folder = folder?;
            // a folder that is not there yet will be made in one that is
            let there = folder.ancestors().find(|f| f.exists())?;
            let free = fs4::available_space(there).ok()?;
            let weight = if free < LITTLE_ROOM { Weight::Note } else { Weight::Good };
            Some(finding("disk", weight, format!("{what}: {} free in {}", size(free), folder.display())))
        })
        .collect()
}

/// Where models by name go; nowhere in a build that fetches none.
#[cfg(feature = "hub")]
fn hub_cache() -> Option<PathBuf> {
    crate::io::hub::Settings::from_env().ok().map(|settings| settings.cache)
}

#[cfg(not(feature = "hub"))]
fn hub_cache() -> Option<PathBuf> {
    None
}

/// The variables of the table that are set.
fn environment() -> Vec<Finding> {
    let set = env::VARIABLES.iter().filter(|v| v.reader == Reader::Program).filter_map(|v| {
        let value = env::system(v.name)?;
        let value = if v.name == HF_TOKEN { "(not shown)".into() } else { shown::path(Path::new(&value)) };
        let numbers = v.numbers.map(|why| format!(" [changes numbers: {why}]")).unwrap_or_default();
        Some(finding("environment", Weight::Good, format!("{}={value}{numbers}", v.name)))
    });
    let set: Vec<Finding> = set.collect();
    if set.is_empty() { vec![finding("environment", Weight::Good, "no variable of rugosa's is set")] } else { set }
}

fn mark(weight: Weight) -> &'static str {
    match weight {
        Weight::Good => "ok",
        Weight::Note => "note",
        Weight::Bad => "BAD",
    }
}

fn as_text(found: &[Finding]) -> String {
    found.iter().map(|f| format!("{:<5} {:<13} {}\n", mark(f.weight), f.topic, crate::cli::line(&f.text))).collect()
}

fn as_json(found: &[Finding]) -> String {
    let weight = |f: &Finding| mark(f.weight).to_lowercase();
    let all: Vec<_> =
        found.iter().map(|f| json!({"topic": f.topic, "is": weight(f), "text": crate::cli::line(&f.text)})).collect();
    shown::json(&format!("{:#}\n", json!({ "findings": all })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_no_token_is_shown() {
        let text = as_text(&[finding("device", Weight::Bad, "none\nat all"), program()]);
        assert!(text.starts_with("BAD   device        none\\nat all\nok    rugosa"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&as_json(&[program()])).unwrap();
        assert_eq!(json["findings"][0]["is"], "ok");
    }
}
