//! What a device offers to products and attention. Plans are chosen from this and from the problem, and from nothing else, so that
//! they can be tested as tables without a device.

use crate::device::{Caps, Device, DeviceClass, Feature, Precision};
use crate::env;

/// A device, as far as a plan is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub class: DeviceClass,
    /// Matrix units that the kernels are written for, whether or not they are in use.
    pub coop_matrix: Option<CoopMatrix>,
    /// What operands of products are rounded to.
    pub precision: Precision,
    /// Lanes of a subgroup, where products run in registers.
    pub lanes: Option<u32>,
    pub has_subgroups: bool,
    /// Whether a library of the backend's computes dense products.
    pub has_gemm: bool,
    /// Whether words of 64 bits can be loaded and stored.
    pub has_int64: bool,
    /// Bytes of the largest buffer that a kernel can bind.
    pub max_bytes: u64,
    /// Whether every product is asked to add S to its own tiles (an environment variable for tests).
    pub separate_sparse: bool,
}

impl Target {
    /// This device, at its precision of now.
    pub fn of(device: &Device) -> Target {
        Target::new(device.caps(), device.precision(), env::settings().separate_sparse)
    }

    pub fn new(caps: &Caps, precision: Precision, separate_sparse: bool) -> Target {
        Target {
            class: caps.class,
            coop_matrix: CoopMatrix::of(caps),
            precision,
            lanes: lanes(caps),
            has_subgroups: caps.has(Feature::Subgroup),
            has_gemm: caps.has(Feature::Gemm),
            has_int64: caps.has(Feature::Int64),
            max_bytes: caps.max_binding.min(caps.max_buffer),
            separate_sparse,
        }
    }

    /// The matrix units, if this device's operands are rounded to what they take.
    pub fn used_coop_matrix(&self) -> Option<CoopMatrix> {
        self.coop_matrix.filter(|_| self.precision == Precision::F16)
    }

    pub fn is_software(&self) -> bool {
        self.class == DeviceClass::Software
    }
}

/// What matrix units are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoopMatrix {
    /// Edge of a fragment: 8 or 16.
    pub fragment: u32,
    /// Threads of a subgroup.
    pub lanes: u32,
}

impl CoopMatrix {
    /// NVIDIA's, Apple's, and those of Mesa's software renderer.
    pub const ALL: [CoopMatrix; 3] = [
        CoopMatrix { fragment: 16, lanes: 32 },
        CoopMatrix { fragment: 8, lanes: 32 },
        CoopMatrix { fragment: 8, lanes: 8 },
    ];

    /// Those of this device, if the kernels are written for them.
    pub fn of(caps: &Caps) -> Option<CoopMatrix> {
        let units = CoopMatrix { fragment: caps.fragment?, lanes: caps.subgroup_min };
        let fits = CoopMatrix::ALL.contains(&units)
            && caps.has(Feature::CoopMatrix)
            && caps.has(Feature::F16)
            && caps.subgroup_min == caps.subgroup_max
            && caps.max_workgroup_size >= 256
            && caps.max_workgroup_memory >= units.memory();
        fits.then_some(units)
    }

    /// Bytes of workgroup memory that kernels for them may take.
    pub const fn memory(&self) -> u32 {
        if self.fragment == 8 { 32 << 10 } else { 48 << 10 }
    }
}

/// Sizes of subgroups for which there are kernels in registers.
pub(super) const LANES: [u32; 2] = [4, 8];

/// Lanes of the device's subgroups if its products should run in registers.
pub(super) fn lanes(caps: &Caps) -> Option<u32> {
    let fits = caps.class == DeviceClass::Software
        && caps.has(Feature::Subgroup)
        && caps.has(Feature::Int64)
        && caps.subgroup_min == caps.subgroup_max
        && LANES.contains(&caps.subgroup_max);
    fits.then_some(caps.subgroup_max)
}
