//! Python's operators.

use super::ast::Operator;
use super::limits::{self, LONGEST_LIST};
use super::text::{Origin, Text};
use super::value::{Kind, Outcome, Value, problem};
use super::{format, percent};
use std::rc::Rc;

/// `origin` is the template's own place, for what is formatted.
pub fn binary(operator: Operator, left: &Value, right: &Value, origin: Option<Origin>) -> Outcome<Value> {
    left.must_be_defined()?;
    right.must_be_defined()?;
    match (operator, left, right) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => return Ok(Value::text(joined(a, b))),
        (Operator::Add, Value::Seq(a @ (Kind::List | Kind::Tuple), x), Value::Seq(b, y)) if a == b => {
            if x.len() + y.len() > LONGEST_LIST {
                return too_long();
            }
            return Ok(Value::Seq(*a, Rc::new(x.iter().chain(y.iter()).cloned().collect())));
        }
        (Operator::Multiply, Value::Str(_) | Value::Seq(..), _) if right.as_int().is_some() => {
            return repeated(left, right.as_int().unwrap_or_default());
        }
        (Operator::Multiply, _, Value::Str(_) | Value::Seq(..)) if left.as_int().is_some() => {
            return repeated(right, left.as_int().unwrap_or_default());
        }
        (Operator::Modulo, Value::Str(text), _) => return Ok(Value::text(percent::format(text, right, origin)?)),
        _ => {}
    }
    match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
        (Some(a), Some(b), ..) if operator != Operator::Divide => integers(operator, a, b),
        (_, _, Some(a), Some(b)) => floats(operator, a, b),
        _ => {
            let (a, b) = (left.type_name(), right.type_name());
            if operator == Operator::Add && matches!(left, Value::Str(_)) {
                return problem(format!("can only concatenate str (not \"{b}\") to str"));
            }
            problem(format!("unsupported operand types for {}: '{a}' and '{b}'", sign(operator)))
        }
    }
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "**",
    }
}

/// What is added to a text that counts as safe is escaped.
fn joined(a: &Text, b: &Text) -> Text {
    let mut out = Text::default();
    out.safe = a.safe || b.safe;
    for text in [a, b] {
        if out.safe && !text.safe { out.push(&format::escaped(text)) } else { out.push(text) }
    }
    out
}

fn too_long<T>() -> Outcome<T> {
    problem(format!("a list of over {LONGEST_LIST} elements is too long"))
}

fn repeated(value: &Value, times: i128) -> Outcome<Value> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Str(text) => {
            let out = text.repeated(times);
            Ok(Value::text(out))
        }
        Value::Seq(kind @ (Kind::List | Kind::Tuple), items) => {
            if items.len().saturating_mul(times) > LONGEST_LIST {
                return too_long();
            }
            let times = if items.is_empty() { 0 } else { times };
            Ok(Value::Seq(*kind, Rc::new((0..times).flat_map(|_| items.iter().cloned()).collect())))
        }
        other => problem(format!("'{}' can't be repeated", other.type_name())),
    }
}

fn integers(operator: Operator, a: i128, b: i128) -> Outcome<Value> {
    let zero = || problem("division by zero");
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::FloorDivide | Operator::Modulo if b == 0 => return zero(),
        Operator::FloorDivide => a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q }),
        Operator::Modulo => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Operator::Power if b < 0 => return floats(operator, a as f64, b as f64),
        Operator::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Operator::Divide => return floats(operator, a as f64, b as f64),
    };
    result.map_or_else(|| problem("an integer grows too large"), |n| Ok(Value::Int(n)))
}

fn floats(operator: Operator, a: f64, b: f64) -> Outcome<Value> {
    if b == 0.0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) {
        return problem("division by zero");
    }
    let modulo = || {
        let r = a % b;
        if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
    };
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => ((a - modulo()) / b).round(),
        Operator::Modulo => modulo(),
        Operator::Power => a.powf(b),
    }))
}

pub fn negative(value: &Value) -> Outcome<Value> {
    value.must_be_defined()?;
    match (value.as_int(), value.as_float()) {
        (Some(i), _) => i.checked_neg().map_or_else(|| problem("an integer grows too large"), |i| Ok(Value::Int(i))),
        (_, Some(f)) => Ok(Value::Float(-f)),
        _ => problem(format!("bad operand type for unary -: '{}'", value.type_name())),
    }
}

pub fn positive(value: &Value) -> Outcome<Value> {
    value.must_be_defined()?;
    match (value.as_int(), value) {
        (Some(i), _) => Ok(Value::Int(i)),
        (_, Value::Float(_)) => Ok(value.clone()),
        _ => problem(format!("bad operand type for unary +: '{}'", value.type_name())),
    }
}

/// Python's `in`.
pub fn contains(container: &Value, value: &Value) -> Outcome<bool> {
    Ok(match (container, value) {
        (Value::Str(text), Value::Str(part)) => text.as_str().contains(part.as_str()),
        (Value::Str(_), other) => {
            return problem(format!("'in <string>' requires string as left operand, not {}", other.type_name()));
        }
        (Value::Dict(dict), key) => dict.find(key).is_some(),
        (Value::Undefined(_) | Value::Seq(..) | Value::Iter(_) | Value::Loop(_), value) => {
            container.items()?.iter().any(|item| limits::spend(1) && item.equals(value))
        }
        (other, _) => return problem(format!("argument of type '{}' is not iterable", other.type_name())),
    })
}
