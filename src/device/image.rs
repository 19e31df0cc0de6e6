//! Images: copies of operands, from which a kernel loads four f32 at once.
//!
//! Software renderers walk over the lanes of a vector for each load from a buffer, but fetch texels for all of them
//! together: there a product that reads its operands through images is up to three times as fast (docs/notes/software-renderer.md).
//! A kernel says which of its bindings a variant reads so ([`Binding::image_if`](super::Binding::image_if)). Such an
//! operand is copied to scratch memory in front of the launch, unless a copy of it as it is now is there already.

use super::{Access, Device, Feature, Launch, RawBuffer, Slice};
use crate::error::Result;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Bytes of a texel: four f32.
pub const TEXEL: u64 = 16;
/// Texels in a row of an image. Texel i of the operand is at column `i % ROW` of row `i / ROW`, which shaders find with
/// `lib/image.wgsl`.
pub const ROW: u64 = 1024;
/// Bytes of an operand that is read as an image, at most. WebGPU grants twice as many rows.
pub const MOST: u64 = 4096 * ROW * TEXEL;
/// Their row of the ledger.
const WHAT: &str = "images";

/// The images of a device.
pub(super) struct Images {
    /// Bytes of an operand that becomes one, at most.
    most: AtomicU64,
    /// Whether there is one: asked at every launch, so without the lock.
    exist: AtomicBool,
    /// One for each binding: steps that launch the same get the same images, and with them the same bind groups. An input
    /// that several launches in a row read in one place is copied once.
    held: Mutex<Vec<Option<Image>>>,
}

impl Default for Images {
    fn default() -> Self {
        Images { most: AtomicU64::new(MOST), exist: AtomicBool::default(), held: Mutex::default() }
    }
}

struct Image {
    raw: RawBuffer,
    /// What it is a copy of: a buffer's id, and a range of bytes. None once that was written.
    of: Option<(u64, u64, u64)>,
}

impl Images {
    fn held(&self) -> MutexGuard<'_, Vec<Option<Image>>> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Slice {
    /// Whether it can be read as an image: it begins with a texel, its last one is the buffer's too, and there are not too
    /// many.
    pub fn suits_image(&self) -> bool {
        let len = self.len.next_multiple_of(TEXEL);
        self.offset.is_multiple_of(TEXEL) && self.offset + len <= self.raw.size && len <= MOST && !self.half
    }
}

impl Device {
    /// Whether a kernel that can should read `operand` as an image.
    pub(crate) fn loads_image(&self, operand: &Slice) -> bool {
        let most = self.0.images.most.load(Ordering::Relaxed);
        self.caps().has(Feature::Images) && operand.suits_image() && operand.len <= most
    }

    /// Lets operands over so many bytes stay buffers from now on, as those over [`MOST`] do: what large operands launch, small
    /// ones then launch too. `None` ends that.
    pub fn try_images(&self, most: Option<u64>) {
        self.0.images.most.store(most.unwrap_or(MOST).min(MOST), Ordering::Relaxed);
    }

    /// Runs `launch`, behind copies of the operands that its variant reads as images.
    pub(super) fn launch_with_images(&self, launch: &Launch<'_>) -> Result<()> {
        // held until the launch is recorded: another thread's copy must not come between
        let mut held = self.0.images.held();
        let mut bindings = launch.bindings.to_vec();
        for (i, binding) in bindings.iter_mut().enumerate().filter(|(i, _)| launch.spec.reads_image(*i)) {
            if held.len() <= i {
                held.resize_with(i + 1, || None);
            }
            let raw = self.image_of(&mut held[i], binding)?;
            *binding = Slice { offset: 0, len: raw.size, raw, half: false };
        }
        self.0.images.exist.store(true, Ordering::Relaxed);
        self.0.backend.launch(&Launch { bindings: &bindings, ..*launch })
    }

