//! From a kernel's WGSL text to CUDA C++: naga parses and checks the text, and what it makes of it is written out again.
//!
//! Every function takes the bindings that it uses as arguments; values become constants `e1`, `e2`, …; places in memory stay
//! expressions, which C++ can assign to. What naga knows and this writer does not is an error, which names it. `prelude.cuh` has WGSL's
//! types and functions.

mod expressions;
mod math;
mod statements;
mod types;

use crate::device::shader;
use crate::device::{Feature, KernelSpec};
use crate::error::{Error, Result};
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, BuiltIn, Function, GlobalVariable, Handle, Module, StorageAccess, TypeInner};
use statements::Body;
use std::fmt::Write;

/// A kernel's text, and what a launch has to know of it.
pub struct Translation {
    /// CUDA C++ without includes.
    pub text: String,
    /// The name of its entry point: the kernel's, as profilers show it.
    pub entry: String,
    /// Threads of a workgroup, which CUDA calls a block.
    pub threads: u32,
}

/// Whether there is a CUDA form of `spec` to be had: images and fragments other than those of 16 × 16 are other devices'.
pub fn applies(spec: &KernelSpec) -> bool {
    let images = (0..spec.kernel.bindings.len()).any(|i| spec.reads_image(i));
    let fragment = spec.kernel.needs.contains(&Feature::CoopMatrix) && spec.get("FRAG") != Some(16);
    !images && !fragment
}

/// The CUDA form of `spec`. Its arguments are a pointer for each binding, then the parameters by value.
///
/// # Errors
/// [`Error::Kernel`] with what the text has that has no CUDA form, or with what naga finds wrong with it.
pub fn translate(spec: &KernelSpec) -> Result<Translation> {
    let fail = |reason: String| Error::Kernel { name: spec.kernel.name.into(), reason };
    let text = shader::render(spec)?;
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| fail(one_line(&e.emit_to_string(&text))))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module);
    let info = info.map_err(|e| fail(one_line(&e.emit_to_string(&text))))?;
    // no name of CUDA's own begins so
    let entry = format!("rugosa_{}", spec.kernel.name);
    write(&module, &info, entry).map_err(|Unknown(what)| fail(format!("no CUDA form of {what}")))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A construct that the writer does not know.
#[derive(Debug)]
struct Unknown(String);

type Written<T> = std::result::Result<T, Unknown>;

/// The error for something that only shows as a debug text.
fn unknown<T>(what: impl std::fmt::Debug) -> Written<T> {
    Err(Unknown(format!("{what:?}")))
}

/// What is written, and from what.
struct Writer<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
}

fn write(module: &Module, info: &ModuleInfo, name: String) -> Written<Translation> {
    let writer = Writer { module, info };
    let [entry] = module.entry_points.as_slice() else { return unknown("several entry points") };
    let [threads, 1, 1] = entry.workgroup_size else { return unknown(entry.workgroup_size) };
    let mut out = String::from(include_str!("prelude.cuh"));
    writer.structs(&mut out)?;
    for (handle, global) in module.global_variables.iter() {
        if global.space == AddressSpace::WorkGroup && writer.uses(handle) {
            let _ = writeln!(out, "__shared__ __align__(16) {} {};", writer.type_of(global.ty)?, global_name(global)); // to a String
        }
    }
    for (handle, function) in module.functions.iter() {
        writer.function(&mut out, function, &info[handle])?;
    }
    writer.entry(&mut out, &name, &entry.function, (info.get_entry_point(0), threads))?;
    Ok(Translation { text: out, entry: name, threads })
}

/// A name that is no keyword of C++ and no name of the prelude.
fn named(name: Option<&String>, otherwise: &str, number: usize) -> String {
    match name {
        Some(name) => format!("{name}_"),
        None => format!("{otherwise}{number}_"),
    }
}

fn global_name(global: &GlobalVariable) -> String {
    named(global.name.as_ref(), "global", 0)
}

