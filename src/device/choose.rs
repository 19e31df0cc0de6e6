//! Which device is meant: wgpu's adapters and, in a build with the feature `cuda`, NVIDIA's cards once more, by way of CUDA.

use super::wgpu::{WgpuBackend, list_adapters};
use super::{Backend, DeviceClass, DeviceOptions, Feature};
use crate::env;
use crate::error::{Error, Result};

/// One device as `rugosa devices` shows it. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct AdapterRow {
    pub index: usize,
    pub name: String,
    pub driver: String,
    pub api: String,
    pub class: DeviceClass,
    pub subgroup_min: u32,
    pub subgroup_max: u32,
    pub max_binding: u64,
    pub max_buffer: u64,
    pub max_workgroup_memory: u32,
    /// Optional features that it offers.
    pub features: Vec<Feature>,
    /// Whether the options choose it.
    pub chosen: bool,
}

/// All devices that can compute, in the order of their indices; the one that `options` choose is marked, if they choose any.
///
/// # Errors
/// [`Error::NoDevice`] if there is none, with the way to get one; those of [`env::check`].
pub fn list_devices(options: &DeviceOptions) -> Result<Vec<AdapterRow>> {
    env::check()?;
    let (mut rows, best) = all(options)?;
    let chosen = match &options.selector {
        None => Some(best),
        Some(s) => index_of(options.selector_from, s, &rows).ok(),
    };
    rows.iter_mut().for_each(|row| row.chosen = chosen == Some(row.index));
    Ok(rows)
}

/// That `options` choose one of `rows`, where they ask for one.
///
/// # Errors
/// [`Error::Invalid`] with the names that there are.
pub fn check_choice(options: &DeviceOptions, rows: &[AdapterRow]) -> Result<()> {
    options.selector.as_ref().map_or(Ok(()), |s| index_of(options.selector_from, s, rows).map(drop))
}

/// Opens the device that `options` choose.
///
/// # Errors
/// [`Error::NoDevice`] if there is none, with the way to get one; [`Error::Invalid`] where none is the one; those of [`env::check`].
pub(super) fn open(options: &DeviceOptions) -> Result<Box<dyn Backend>> {
    env::check()?;
    match of_cuda(options)? {
        Some(backend) => Ok(backend),
        None => Ok(Box::new(WgpuBackend::open(options)?)),
    }
}

/// The device, where `options` mean one of CUDA's.
#[cfg(feature = "cuda")]
fn of_cuda(options: &DeviceOptions) -> Result<Option<Box<dyn Backend>>> {
    use super::cuda;
    let opened = |number| cuda::open(number, options).map(|b| Some(Box::new(b) as Box<dyn Backend>));
    let Some(selector) = &options.selector else {
        return if cuda::is_usable() { opened(0) } else { Ok(None) };
    };
    if let Some(number) = numbered(selector) {
        return opened(number?);
    }
    let (rows, _) = all(options)?;
    let index = index_of(options.selector_from, selector, &rows)?;
    let of_cuda = |row: &&AdapterRow| row.api == CUDA;
    if of_cuda(&&rows[index]) { opened(rows[..index].iter().filter(of_cuda).count()) } else { Ok(None) }
}

#[cfg(not(feature = "cuda"))]
fn of_cuda(_: &DeviceOptions) -> Result<Option<Box<dyn Backend>>> {
    Ok(None)
}

/// What CUDA is called in rows.
#[cfg(feature = "cuda")]
const CUDA: &str = "CUDA";

/// The number of the card that `cuda` or `cuda:N` means; none where the words mean something else.
#[cfg(feature = "cuda")]
fn numbered(selector: &str) -> Option<Result<usize>> {
    let lower = selector.trim().to_lowercase();
    let rest = lower.strip_prefix("cuda")?;
    let wrong = || Error::option("device", format!("\"{selector}\" is no card of CUDA's; write cuda or cuda:1"));
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some(Ok(0)),
        None => None,
        Some(number) => Some(number.parse().map_err(|_| wrong())),
    }
}

/// All devices, and the index of the one that is taken if nobody chooses.
fn all(options: &DeviceOptions) -> Result<(Vec<AdapterRow>, usize)> {
    let more = more(options);
    let (mut rows, best) = match list_adapters() {
        Err(Error::NoDevice { .. }) if !more.is_empty() => (Vec::new(), 0),
        listed => listed?,
    };
    let of_wgpu = rows.len();
    rows.extend(more);
    rows.iter_mut().enumerate().for_each(|(i, row)| row.index = i);
    let is_first = rows.len() > of_wgpu && is_usable();
    Ok((rows, if is_first { of_wgpu } else { best }))
}