    /// The image in `place`, which holds `operand` from now on.
    fn image_of(&self, place: &mut Option<Image>, operand: &Slice) -> Result<RawBuffer> {
        let of = Some((operand.raw.id, operand.offset, operand.len));
        let raw = match place.take() {
            Some(image) if image.of == of => image.raw,
            held => {
                let raw = match held.map(|image| image.raw) {
                    Some(raw) if raw.size >= operand.len => raw,
                    small => {
                        self.free_images(small);
                        self.alloc_image(operand.len)?
                    }
                };
                self.0.backend.copy_to_image(operand, &raw)?;
                raw
            }
        };
        *place = Some(Image { raw: raw.clone(), of });
        Ok(raw)
    }

    /// Notes that `slice` is being written: copies of it are none any more.
    pub(super) fn note_write(&self, slice: &Slice) {
        if self.0.images.exist.load(Ordering::Relaxed) {
            let mut held = self.0.images.held();
            let stale = |image: &&mut Image| image.of.is_some_and(|(id, ..)| id == slice.raw.id);
            held.iter_mut().flatten().filter(stale).for_each(|image| image.of = None);
        }
    }

    /// Notes what `launch` writes.
    pub(super) fn note_writes(&self, launch: &Launch<'_>) {
        if self.0.images.exist.load(Ordering::Relaxed) {
            let bindings = launch.spec.kernel.bindings.iter().zip(launch.bindings);
            let written = bindings.filter(|(binding, _)| binding.access == Access::ReadWrite);
            written.for_each(|(_, slice)| self.note_write(slice));
        }
    }

    fn alloc_image(&self, bytes: u64) -> Result<RawBuffer> {
        // in steps, so that operands of nearly one size share an image
        let step = (bytes.next_power_of_two() / 8).max(ROW * TEXEL);
        let bytes = bytes.next_multiple_of(step);
        let mut pool = self.pool();
        let raw = self.take(&mut pool, bytes, WHAT, |bytes| self.0.backend.image(bytes))?;
        pool.ledger.add(WHAT, bytes);
        Ok(raw)
    }

    /// Gives the memory of all images back.
    pub(super) fn trim_images(&self) {
        let images = std::mem::take(&mut *self.0.images.held());
        self.free_images(images.into_iter().flatten().map(|image| image.raw));
    }

