//! What a device can do, and how to choose one.

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
}

impl Feature {
    /// All, in the order in which tables show them.
    pub const ALL: [Feature; 6] =
        [Feature::F16, Feature::Subgroup, Feature::CoopMatrix, Feature::Timestamps, Feature::Int64, Feature::Images];
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
        })
    }
}

/// What the operands of products are rounded to. Sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
}

impl Caps {
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
    /// An index of `rugosa devices` or part of a name. Without it: the environment's `RUGOSA_DEVICE`, else the best.
    pub selector: Option<String>,
    /// Open with WebGPU's default limits, whatever the adapter offers: what a browser would give.
    pub default_limits: bool,
    /// Optional features not to use.
    pub disable: Vec<Feature>,
    /// Treat the device as one of this class: how kernels for GPUs are tested on a software renderer.
    pub class: Option<DeviceClass>,
}

impl DeviceOptions {
    /// `selector`, and what the environment says: `RUGOSA_DEVICE`, `RUGOSA_DISABLE` (a list of `f16`, `subgroup`,
    /// `coop`, `timestamps`, `int64`, `images`), `RUGOSA_LIMITS=default`, `RUGOSA_CLASS` (`software`,
    /// `integrated`, `discrete`).
    pub fn from_env(selector: Option<String>) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let listed = var("RUGOSA_DISABLE").unwrap_or_default();
        let disable =
            Feature::ALL.into_iter().filter(|f| listed.split(',').any(|l| l.trim() == f.to_string())).collect();
        DeviceOptions {
            selector: selector.or_else(|| var("RUGOSA_DEVICE")),
            class: match var("RUGOSA_CLASS").as_deref() {
                Some("software") => Some(DeviceClass::Software),
                Some("integrated") => Some(DeviceClass::Integrated),
                Some("discrete") => Some(DeviceClass::Discrete),
                _ => None,
            },
            default_limits: var("RUGOSA_LIMITS").is_some_and(|v| v == "default"),
            disable,
        }
    }
}
