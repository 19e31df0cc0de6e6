//! Types and constants.

use super::{Unknown, Writer, Written, named, unknown};
use naga::proc::TypeResolution;
use naga::{
    ArraySize, CooperativeRole, CooperativeSize, Expression, Handle, Literal, Scalar, ScalarKind, Type, TypeInner,
};
use std::fmt::Write;

/// C++'s name of a scalar type.
pub(super) fn scalar(scalar: Scalar) -> Written<&'static str> {
    Ok(match (scalar.kind, scalar.width) {
        (ScalarKind::Bool, _) => "bool",
        (ScalarKind::Uint, 4) => "u32",
        (ScalarKind::Sint, 4) => "i32",
        (ScalarKind::Uint, 8) => "u64",
        (ScalarKind::Sint, 8) => "i64",
        (ScalarKind::Float, 2) => "f16",
        (ScalarKind::Float, 4) => "f32",
        _ => return unknown(scalar),
    })
}

impl Writer<'_> {
    /// Structs, and that the parameters lie as the host lays them out.
    pub(super) fn structs(&self, out: &mut String) -> Written<()> {
        for (handle, ty) in self.module.types.iter() {
            let TypeInner::Struct { members, span } = &ty.inner else { continue };
            let name = self.type_of(handle)?;
            let is_uniform = self.module.global_variables.iter().any(|(_, g)| g.ty == handle && g.binding.is_some());
            let _ = writeln!(out, "struct {name} {{"); // writing to a String cannot fail
            for (i, member) in members.iter().enumerate() {
                let _ = writeln!(out, "    {} {};", self.type_of(member.ty)?, named(member.name.as_ref(), "member", i));
            }
            out.push_str("};\n");
            if is_uniform {
                self.laid_out_alike(members)?;
                let _ = writeln!(out, "static_assert(sizeof({name}) == {span}, \"{name}\");");
            }
        }
        Ok(())
    }

    /// That C++ lays members of the parameters where WGSL does, and with it the host.
    fn laid_out_alike(&self, members: &[naga::StructMember]) -> Written<()> {
        let mut end = 0u32;
        for member in members {
            let (bytes, alignment) = match &self.module.types[member.ty].inner {
                TypeInner::Scalar(s) => (u32::from(s.width), u32::from(s.width)),
                // three take the room of four
                TypeInner::Vector { size, scalar: s } => {
                    let bytes = u32::from((*size as u8).next_power_of_two() * s.width);
                    (bytes, bytes)
                }
                other => return unknown(other),
            };
            if end.next_multiple_of(alignment) != member.offset {
                return unknown(member);
            }
            end = member.offset + bytes;
        }
        Ok(())
    }

    pub(super) fn type_of(&self, handle: Handle<Type>) -> Written<String> {
        match &self.module.types[handle] {
            Type { name, inner: TypeInner::Struct { .. } } => Ok(named(name.as_ref(), "Struct", handle.index())),
            Type { inner, .. } => self.type_named(inner),
        }
    }

    pub(super) fn resolved(&self, ty: &TypeResolution) -> Written<String> {
        match ty {
            TypeResolution::Handle(handle) => self.type_of(*handle),
            TypeResolution::Value(inner) => self.type_named(inner),
        }
    }

    pub(super) fn type_named(&self, inner: &TypeInner) -> Written<String> {
        Ok(match inner {
            TypeInner::Scalar(s) | TypeInner::Atomic(s) => scalar(*s)?.into(),
            TypeInner::Vector { size, scalar: s } => format!("vec{}<{}>", *size as u8, scalar(*s)?),
            TypeInner::Array { base, size: ArraySize::Constant(n), .. } => {
                format!("array<{}, {n}>", self.type_of(*base)?)
            }
            TypeInner::CooperativeMatrix { columns, rows, scalar: s, role } => {
                if [*columns, *rows] != [CooperativeSize::Sixteen; 2] {
                    return unknown(inner);
                }
                match (role, scalar(*s)?) {
                    (CooperativeRole::A, "f16") => "mat_a",
                    (CooperativeRole::B, "f16") => "mat_b",
                    (CooperativeRole::C, "f32") => "mat_c",
                    _ => return unknown(inner),
                }
                .into()
            }
            _ => return unknown(inner),
        })
    }

    /// A zero of a type.
    pub(super) fn zero(&self, ty: Handle<Type>) -> Written<String> {
        let name = self.type_of(ty)?;
        Ok(match &self.module.types[ty].inner {
            TypeInner::CooperativeMatrix { .. } => format!("{name}::zero()"),
            TypeInner::Scalar(s) if *s == Scalar::F16 => "f16(0.0f)".into(),
            TypeInner::Scalar(_) => format!("{name}(0)"),
            _ => format!("{name}{{}}"),
        })
    }

    /// A constant expression of the module.
    pub(super) fn constant(&self, handle: Handle<Expression>) -> Written<String> {
        match &self.module.global_expressions[handle] {
            Expression::Literal(value) => literal(*value),
            Expression::Constant(constant) => self.constant(self.module.constants[*constant].init),
            Expression::ZeroValue(ty) => self.zero(*ty),
            Expression::Compose { ty, components } => {
                let parts = components.iter().map(|c| self.constant(*c)).collect::<Written<Vec<_>>>()?;
                Ok(format!("{}{{{}}}", self.type_of(*ty)?, parts.join(", ")))
            }
            Expression::Splat { size, value } => {
                let value = self.constant(*value)?;
                Ok(format!("vec{}{{{}}}", *size as u8, vec![value; *size as usize].join(", ")))
            }
            other => unknown(other),
        }
    }
}

/// A literal, to the bit.
pub(super) fn literal(value: Literal) -> Written<String> {
    Ok(match value {
        Literal::F32(x) if x.is_finite() => format!("({x:?}f)"),
        Literal::F32(x) => format!("__uint_as_float({}u)", x.to_bits()),
        Literal::F16(x) => format!("f16::of_bits({})", x.to_bits()),
        Literal::U32(x) => format!("{x}u"),
        Literal::I32(x) => format!("i32({x}ll)"),
        Literal::U64(x) => format!("{x}ull"),
        Literal::Bool(x) => x.to_string(),
        other => return Err(Unknown(format!("{other:?}"))),
    })
}
