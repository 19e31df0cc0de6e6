//! Whether a device's products may run on its matrix units: [`enable`] compares them with the f32 kernels first.

use super::product::{Fused, Layout, Out, rosa_linear};
use super::target::{CoopMatrix, Target};
use super::tile::on_units;
use super::{attention_self_test, library_self_test, low_rank_self_test};
use crate::device::dry::DryBackend;
use crate::device::{Caps, Device, KernelSpec, Precision};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::{Tensor, Weight};
use std::collections::HashSet;

/// Lets products on this device run on its matrix units, if it has any and they compute rightly: a few fused linears
/// and an attention, in both directions, are compared with the f32 kernels first. Says which precision is now set.
///
/// # Errors
/// Those of the device; a wrong result is no error but a warning, and leaves f32.
pub fn enable(device: &Device) -> Result<Precision> {
    device.set_precision(Precision::F32);
    if CoopMatrix::of(device.caps()).is_none() {
        return Ok(Precision::F32);
    }
    let tested = tested_kernels(device.caps()).and_then(|kernels| {
        // each takes seconds, so not one behind the other
        device.prepare(&kernels, &|| true)?;
        self_tests(device)
    });
    match tested {
        Ok(None) => device.set_precision(Precision::F16),
        Ok(Some(wrong)) => tracing::warn!("matrix units are not used: {wrong}"),
        Err(e @ Error::Kernel { .. }) => tracing::warn!("matrix units are not used: {e}"),
        Err(e) => return Err(e),
    }
    Ok(device.precision())
}

/// Says what departs from the f32 kernels.
type SelfTest = fn(&Device) -> Result<Option<String>>;

const SELF_TESTS: [SelfTest; 4] =
    [self_test, library_self_test::self_test, low_rank_self_test::self_test, attention_self_test::self_test];

/// What the first test finds that finds anything.
fn self_tests(device: &Device) -> Result<Option<String>> {
    for test in SELF_TESTS {
        if let wrong @ Some(_) = test(device)? {
            return Ok(wrong);
        }
    }
    Ok(None)
}

/// What the self-tests launch, found on a device that only counts; what they find there means nothing.
fn tested_kernels(caps: &Caps) -> Result<Vec<KernelSpec>> {
    let device = Device::new(Box::new(DryBackend::new(caps.clone())));
    device.note_launches(true);
    for test in SELF_TESTS {
        test(&device)?;
    }
    Ok(device.launched_kernels())
}

/// Compares with the f32 kernels on operands that are exact in f16; says what departs.
fn self_test(device: &Device) -> Result<Option<String>> {
    // edges in m and n, a tail in k, and enough outputs for the large tiles of 96 and of 128 columns, where there are both
    let (target, mut seen) = (Target::of(device), HashSet::new());
    for (m, n, k) in [(72, 104, 104), (1304, 1288, 64), (1304, 1400, 64)] {
        let tile = target.coop_matrix.map(|units| on_units(units, Layout::Nt, false, [m, n, k]));
        if !seen.insert(tile.map(|tile| (tile, k.is_multiple_of(tile.bk as usize)))) {
            continue;
        }
        for layout in [Layout::Nt, Layout::Nn] {
            let mut rng = Rng::named(1, "matrix units");
            let mut halves =
                |len: usize| -> Vec<f32> { (0..len).map(|_| (rng.below(33) as f32 - 16.0) / 16.0).collect() };
            let x = Tensor::from_slice(device, &[m, k], &halves(m * k), "self-test")?;
            let (rows, cols) = if layout == Layout::Nt { (n, k) } else { (k, n) };
            let bytes: Vec<u8> = halves(rows * cols).iter().flat_map(|v| v.to_le_bytes()).collect();
            let w = Weight::upload(device, DType::F32, rows, cols, &bytes)?;
            let u = Tensor::from_slice(device, &[m, 8], &halves(m * 8), "self-test")?;
            let shape = if layout == Layout::Nt { [n, 8] } else { [8, n] };
            let v = Tensor::from_slice(device, &shape, &halves(n * 8), "self-test")?;
            let run = |precision: Precision| -> Result<Vec<f32>> {
                device.set_precision(precision);
                let fused = Fused { low_rank: Some((&u, 0, &v)), ..Fused::default() };
                let y = rosa_linear(layout, &x, &w, fused, Out::default());
                device.set_precision(Precision::F32);
                y?.read()
            };
            let (want, got) = (run(Precision::F32)?, run(Precision::F16)?);
            // products of sixteenths sum exactly in f32: any departure is an error of the driver
            if let Some(i) = (0..want.len()).find(|&i| got[i] != want[i]) {
                let name = &device.caps().name;
                return Ok(Some(format!("{name} computes {} for {} ({layout:?} {m}x{n}x{k})", got[i], want[i])));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Feature;

    #[test]
    fn all_that_the_self_tests_launch_is_known_before() {
        let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let memory = 48 << 10;
        let caps = Caps { fragment: Some(16), features, max_workgroup_memory: memory, ..DryBackend::caps_for_tests() };
        assert!(CoopMatrix::of(&caps).is_some());
        let kernels = tested_kernels(&caps).unwrap();
        let of = |kernel: &str| kernels.iter().filter(|spec| spec.kernel.name == kernel).count();
        assert!(of("rosa_linear_coop") >= 2, "{kernels:?}");
        let attention = |spec: &KernelSpec| {
            spec.kernel.name.starts_with("attention_") && spec.kernel.needs.contains(&Feature::CoopMatrix)
        };
        assert!(kernels.iter().any(attention), "{kernels:?}");
        assert_eq!(kernels.iter().collect::<HashSet<_>>().len(), kernels.len());
    }
}
