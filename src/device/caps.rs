//! What a device can do, and how to choose one.

use crate::env;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Kinds of device that want different tile shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// A CPU behind a graphics API: few cores, small vectors, costly loads.
    Software,
    /// A GPU that shares the CPU's memory.
    Integrated,
    /// A GPU with memory of its own.
    Discrete,
}

impl DeviceClass {
    /// As tables and the environment call it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceClass::Software => "software",
            DeviceClass::Integrated => "integrated",
            DeviceClass::Discrete => "discrete",
        }
    }

    /// The class called `name`.
    pub fn named(name: &str) -> Option<DeviceClass> {
        [DeviceClass::Software, DeviceClass::Integrated, DeviceClass::Discrete].into_iter().find(|c| c.name() == name)
    }
}

/// Optional features that fast paths use. Each can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    F16,
    Subgroup,
    CoopMatrix,
    Timestamps,
    /// 64-bit integers: on a software renderer one load of them brings two f32.
    Int64,
    /// [Images](super::image), through which software renderers load faster than from buffers.
    Images,
    /// [Dense products](super::gemm) by a library.
    Gemm,
}

impl Feature {
    /// All, in the order in which tables show them.
    pub const ALL: [Feature; 7] = [
        Feature::F16,
        Feature::Subgroup,
        Feature::CoopMatrix,
        Feature::Timestamps,
        Feature::Int64,
        Feature::Images,
        Feature::Gemm,
    ];
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Feature::F16 => "f16",
            Feature::Subgroup => "subgroup",
            Feature::CoopMatrix => "coop",
            Feature::Timestamps => "timestamps",
            Feature::Int64 => "int64",
            Feature::Images => "images",
            Feature::Gemm => "gemm",
        })
    }
}

/// What the operands of products are rounded to. Sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// Products run on matrix units where shapes suit them; the rest stays f32.
    F16,
}

/// Capabilities and limits of an open device. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Caps {
    pub name: String,
    pub driver: String,
    /// "Vulkan", "Metal", "Dx12", …
    pub api: String,
    pub class: DeviceClass,
    pub subgroup_min: u32,
    pub subgroup_max: u32,
    /// The largest range that one binding may cover.
    pub max_binding: u64,
    pub max_buffer: u64,
    pub max_workgroup_memory: u32,
    pub max_workgroup_size: u32,
    pub max_groups_per_dimension: u32,
    pub storage_alignment: u64,
    pub features: Vec<Feature>,
    /// Edge of the matrix units' square fragments (f16 operands, f32 sums), 8 or 16 elements; none without units.
    pub fragment: Option<u32>,
    /// Bytes of memory of its own, where the driver says so.
    pub memory: Option<u64>,
}

impl Caps {
    /// Those of a GPU as there are many, for plans where there is none.
    pub fn of_a_gpu() -> Caps {
        Caps {
            name: "no device".into(),
            driver: String::new(),
            api: "none".into(),
            class: DeviceClass::Discrete,
            subgroup_min: 32,
            subgroup_max: 32,
            max_binding: (2 << 30) - 4,
            max_buffer: u64::MAX >> 1,
            max_workgroup_memory: 48 << 10,
            max_workgroup_size: 1024,
            max_groups_per_dimension: 65_535,
            storage_alignment: 256,
            features: vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix],
            fragment: Some(16),
            memory: None,
        }
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// What a thing that was found out about the device holds for: the device, its driver, how it is used, and the version
    /// of this program.
    pub fn identity(&self) -> String {
        let features: Vec<String> = self.features.iter().map(ToString::to_string).collect();
        let Caps { name, driver, api, class, .. } = self;
        let version = env!("CARGO_PKG_VERSION");
        format!("rugosa {version}\n{name}\n{driver}\n{api}\n{class:?} {}\n", features.join(" "))
    }
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// An index of `rugosa devices` or part of a name. Without it the best.
    pub selector: Option<String>,
    /// The flag or variable that gave it, for messages; empty where it was neither.
    pub selector_from: &'static str,
    /// Open with WebGPU's default limits, whatever the adapter offers: what a browser would give.
    pub default_limits: bool,
    /// Bytes that a kernel can bind at most, where that is to be less than the device offers: how matrices that are too large for a
    /// binding are tested without such matrices.
    pub max_binding: Option<u64>,
    /// Optional features not to use.
    pub disable: Vec<Feature>,
    /// Treat the device as one of this class: how kernels for GPUs are tested on a software renderer.
    pub class: Option<DeviceClass>,
    /// A submission takes a quarter of the usual time, so many times over: for a device that was lost under longer ones.
    pub quarterings: u32,
}

impl DeviceOptions {
    /// `selector`, and what the environment says: see [`env::VARIABLES`]. What is wrong there is refused where the device is
    /// opened.
    pub fn from_env(selector: Option<String>) -> Self {
        let said = env::settings();
        let named = |name: &&'static str| Feature::ALL.into_iter().find(|f| f.to_string() == **name);
        DeviceOptions {
            selector_from: if selector.is_none() && said.device.is_some() { env::DEVICE } else { "⟨device⟩" },
            selector: selector.or_else(|| said.device.clone()),
            class: said.class.and_then(DeviceClass::named),
            default_limits: said.default_limits,
            max_binding: None,
            disable: said.disable.iter().filter_map(named).collect(),
            quarterings: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_knows_every_feature_and_class() {
        assert_eq!(Feature::ALL.map(|f| f.to_string()), env::FEATURES);
        let classes = [DeviceClass::Software, DeviceClass::Integrated, DeviceClass::Discrete];
        assert_eq!(env::CLASSES.map(DeviceClass::named), classes.map(Some));
        assert_eq!(classes.map(DeviceClass::name), env::CLASSES);
    }
}
