//! Finding and choosing an adapter.

use crate::device::choose::{AdapterRow, select};
use crate::device::{DeviceClass, DeviceOptions, Feature};
use crate::env;
use crate::error::{Error, Result};

/// All adapters that can compute, in the order of their indices, and the place of the one that is chosen if nobody chooses.
///
/// # Errors
/// [`Error::NoDevice`] if there is none, with the way to get one.
pub fn list_adapters() -> Result<(Vec<AdapterRow>, usize)> {
    let adapters = enumerate()?;
    Ok((adapters.iter().enumerate().map(|(i, a)| row(i, a)).collect(), best(&adapters)))
}

fn row(index: usize, adapter: &wgpu::Adapter) -> AdapterRow {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    AdapterRow {
        index,
        name: info.name.clone(),
        driver: driver(&info),
        api: format!("{:?}", info.backend),
        class: class(&info),
        subgroup_min: info.subgroup_min_size,
        subgroup_max: info.subgroup_max_size,
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        max_workgroup_memory: limits.max_compute_workgroup_storage_size,
        features: features(offered(adapter), class(&info)),
        chosen: false,
    }
}

pub(super) fn driver(info: &wgpu::AdapterInfo) -> String {
    [info.driver.as_str(), info.driver_info.as_str()]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What kernels on matrix units ask for. A barrier of a subgroup comes with subgroups on Vulkan and Metal, where such units are,
/// and not on DX12, where subgroups do without.
pub(super) const MATRIX_UNITS: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SUBGROUP_BARRIER);

/// The adapter's features; matrix units only where they come in a shape that the shaders are written for.
pub(super) fn offered(adapter: &wgpu::Adapter) -> wgpu::Features {
    let missing = match fragment(adapter) {
        Some(_) => wgpu::Features::empty(),
        None => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
    };
    adapter.features().difference(missing)
}

/// Edge of the largest square fragments that the adapter's matrix units multiply, f16 with f32 sums.
pub(super) fn fragment(adapter: &wgpu::Adapter) -> Option<u32> {
    let units = adapter.cooperative_matrix_properties();
    [16, 8].into_iter().find(|&edge| {
        units.iter().any(|u| {
            (u.m_size, u.n_size, u.k_size) == (edge, edge, edge)
                && u.ab_type == wgpu::CooperativeScalarType::F16
                && u.cr_type == wgpu::CooperativeScalarType::F32
        })
    })
}

/// Bytes of the largest heap of the adapter's own memory, where the API says so: Vulkan does.
pub(super) fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handles are only asked for properties, while the adapter that they belong to is alive
    let properties = unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    let heaps = &properties.memory_heaps[..properties.memory_heap_count as usize];
    // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    heaps.iter().filter(|heap| heap.flags.as_raw() & 1 != 0).map(|heap| heap.size).max()
}

/// What the API offers, and images where they are loaded faster than buffers.
pub(super) fn features(f: wgpu::Features, class: DeviceClass) -> Vec<Feature> {
    let images = (class == DeviceClass::Software).then_some(Feature::Images);
    [
        (wgpu::Features::SHADER_F16, Feature::F16),
        (wgpu::Features::SUBGROUP, Feature::Subgroup),
        (MATRIX_UNITS, Feature::CoopMatrix),
        (wgpu::Features::TIMESTAMP_QUERY, Feature::Timestamps),
        (wgpu::Features::SHADER_INT64, Feature::Int64),
    ]
    .into_iter()
    .filter(|(flag, _)| f.contains(*flag))
    .map(|(_, feature)| feature)
    .chain(images)
    .collect()
}

pub(super) fn class(info: &wgpu::AdapterInfo) -> DeviceClass {
    match info.device_type {
        wgpu::DeviceType::Cpu => DeviceClass::Software,
        wgpu::DeviceType::IntegratedGpu => DeviceClass::Integrated,
        _ => DeviceClass::Discrete,
    }
}

fn enumerate() -> Result<Vec<wgpu::Adapter>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters: Vec<_> = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
        .into_iter()
        .filter(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS))
        .collect();
    if adapters.is_empty() { Err(Error::NoDevice { reason: no_device_hint().into() }) } else { Ok(adapters) }
}

/// A real GPU before a software renderer; among equals the first.
fn best(adapters: &[wgpu::Adapter]) -> usize {
    let rank = |a: &wgpu::Adapter| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (0..adapters.len()).min_by_key(|&i| (rank(&adapters[i]), i)).unwrap_or(0)
}

/// The adapter that `options` ask for.
///
/// # Errors
/// [`Error::NoDevice`]; [`Error::Invalid`] where none is the one; those of [`env::check`].
pub(super) fn choose(options: &DeviceOptions) -> Result<wgpu::Adapter> {
    env::check()?;
    let mut adapters = enumerate()?;
    let index = match options.selector.as_deref() {
        None => best(&adapters),
        Some(s) => select(options.selector_from, s, &adapters.iter().map(|a| a.get_info().name).collect::<Vec<_>>())?,
    };
    Ok(adapters.swap_remove(index))
}

fn no_device_hint() -> &'static str {
    if cfg!(target_os = "linux") {
        "no GPU found: install your GPU's Vulkan driver, or the software renderer (apt install mesa-vulkan-drivers, dnf install mesa-vulkan-drivers, pacman -S vulkan-swrast)"
    } else if cfg!(target_os = "windows") {
        "no GPU found: install your GPU's driver (DX12 or Vulkan)"
    } else {
        "no GPU found: rugosa needs Metal on macOS, DX12 or Vulkan elsewhere"
    }
}
