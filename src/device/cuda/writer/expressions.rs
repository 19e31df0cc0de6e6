//! Values, and places in memory.

use super::statements::Body;
use super::types::{literal, scalar};
use super::{Written, global_name, math, named, unknown};
use naga::{
    BinaryOperator, CooperativeRole, Expression, Handle, RelationalFunction, ScalarKind, TypeInner, UnaryOperator,
};

type Expr = Handle<Expression>;

const COMPONENTS: [&str; 4] = ["x", "y", "z", "w"];

impl Body<'_> {
    pub(super) fn inner(&self, e: Expr) -> &TypeInner {
        self.info[e].ty.inner_with(&self.writer.module.types)
    }

    /// Whether it stands for a place in memory.
    pub(super) fn is_place(&self, e: Expr) -> bool {
        matches!(self.inner(e), TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. })
            || matches!(self.function.expressions[e], Expression::GlobalVariable(_))
    }

    /// Text that stands for an expression where it is used: the name that it was given, or itself.
    pub(super) fn value(&self, e: Expr) -> Written<String> {
        match self.names.get(&e) {
            Some(name) => Ok(name.clone()),
            None => self.text(e),
        }
    }

    /// The text that computes an expression.
    pub(super) fn text(&self, e: Expr) -> Written<String> {
        let writer = self.writer;
        Ok(match &self.function.expressions[e] {
            Expression::Literal(value) => literal(*value)?,
            Expression::Constant(constant) => writer.constant(writer.module.constants[*constant].init)?,
            Expression::ZeroValue(ty) => writer.zero(*ty)?,
            Expression::Compose { ty, components } => self.compose(*ty, components)?,
            Expression::Splat { size, value } => {
                format!("{}{{{}}}", self.type_text(e)?, vec![self.value(*value)?; *size as usize].join(", "))
            }
            Expression::Swizzle { size, vector, pattern } => {
                let vector = self.value(*vector)?;
                let parts: Vec<String> = pattern[..*size as usize]
                    .iter()
                    .map(|c| format!("({vector}).{}", COMPONENTS[*c as usize]))
                    .collect();
                format!("{}{{{}}}", self.type_text(e)?, parts.join(", "))
            }
            Expression::Access { base, index } => {
                let (place, base, index) = (self.is_place(*base), self.value(*base)?, self.value(*index)?);
                if place { format!("{base}[{index}]") } else { format!("({base}).at({index})") }
            }
            Expression::AccessIndex { base, index } => self.access(*base, *index)?,
            Expression::FunctionArgument(i) => {
                named(self.function.arguments[*i as usize].name.as_ref(), "argument", *i as usize)
            }
            Expression::GlobalVariable(global) => global_name(&writer.module.global_variables[*global]),
            Expression::LocalVariable(local) => self.local_name(*local),
            Expression::Load { pointer } => {
                let place = self.value(*pointer)?;
                if self.is_atomic(*pointer) { format!("atomic_load({place})") } else { place }
            }
            Expression::Unary { op, expr } => {
                let op = match op {
                    UnaryOperator::Negate => "-",
                    UnaryOperator::LogicalNot => "!",
                    UnaryOperator::BitwiseNot => "~",
                };
                format!("{op}({})", self.value(*expr)?)
            }
            Expression::Binary { op, left, right } => self.binary(*op, *left, *right)?,
            Expression::Select { condition, accept, reject } => {
                let [c, a, r] = [self.value(*condition)?, self.value(*accept)?, self.value(*reject)?];
                match self.inner(*condition) {
                    TypeInner::Vector { .. } => format!("w_select({r}, {a}, {c})"),
                    _ => format!("({c} ? {a} : {r})"),
                }
            }
            Expression::Relational { fun, argument } => {
                let argument = self.value(*argument)?;
                match fun {
                    RelationalFunction::All => format!("w_all({argument})"),
                    RelationalFunction::Any => format!("w_any({argument})"),
                    other => return unknown(other),
                }
            }
            Expression::Math { fun, arg, arg1, arg2, arg3: None } => {
                let arguments = [Some(*arg), *arg1, *arg2].into_iter().flatten();
                let arguments = arguments.map(|a| self.value(a)).collect::<Written<Vec<_>>>()?;
                format!("{}({})", math::name(*fun)?, arguments.join(", "))
            }
            Expression::As { expr, kind, convert } => self.cast(e, *expr, *kind, convert.is_some())?,
            Expression::CooperativeLoad { role, data, .. } => {
                let load = match role {
                    CooperativeRole::A => "load_a",
                    CooperativeRole::B => "load_b",
                    CooperativeRole::C => "load_c",
                };
                let (from, stride) = (self.value(data.pointer)?, self.value(data.stride)?);
                format!("{load}<{}>({from}, {stride})", data.row_major)
            }
            Expression::CooperativeMultiplyAdd { a, b, c } => {
                format!("multiply_add({}, {}, {})", self.value(*a)?, self.value(*b)?, self.value(*c)?)
            }
            other => return unknown(other),
        })
    }

    pub(super) fn type_text(&self, e: Expr) -> Written<String> {
        self.writer.resolved(&self.info[e].ty)
    }

    pub(super) fn is_atomic(&self, pointer: Expr) -> bool {
        let types = &self.writer.module.types;
        matches!(self.inner(pointer), TypeInner::Pointer { base, .. } if matches!(types[*base].inner, TypeInner::Atomic(_)))
    }

    /// A value of its parts; of vectors among a vector's parts the components.
    fn compose(&self, ty: Handle<naga::Type>, components: &[Expr]) -> Written<String> {
        let is_vector = matches!(self.writer.module.types[ty].inner, TypeInner::Vector { .. });
        let mut parts = Vec::new();
        for &component in components {
            let value = self.value(component)?;
            match self.inner(component) {
                TypeInner::Vector { size, .. } if is_vector => {
                    parts.extend(COMPONENTS[..*size as usize].iter().map(|c| format!("({value}).{c}")));
                }
                _ => parts.push(value),
            }
        }
        Ok(format!("{}{{{}}}", self.writer.type_of(ty)?, parts.join(", ")))
    }

    /// A component, an element or a member, whose number is known.
    fn access(&self, base: Expr, index: u32) -> Written<String> {
        let (text, types) = (self.value(base)?, &self.writer.module.types);
        let inner = match self.inner(base) {
            TypeInner::Pointer { base, .. } => &types[*base].inner,
            TypeInner::ValuePointer { size: Some(_), .. } => {
                return Ok(format!("({text}).{}", COMPONENTS[index as usize]));
            }
            inner => inner,
        };
        Ok(match inner {
            TypeInner::Vector { .. } => format!("({text}).{}", COMPONENTS[index as usize]),
            TypeInner::Array { .. } if self.is_place(base) => format!("{text}[{index}u]"),
            TypeInner::Array { .. } => format!("({text}).at({index}u)"),
            TypeInner::Struct { members, .. } => {
                format!("({text}).{}", named(members[index as usize].name.as_ref(), "member", index as usize))
            }
            other => return unknown(other),
        })
    }

    fn binary(&self, op: BinaryOperator, left: Expr, right: Expr) -> Written<String> {
        use BinaryOperator as Op;
        let is_float = self.inner(left).scalar_kind() == Some(ScalarKind::Float);
        let op = match op {
            Op::Add => "+",
            Op::Subtract => "-",
            Op::Multiply => "*",
            Op::Divide => "/",
            Op::Modulo if !is_float => "%",
            Op::Equal => "==",
            Op::NotEqual => "!=",
            Op::Less => "<",
            Op::LessEqual => "<=",
            Op::Greater => ">",
            Op::GreaterEqual => ">=",
            Op::And => "&",
            Op::ExclusiveOr => "^",
            Op::InclusiveOr => "|",
            Op::LogicalAnd => "&&",
            Op::LogicalOr => "||",
            Op::ShiftLeft => "<<",
            Op::ShiftRight => ">>",
            Op::Modulo => return unknown(op),
        };
        Ok(format!("({} {op} {})", self.value(left)?, self.value(right)?))
    }

    /// Numbers converted, or bits taken for another type.
    fn cast(&self, e: Expr, from: Expr, kind: ScalarKind, converts: bool) -> Written<String> {
        let to = match self.inner(e) {
            TypeInner::Scalar(s) | TypeInner::Vector { scalar: s, .. } => scalar(*s)?,
            other => return unknown(other),
        };
        let value = self.value(from)?;
        match (converts, kind) {
            (true, _) => Ok(format!("to<{to}>({value})")),
            (false, ScalarKind::Uint | ScalarKind::Sint | ScalarKind::Float) => Ok(format!("bits<{to}>({value})")),
            (false, other) => unknown(other),
        }
    }
}
