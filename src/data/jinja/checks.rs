//! Jinja's tests: what follows `is`.

use super::call::Arguments;
use super::eval::is_indexed;
use super::operators;
use super::run::Run;
use super::value::{Outcome, Value, problem};
use super::{format, strings};
use std::cmp::Ordering;
use std::rc::Rc;

impl Run {
    pub fn test(&mut self, name: &str, value: &Value, args: Arguments) -> Outcome<bool> {
        self.step(value.weight())?;
        if let Some(comparison) = compared(name) {
            let [other] = args.take(name, ["other"])?;
            let Some(other) = other else { return problem(format!("test '{name}' takes a value")) };
            return comparison(value, &other);
        }
        if matches!(name, "divisibleby" | "filter" | "test") {
            let [other] = args.take(name, ["value"])?;
            return match (name, other, value) {
                ("divisibleby", Some(n), _) => {
                    let rest = operators::binary(super::ast::Operator::Modulo, value, &n, None)?;
                    Ok(rest.equals(&Value::Int(0)))
                }
                ("filter", None, Value::Str(text)) => Ok(super::filters::FILTERS.contains(&text.as_str())),
                ("test", None, Value::Str(text)) => {
                    Ok(unary(text.as_str(), &Value::None).is_some() || compared(text.as_str()).is_some())
                }
                _ => problem(format!("test '{name}' has the wrong arguments")),
            };
        }
        let [] = args.take(name, [])?;
        match unary(name, value) {
            Some(answer) => answer,
            None => problem(format!("no test named '{name}'")),
        }
    }
}

type Comparison = fn(&Value, &Value) -> Outcome<bool>;

fn compared(name: &str) -> Option<Comparison> {
    Some(match name {
        "eq" | "equalto" | "==" => |a, b| Ok(a.equals(b)),
        "ne" | "!=" => |a, b| Ok(!a.equals(b)),
        "lt" | "lessthan" | "<" => |a, b| Ok(a.compare(b)?.is_some_and(Ordering::is_lt)),
        "le" | "<=" => |a, b| Ok(a.compare(b)?.is_some_and(Ordering::is_le)),
        "gt" | "greaterthan" | ">" => |a, b| Ok(a.compare(b)?.is_some_and(Ordering::is_gt)),
        "ge" | ">=" => |a, b| Ok(a.compare(b)?.is_some_and(Ordering::is_ge)),
        "in" => |a, b| operators::contains(b, a),
        "sameas" => |a, b| Ok(same(a, b)),
        _ => return None,
    })
}

/// Python's `is`: one object. Small integers are one in Python, other numbers are not.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b && (-5..=256).contains(a),
        (Value::Str(a), Value::Str(b)) => Rc::ptr_eq(a, b),
        (Value::Seq(_, a), Value::Seq(_, b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::None, Value::None) => true,
        (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::None, _) => false,
        _ => a.equals(b),
    }
}

fn unary(name: &str, value: &Value) -> Option<Outcome<bool>> {
    Some(Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        // what has a length and takes an index: an undefined value has both
        "sequence" => match value {
            Value::Seq(kind, _) => is_indexed(*kind),
            Value::Str(_) | Value::Dict(_) | Value::Undefined(_) => true,
            _ => false,
        },
        "iterable" => matches!(
            value,
            Value::Str(_) | Value::Seq(..) | Value::Dict(_) | Value::Iter(_) | Value::Loop(_) | Value::Undefined(_)
        ),
        "callable" => matches!(value, Value::Call(_) | Value::Loop(_) | Value::Undefined(_)),
        "escaped" => value.as_text().is_some_and(|t| t.safe),
        "odd" | "even" => {
            return Some(
                operators::binary(super::ast::Operator::Modulo, value, &Value::Int(2), None)
                    .map(|rest| rest.equals(&Value::Int(i128::from(name == "odd")))),
            );
        }
        "lower" | "upper" => {
            return Some(
                format::str(value, None)
                    .and_then(|text| Ok(strings::method(&text, &format!("is{name}"), Arguments::default())?.truth())),
            );
        }
        _ => return None,
    }))
}
