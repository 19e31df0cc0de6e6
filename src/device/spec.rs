//! Kernels as data: what a shader binds, how it is specialised, how it is launched.

use super::{Feature, Slice};
use crate::error::{Error, Result};
use std::fmt;
use std::hash::{Hash, Hasher};

/// How a kernel touches a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    ReadWrite,
}

/// One operand of a kernel, in the order of `@binding`: a storage buffer, or an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    pub name: &'static str,
    pub access: Access,
    /// The constant that is 1 in variants to which this binding is pairs of f16; without one it is words in all.
    pub half: Option<&'static str>,
    /// The constant that is 1 in variants which read this binding as an [image](super::image).
    pub image: Option<&'static str>,
}

/// A binding that is only read.
pub const fn read(name: &'static str) -> Binding {
    Binding { name, access: Access::Read, half: None, image: None }
}

/// A binding that is written, and may be read.
pub const fn write(name: &'static str) -> Binding {
    Binding { name, access: Access::ReadWrite, half: None, image: None }
}

impl Binding {
    /// Pairs of f16 where `constant` is 1.
    pub const fn half_if(self, constant: &'static str) -> Binding {
        Binding { half: Some(constant), ..self }
    }

    /// An image of f32 in fours where `constant` is 1.
    pub const fn image_if(self, constant: &'static str) -> Binding {
        Binding { image: Some(constant), ..self }
    }
}

/// A shader and its interface. The entry point is `main`; the parameters are a uniform buffer `p` behind the last
/// storage binding, and start with [`Grid`].
pub struct Kernel {
    /// Unique; labels pipelines, errors and profiles.
    pub name: &'static str,
    /// Text of the file under `shaders/`.
    pub source: &'static str,
    /// The file's path under `shaders/`, for messages.
    pub file: &'static str,
    pub bindings: &'static [Binding],
    /// Bytes of the parameters.
    pub params_bytes: usize,
    /// Optional features that it is launched only with.
    pub needs: &'static [Feature],
}

impl fmt::Debug for Kernel {
    /// The name: the text would fill pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// A kernel and the constants that specialise it: the whole key of the pipeline cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    pub kernel: &'static Kernel,
    /// Seen by the shader text as WGSL constants (`u32`) and by its template as numbers.
    pub consts: Vec<(&'static str, u32)>,
}

impl KernelSpec {
    pub fn new(kernel: &'static Kernel, consts: impl Into<Vec<(&'static str, u32)>>) -> Self {
        KernelSpec { kernel, consts: consts.into() }
    }

    /// Optional features that it is launched only with: the kernel's, and those of variants of kernels with nothing else to ask
    /// for: [`Feature::Int64`] where `PAIRS` is 1 and two f32 are loaded at once, [`Feature::Subgroup`] where `SUBGROUP` is 1.
    pub fn needs(&self) -> Vec<Feature> {
        let variant = [("PAIRS", Feature::Int64), ("SUBGROUP", Feature::Subgroup)];
        let variant = variant.into_iter().filter(|(name, _)| self.get(name) == Some(1)).map(|(_, feature)| feature);
        self.kernel.needs.iter().copied().chain(variant).collect()
    }

    /// Whether the variant reads binding `i` as an image.
    pub fn reads_image(&self, i: usize) -> bool {
        let constant = self.kernel.bindings.get(i).and_then(|b| b.image);
        constant.is_some_and(|name| self.get(name) == Some(1))
    }

    /// The value of a constant.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.consts.iter().find(|c| c.0 == name).map(|c| c.1)
    }
}

/// The first words of every kernel's parameters, filled in at launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Grid {
    /// Index of this dispatch's first workgroup: a long launch is cut into several dispatches.
    pub base: u32,
    /// Workgroups of the whole launch; those past it return at once.
    pub groups: u32,
}

/// The work of a launch, for time budgets and profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

/// A kernel to run now.
pub struct Launch<'a> {
    pub spec: &'a KernelSpec,
    /// One slice a binding, in order.
    pub bindings: &'a [Slice],
    /// The parameters' bytes; [`Grid`] at the front is overwritten.
    pub params: &'a [u8],
    /// Workgroups, in one dimension; folded into two where the device's limit asks for it.
    pub groups: u64,
    pub cost: Cost,
}

impl Launch<'_> {
    /// Whether each slice holds what the variant takes it for: words, or pairs of f16.
    pub(super) fn check_elements(&self) -> Result<()> {
        let kernel = self.spec.kernel;
        for (binding, slice) in kernel.bindings.iter().zip(self.bindings) {
            let half = binding.half.is_some_and(|constant| self.spec.get(constant) == Some(1));
            if half != slice.half {
                let (found, wanted) = if half { ("words", "f16") } else { ("f16", "words") };
                let reason = format!("{} holds {found} where this variant takes {wanted}", binding.name);
                return Err(Error::shape(kernel.name, reason));
            }
        }
        Ok(())
    }
}