    fn free_images(&self, images: impl IntoIterator<Item = RawBuffer>) {
        let images: Vec<_> = images.into_iter().collect();
        let bytes = images.iter().map(|i| i.size).sum();
        let mut pool = self.pool();
        pool.ledger.remove(WHAT, bytes);
        pool.ledger.release(bytes);
        self.0.backend.forget(&images);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::spec::{read, write};
    use crate::device::{Buffer, Caps, Cost, Kernel, KernelSpec};

    static KERNEL: Kernel = Kernel {
        name: "test",
        source: "",
        file: "test.wgsl",
        bindings: &[read("a").image_if("A"), read("b").image_if("B"), write("c")],
        params_bytes: 0,
        needs: &[],
    };

    fn with_images() -> Device {
        let caps = Caps { features: vec![Feature::Images], ..DryBackend::caps_for_tests() };
        Device::new(Box::new(DryBackend::new(caps)))
    }

    fn launch(device: &Device, images: [u32; 2], bindings: [&Buffer; 3]) {
        let spec = &KernelSpec::new(&KERNEL, [("A", images[0]), ("B", images[1])]);
        let bindings = &bindings.map(Buffer::slice);
        device.launch(&Launch { spec, bindings, params: &[], groups: 1, cost: Cost::default() }).unwrap();
    }

    /// The image of a buffer's newest bytes, if there is one.
    fn image(device: &Device, buffer: &Buffer) -> Option<u64> {
        let held = device.0.images.held();
        held.iter().flatten().find(|i| i.of.is_some_and(|(id, ..)| id == buffer.slice().raw.id)).map(|i| i.raw.id)
    }

    #[test]
    fn a_copy_serves_until_its_operand_is_written() {
        let device = with_images();
        let [a, b, c] = [4096, 8192, 4096].map(|bytes| device.alloc(bytes, "test").unwrap());
        let writes: [&dyn Fn(); 5] = [
            &|| device.upload(&a.slice(), &[0; 16]).unwrap(),
            &|| device.copy(&c.slice(), &a.slice()).unwrap(),
            &|| device.clear(&a.slice()).unwrap(),
            &|| launch(&device, [0, 0], [&b, &b, &a]),
            &|| launch(&device, [0, 1], [&c, &b, &a]),
        ];
        for write in writes {
            launch(&device, [1, 1], [&a, &b, &c]);
            let images = [&a, &b].map(|operand| image(&device, operand));
            assert!(images[0].is_some() && images[1].is_some() && images[0] != images[1]);
            launch(&device, [1, 0], [&a, &b, &c]);
            assert_eq!([&a, &b].map(|operand| image(&device, operand)), images);
            write();
            assert_eq!([&a, &b].map(|operand| image(&device, operand)), [None, images[1]]);
        }
        // a buffer that comes back from the pool is known by what is written to it
        launch(&device, [1, 0], [&a, &b, &c]);
        assert_eq!(device.0.images.held().len(), 2);
        // what reads buffers alone makes none
        let other = with_images();
        launch(&other, [0, 0], [&a, &b, &c]);
        assert!(other.0.images.held().is_empty() && other.ledger().rows().next().is_none());
    }

    #[test]
    fn equal_steps_get_equal_images_and_the_ledger_knows_them() {
        let device = with_images();
        let out = device.alloc(64, "test").unwrap();
        let operands: Vec<Buffer> = (1..20).map(|i| device.alloc(i << 16, "test").unwrap()).collect();
        let held =
            || -> Vec<(u64, u64)> { device.0.images.held().iter().flatten().map(|i| (i.raw.id, i.raw.size)).collect() };
        let step = || -> Vec<_> {
            let pairs = operands.windows(2).map(|pair| {
                launch(&device, [1, 1], [&pair[0], &pair[1], &out]);
                held()
            });
            pairs.collect()
        };
        step();
        let second = step();
        assert_eq!(second, step());
        // one operand twice
        launch(&device, [1, 1], [&operands[18], &operands[18], &out]);
        let sizes: Vec<u64> = held().iter().map(|(_, size)| *size).collect();
        let row = |device: &Device| device.ledger().rows().find(|(what, _)| *what == WHAT).unwrap().1;
        assert!(sizes.len() == 2 && sizes.iter().all(|size| size.is_multiple_of(ROW * TEXEL)), "{sizes:?}");
        assert_eq!(row(&device).in_use, sizes.iter().sum::<u64>());
        let reserved = device.ledger().reserved();
        device.trim().unwrap();
        assert_eq!((row(&device).in_use, held().len()), (0, 0));
        assert_eq!(device.ledger().reserved(), reserved - sizes.iter().sum::<u64>());
    }

    #[test]
    fn what_has_no_whole_texels_or_too_many_stays_a_buffer() {
        let device = with_images();
        let buffer = device.alloc(4096, "test").unwrap();
        let suits = |offset, len| device.loads_image(&buffer.range(offset, len));
        assert_eq!([suits(0, 4096), suits(16, 64), suits(32, 30)], [true; 3]);
        assert_eq!([suits(4, 64), suits(8, 16)], [false; 2]);
        assert!(!device.loads_image(&Slice { half: true, ..buffer.slice() }));
        let large = device.alloc(MOST + 64, "test").unwrap();
        assert!(device.loads_image(&large.range(0, MOST)) && !device.loads_image(&large.range(0, MOST + 16)));
        device.try_images(Some(100));
        assert_eq!([suits(0, 100), suits(0, 116)], [true, false]);
        device.try_images(None);
        assert!(suits(0, 116));
        let without = Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())));
        assert!(!without.loads_image(&buffer.slice()));
    }
}
