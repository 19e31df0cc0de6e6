//! Operands as textures.

use crate::device::image::{ROW, TEXEL};

/// An image and how kernels see it: texels of four f32.
pub(super) struct Image {
    texture: wgpu::Texture,
    view: wgpu::TextureView,
}

/// Bytes of a row.
const ROW_BYTES: u64 = ROW * TEXEL;

impl Image {
    /// `bytes` is a multiple of a row.
    pub fn new(device: &wgpu::Device, bytes: u64) -> Self {
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("image"),
            size: extent(ROW, bytes / ROW_BYTES),
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Image { texture, view }
    }

    pub fn view(&self) -> &wgpu::TextureView {
        &self.view
    }

    /// Records the copy of `len` bytes of `buffer` from `offset` on: whole rows, then what is left of one.
    pub fn copy_from(&self, encoder: &mut wgpu::CommandEncoder, buffer: &wgpu::Buffer, offset: u64, len: u64) {
        let (rows, rest) = (len / ROW_BYTES, (len % ROW_BYTES).div_ceil(TEXEL));
        for (y, width, height) in [(0, ROW, rows), (rows, rest, 1)] {
            if width * height == 0 {
                continue;
            }
            let layout = wgpu::TexelCopyBufferLayout {
                offset: offset + y * ROW_BYTES,
                bytes_per_row: Some(ROW_BYTES as u32),
                rows_per_image: None,
            };
            let origin = wgpu::Origin3d { x: 0, y: y as u32, z: 0 };
            let to = wgpu::TexelCopyTextureInfo { origin, ..self.texture.as_image_copy() };
            encoder.copy_buffer_to_texture(wgpu::TexelCopyBufferInfo { buffer, layout }, to, extent(width, height));
        }
    }
}

fn extent(width: u64, height: u64) -> wgpu::Extent3d {
    wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 }
}