impl Writer<'_> {
    /// Whether any code touches the global.
    fn uses(&self, global: Handle<GlobalVariable>) -> bool {
        let functions = self.module.functions.iter().map(|(f, _)| &self.info[f]);
        functions.chain([self.info.get_entry_point(0)]).any(|info| !info[global].is_empty())
    }

    /// Bindings in order; what lies elsewhere is no argument.
    fn bindings(&self) -> Vec<(Handle<GlobalVariable>, &GlobalVariable)> {
        let mut bound: Vec<_> = self.module.global_variables.iter().filter(|(_, g)| g.binding.is_some()).collect();
        bound.sort_by_key(|(_, g)| g.binding.map(|b| b.binding));
        bound
    }

    /// How a binding is declared as an argument of a kernel (`true`) or of a function.
    fn argument(&self, global: &GlobalVariable, of_kernel: bool) -> Written<String> {
        let name = global_name(global);
        match (global.space, &self.module.types[global.ty].inner) {
            (AddressSpace::Storage { access }, TypeInner::Array { base, size: naga::ArraySize::Dynamic, .. }) => {
                let constant = if access.contains(StorageAccess::STORE) { "" } else { "const " };
                Ok(format!("{constant}{}* __restrict__ {name}", self.type_of(*base)?))
            }
            (AddressSpace::Uniform, _) => {
                let ty = self.type_of(global.ty)?;
                Ok(if of_kernel {
                    format!("const __grid_constant__ {ty} {name}")
                } else {
                    format!("const {ty}& {name}")
                })
            }
            (space, inner) => unknown((space, inner)),
        }
    }

    /// The bindings that a function uses itself or by way of others.
    fn used(&self, info: &FunctionInfo) -> Vec<&GlobalVariable> {
        self.bindings().into_iter().filter(|(handle, _)| !info[*handle].is_empty()).map(|(_, global)| global).collect()
    }

    fn function(&self, out: &mut String, function: &Function, info: &FunctionInfo) -> Written<()> {
        let mut arguments = Vec::new();
        for (i, argument) in function.arguments.iter().enumerate() {
            let name = named(argument.name.as_ref(), "argument", i);
            arguments.push(match &self.module.types[argument.ty].inner {
                TypeInner::Pointer { base, .. } => format!("{}& {name}", self.type_of(*base)?),
                _ => format!("const {} {name}", self.type_of(argument.ty)?),
            });
        }
        for global in self.used(info) {
            arguments.push(self.argument(global, false)?);
        }
        let result = function.result.as_ref().map_or(Ok("void".into()), |r| self.type_of(r.ty))?;
        let name = named(function.name.as_ref(), "function", 0);
        let _ = writeln!(out, "FN {result} {name}({}) {{", arguments.join(", "));
        self.body(out, function, info)
    }

    fn entry(
        &self,
        out: &mut String,
        name: &str,
        function: &Function,
        (info, threads): (&FunctionInfo, u32),
    ) -> Written<()> {
        let arguments: Vec<String> =
            self.bindings().iter().map(|(_, global)| self.argument(global, true)).collect::<Written<_>>()?;
        let bounds = format!("extern \"C\" __global__ void __launch_bounds__({threads})");
        let _ = writeln!(out, "{bounds} {name}({}) {{", arguments.join(", "));
        for (i, argument) in function.arguments.iter().enumerate() {
            let value = match argument.binding {
                Some(naga::Binding::BuiltIn(builtin)) => match builtin {
                    BuiltIn::WorkGroupId => "{blockIdx.x, blockIdx.y, blockIdx.z}",
                    BuiltIn::NumWorkGroups => "{gridDim.x, gridDim.y, gridDim.z}",
                    BuiltIn::LocalInvocationIndex => "threadIdx.x",
                    BuiltIn::LocalInvocationId => "{threadIdx.x, 0u, 0u}",
                    BuiltIn::SubgroupInvocationId => "lane_of()",
                    BuiltIn::SubgroupId => "threadIdx.x >> 5u",
                    BuiltIn::SubgroupSize => "32u",
                    other => return unknown(other),
                },
                _ => return unknown(argument),
            };
            let name = named(argument.name.as_ref(), "argument", i);
            let _ = writeln!(out, "    const {} {name} = {value};", self.type_of(argument.ty)?);
        }
        self.body(out, function, info)
    }

    fn body(&self, out: &mut String, function: &Function, info: &FunctionInfo) -> Written<()> {
        let mut body = Body::new(self, function, info);
        body.locals()?;
        body.block(&function.body)?;
        out.push_str(&body.out);
        out.push_str("}\n");
        Ok(())
    }
}