#[cfg(feature = "cuda")]
fn more(options: &DeviceOptions) -> Vec<AdapterRow> {
    super::cuda::rows(options)
}

#[cfg(not(feature = "cuda"))]
fn more(_: &DeviceOptions) -> Vec<AdapterRow> {
    Vec::new()
}

#[cfg(feature = "cuda")]
fn is_usable() -> bool {
    super::cuda::is_usable()
}

#[cfg(not(feature = "cuda"))]
fn is_usable() -> bool {
    false
}

/// The index among `rows` of the device that `selector` means.
fn index_of(from: &str, selector: &str, rows: &[AdapterRow]) -> Result<usize> {
    #[cfg(feature = "cuda")]
    if let Some(number) = numbered(selector) {
        let mut cards = rows.iter().filter(|row| row.api == CUDA);
        if let Some(row) = cards.nth(number?) {
            return Ok(row.index);
        }
    }
    select(from, selector, &rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>())
}

/// What other programs call a device by: its API, or its kind.
const NO_NAMES: [&str; 14] = [
    "cuda", "rocm", "hip", "mps", "xpu", "opencl", "directml", "vulkan", "metal", "dx12", "gpu", "cpu", "auto", "wgpu",
];

/// The index among `names` of the one that `selector`, given by the flag or variable `from`, means.
pub(super) fn select(from: &str, selector: &str, names: &[String]) -> Result<usize> {
    let lower = selector.trim().to_lowercase();
    let found = match lower.parse::<usize>() {
        Ok(i) => (i < names.len()).then_some(i),
        Err(_) if lower.is_empty() => None,
        Err(_) => names.iter().position(|n| n.to_lowercase().contains(&lower)),
    };
    found.ok_or_else(|| {
        let list: Vec<_> = names.iter().enumerate().map(|(i, n)| format!("{i} = \"{n}\"")).collect();
        let word = lower.split(':').next().unwrap_or_default();
        let why = match word {
            "cuda" if cfg!(feature = "cuda") => "; CUDA finds no such card",
            "cuda" => "; this rugosa was built without CUDA (cargo install rugosa --features cuda has it) and computes through Vulkan, Metal or DX12",
            word if NO_NAMES.contains(&word) => "; rugosa computes through Vulkan, Metal or DX12 (it has no ROCm or MPS) and names devices, not APIs",
            _ => "",
        };
        let from = if from.is_empty() { "⟨device⟩" } else { from };
        let reason = format!(
            "no device matches \"{selector}\"{why}; give the index or a part of the name of a device here: {}",
            list.join(", ")
        );
        Error::invalid(from, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_chosen_by_index_or_part_of_its_name() {
        let names = ["NVIDIA H100".to_string(), "llvmpipe (LLVM)".to_string()];
        let chosen = |selector| select("⟨device⟩", selector, &names);
        assert_eq!((chosen("1").unwrap(), chosen("LLVMpipe").unwrap(), chosen(" h100").unwrap()), (1, 1, 0));
        let err = chosen("radeon").unwrap_err().to_string();
        assert!(err.starts_with("⟨device⟩: ") && err.contains("\"radeon\"; give the index"), "{err}");
        assert!(err.ends_with("a device here: 0 = \"NVIDIA H100\", 1 = \"llvmpipe (LLVM)\""), "{err}");
        for other in ["2", "-1", "", " "] {
            assert!(chosen(other).is_err(), "{other}");
        }
        let err = select("RUGOSA_DEVICE", "foo", &names).unwrap_err().to_string();
        assert!(err.starts_with("RUGOSA_DEVICE: no device matches \"foo\""), "{err}");
        for other in ["mps", "cpu", "ROCm:0"] {
            let err = chosen(other).unwrap_err().to_string();
            assert!(err.contains("through Vulkan, Metal or DX12 (it has no ROCm"), "{err}");
        }
        for other in ["cuda", "CUDA:0"] {
            let err = chosen(other).unwrap_err().to_string();
            let said = if cfg!(feature = "cuda") { "CUDA finds no such card" } else { "--features cuda" };
            assert!(err.contains(said) && !err.contains('\n'), "{err}");
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn cards_of_cuda_have_numbers() {
        let number = |selector| numbered(selector).map(|n| n.ok());
        assert_eq!([number("cuda"), number(" CUDA:1"), number("cuda:x")], [Some(Some(0)), Some(Some(1)), Some(None)]);
        assert_eq!([number("H200"), number("0"), number("cudagpu")], [None; 3]);
    }
}
