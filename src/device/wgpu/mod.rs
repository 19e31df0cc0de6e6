//! The [`Backend`](super::Backend) over wgpu: Vulkan, Metal and DX12, software renderers included.

mod adapters;
mod backend;
mod cache;
mod image;
mod pipelines;
mod poll;
mod queue;

pub use adapters::list_adapters;
pub use backend::WgpuBackend;
