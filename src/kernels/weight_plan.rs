//! How weights lie on a device: in shards that a binding holds, and in which format. Functions of the device's [`Target`] and of sizes.

use super::plan_log;
use super::target::Target;
use crate::device::{Device, Precision};
use crate::tensor::WeightFormat;
use std::fmt;

/// Bytes that one binding of a weight may have, whatever the device offers: at 4 GiB and over some drivers compute wrongly.
const MOST_BYTES: u64 = 1 << 30;
/// A shard begins at a multiple of so many rows, if it may be that long: then the rows of B and of a bias that belong to it can be
/// bound where they lie.
const ALIGNED_ROWS: usize = 64;
/// Rows of a shard on a software renderer: a product over all of them (an input gradient) must not loop for longer than it lets it.
const SOFTWARE_ROWS: usize = 1 << 16;

/// Rows of a shard of a matrix; all of them where it is not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    pub rows: usize,
    of: usize,
}

impl ShardPlan {
    /// For a matrix `[rows, cols]` in `format` on this device.
    pub fn on(device: &Device, format: WeightFormat, [rows, cols]: [usize; 2]) -> ShardPlan {
        let plan = ShardPlan::choose(&Target::of(device), format, [rows, cols]);
        if plan.rows < rows {
            plan_log::tell(&format_args!("weight [{rows}, {cols}] {format:?}"), &plan);
        }
        plan
    }

    fn choose(target: &Target, format: WeightFormat, [rows, cols]: [usize; 2]) -> ShardPlan {
        // the scales of quantised formats lie behind all codes, so a shard's size is the format's, not the file's
        let row_bytes = format.bytes(cols as u64).max(1);
        let most = usize::try_from(most_bytes(target) / row_bytes).unwrap_or(usize::MAX).clamp(1, rows.max(1));
        let most = if target.is_software() { most.min(SOFTWARE_ROWS) } else { most };
        // each shard begins where its part of each plane begins with a word, if any number of rows does
        let whole = |n: &usize| *n >= rows || format.stacks(*n as u64 * cols as u64);
        let aligned = |n: &usize| *n >= rows || n.is_multiple_of(ALIGNED_ROWS);
        let all = || (1..=most).rev();
        let cut = all().find(|n| whole(n) && aligned(n)).or_else(|| all().find(whole)).unwrap_or(most);
        ShardPlan { rows: cut, of: rows }
    }
}

impl fmt::Display for ShardPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shards of {} rows", self.of.div_ceil(self.rows.max(1)), self.rows)
    }
}

/// Bytes that a weight in one piece may have on this device.
pub fn most_bytes_on(device: &Device) -> u64 {
    most_bytes(&Target::of(device))
}

fn most_bytes(target: &Target) -> u64 {
    target.max_bytes.min(MOST_BYTES)
}

/// Whether weights in bf16 are better stored as f16: where products round them to that anyway, and have less to do then.
pub fn bf16_as_f16(device: &Device) -> bool {
    Target::of(device).precision == Precision::F16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::{Caps, DeviceClass};

    #[test]
    fn shards_are_what_a_binding_holds() {
        let gpu = |mib: u64| Caps { max_binding: mib << 20, max_buffer: mib << 21, ..DryBackend::caps_for_tests() };
        let software = |mib: u64| Caps { class: DeviceClass::Software, ..gpu(mib) };
        for (caps, format, rows, cols, want) in [
            // what large models have, on a GPU with large bindings, and with WebGPU's
            (gpu(4096), WeightFormat::F16, 262_144, 5120, 104_832),
            (gpu(128), WeightFormat::F16, 262_144, 5120, 13_056),
            (gpu(4096), WeightFormat::F16, 28_672, 8192, 28_672),
            (gpu(4096), WeightFormat::F32, 28_672, 8192, 28_672),
            (gpu(128), WeightFormat::F16, 28_672, 8192, 8192),
            (gpu(128), WeightFormat::F32, 4096, 4096, 4096),
            // a software renderer's loops end
            (software(4096), WeightFormat::Q8, 262_144, 1024, 65_536),
            (software(128), WeightFormat::F32, 300, 64, 300),
            // less than 64 rows fit
            (gpu(1), WeightFormat::F32, 100, 8192, 32),
        ] {
            let plan = ShardPlan::choose(&Target::new(&caps, Precision::F32, false), format, [rows, cols]);
            let name = format!("{format:?} [{rows}, {cols}] at {} MiB", caps.max_binding >> 20);
            let bytes = format.bytes((plan.rows * cols) as u64);
            assert!(bytes <= caps.max_binding.min(MOST_BYTES), "{name}: {bytes}");
            assert_eq!(plan.rows, want, "{name}");
        }
        for format in WeightFormat::ALL {
            let plan = ShardPlan::choose(&Target::new(&gpu(128), Precision::F32, false), format, [57_344, 8192]);
            let [bytes, more] = [plan.rows, plan.rows + 64].map(|rows| format.bytes((rows * 8192) as u64));
            assert!(bytes <= 128 << 20 && more > 128 << 20 && plan.rows.is_multiple_of(64), "{format:?}: {plan:?}");
        }
    }
}
