//! Pipelines by specialisation, and the bind groups that go with them.

use super::image::Image;
use crate::device::hash::FastMap;
use crate::device::{Access, Kernel, KernelSpec, RawBuffer, Slice, shader};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a launch needs of a kernel.
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: Arc<Layout>,
}

/// Shared by all specialisations of a kernel.
pub(super) struct Layout {
    kernel: &'static str,
    groups: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

#[derive(Default)]
pub(super) struct Pipelines {
    /// By kernel and which of its bindings are images.
    layouts: HashMap<(&'static str, [bool; BINDINGS]), Arc<Layout>>,
    compiled: FastMap<KernelSpec, Arc<Pipeline>>,
}

impl Pipelines {
    pub fn get(&self, spec: &KernelSpec) -> Option<Arc<Pipeline>> {
        self.compiled.get(spec).cloned()
    }

    pub fn insert(&mut self, spec: KernelSpec, pipeline: Pipeline) -> Arc<Pipeline> {
        self.compiled.entry(spec).or_insert_with(|| Arc::new(pipeline)).clone()
    }

    /// The kernel's layout: its operands in order, then the parameters at a dynamic offset.
    pub fn layout(&mut self, device: &wgpu::Device, spec: &KernelSpec) -> Arc<Layout> {
        let images = std::array::from_fn(|i| spec.reads_image(i));
        let key = (spec.kernel.name, images);
        self.layouts.entry(key).or_insert_with(|| Arc::new(make_layout(device, spec.kernel, images))).clone()
    }
}

fn make_layout(device: &wgpu::Device, kernel: &'static Kernel, images: [bool; BINDINGS]) -> Layout {
    let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty,
        count: None,
    };
    let buffer = |ty, dynamic| wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None };
    let image = wgpu::BindingType::StorageTexture {
        access: wgpu::StorageTextureAccess::ReadOnly,
        format: wgpu::TextureFormat::Rgba32Float,
        view_dimension: wgpu::TextureViewDimension::D2,
    };
    let mut entries: Vec<_> = (kernel.bindings.iter().zip(images).enumerate())
        .map(|(i, (b, is_image))| {
            let read_only = b.access == Access::Read;
            let storage = buffer(wgpu::BufferBindingType::Storage { read_only }, false);
            entry(i, if is_image { image } else { storage })
        })
        .collect();
    entries.push(entry(kernel.bindings.len(), buffer(wgpu::BufferBindingType::Uniform, true)));
    let groups = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name),
        bind_group_layouts: &[Some(&groups)],
        immediate_size: 0,
    });
    Layout { kernel: kernel.name, groups, pipeline }
}

/// Compiles `spec`. Validation errors come back typed, with the kernel's name.
pub(super) fn compile(
    device: &wgpu::Device,
    cache: Option<&wgpu::PipelineCache>,
    layout: Arc<Layout>,
    spec: &KernelSpec,
) -> Result<Pipeline> {
    let name = spec.kernel.name;
    let text = shader::render(spec)?;
    shader::dump(spec, &text)?;
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    // SAFETY: every shader guards its own indices against the sizes in its parameters, and each host function checks
    // its slices against the same sizes before it launches; the kernel tests put guard words behind every output.
    // No loop runs longer than its parameters say.
    let module = unsafe {
        device.create_shader_module_trusted(
            wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(text.into()) },
            wgpu::ShaderRuntimeChecks::unchecked(),
        )
    };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(name),
        layout: Some(&layout.pipeline),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    });
    let errors = [pollster::block_on(internal.pop()), pollster::block_on(validation.pop())];
    match errors.into_iter().flatten().next() {
        Some(e) => Err(Error::Kernel { name: name.into(), reason: one_line(&e) }),
        None => Ok(Pipeline { pipeline, layout }),
    }
}

pub(super) fn one_line(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let s_text = s.to_string();
        if !text.contains(&s_text) {
            text = format!("{text}: {s_text}");
        }
        source = s.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Storage bindings of a kernel, at most: WebGPU's default limit.
const BINDINGS: usize = 8;

/// A kernel, and the (buffer, offset, length) that each of its bindings covers; zeros behind the last.
type BindKey = (&'static str, [(u64, u64, u64); BINDINGS]);

/// Bind groups by kernel and ranges. The pool hands the same buffers out in the same order every step, so after the
/// first steps every look-up hits.
#[derive(Default)]
pub(super) struct BindGroups {
    cache: FastMap<BindKey, wgpu::BindGroup>,
    pub created: u64,
}

impl BindGroups {
    /// Bound groups keep their buffers alive, so the cache is kept from growing without end.
    const MOST: usize = 1 << 16;

    pub fn get(
        &mut self,
        device: &wgpu::Device,
        layout: &Layout,
        slices: &[Slice],
        params: &wgpu::Buffer,
        params_bytes: u64,
    ) -> Result<wgpu::BindGroup> {
        if slices.len() > BINDINGS {
            return Err(Error::shape(layout.kernel, format!("{} bindings, at most {BINDINGS}", slices.len())));
        }
        let mut key = (layout.kernel, [(0, 0, 0); BINDINGS]);
        for (place, s) in key.1.iter_mut().zip(slices) {
            *place = (s.raw.id, s.offset, s.len);
        }
        if let Some(group) = self.cache.get(&key) {
            return Ok(group.clone());
        }
        if self.cache.len() >= Self::MOST {
            self.cache.clear();
        }
        let mut entries = Vec::with_capacity(slices.len() + 1);
        for (i, s) in slices.iter().enumerate() {
            entries.push(wgpu::BindGroupEntry { binding: i as u32, resource: resource(s)? });
        }
        let params = range(params, 0, params_bytes);
        entries.push(wgpu::BindGroupEntry { binding: slices.len() as u32, resource: params });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(layout.kernel),
            layout: &layout.groups,
            entries: &entries,
        });
        self.created += 1;
        self.cache.insert(key, group.clone());
        Ok(group)
    }

    /// Lets go of the groups that bind one of `buffers`.
    pub fn forget(&mut self, buffers: &[RawBuffer]) {
        let gone: HashSet<u64> = buffers.iter().map(|b| b.id).collect();
        self.cache.retain(|(_, bound), _| !bound.iter().any(|(id, ..)| gone.contains(id)));
    }
}

fn range(buffer: &wgpu::Buffer, offset: u64, len: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(len) })
}

/// What a launch binds for a slice: a range of a buffer, or a whole image.
fn resource(slice: &Slice) -> Result<wgpu::BindingResource<'_>> {
    match slice.raw.handle.downcast_ref::<Image>() {
        Some(image) => Ok(wgpu::BindingResource::TextureView(image.view())),
        None => Ok(range(raw(slice)?, slice.offset, slice.len)),
    }
}

/// The wgpu buffer behind a slice.
pub(super) fn raw(slice: &Slice) -> Result<&wgpu::Buffer> {
    slice.raw.handle.downcast_ref().ok_or_else(|| Error::shape("device", "a buffer of another backend"))
}
