//! `value.name`, `value[key]` and `value[a:b:c]`, with what Python's own objects have.

use super::call::Callable;
use super::eval::is_indexed;
use super::limits::LONGEST_LIST;
use super::value::{Kind, LoopState, Outcome, Value, problem};
use std::rc::Rc;

const LIST: [&str; 3] = ["copy", "count", "index"];
/// What changes a value in place; Jinja's sandbox forbids it.
const LIST_UNSAFE: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const DICT: [&str; 5] = ["copy", "get", "items", "keys", "values"];
const DICT_UNSAFE: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Jinja's way: an attribute, else an item, else undefined.
pub fn attribute(value: &Value, name: &str) -> Outcome<Value> {
    value.must_be_defined()?;
    if let Some(found) = own(value, name) {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = dict.get(name)
    {
        return Ok(found.clone());
    }
    Ok(missing(value, name))
}

/// An item, else an attribute, else undefined.
pub fn item(value: &Value, key: &Value) -> Outcome<Value> {
    value.must_be_defined()?;
    let found = match (value, key.as_int()) {
        (Value::Dict(dict), _) => dict.find(key).cloned(),
        (Value::Str(text), Some(i)) => {
            let chars = text.as_str().chars().count();
            index(i, chars)
                .and_then(|i| text.as_str().char_indices().nth(i))
                .map(|(at, c)| Value::text(text.slice(at..at + c.len_utf8())))
        }
        (Value::Seq(kind, items), Some(i)) if is_indexed(*kind) => index(i, items.len()).map(|i| items[i].clone()),
        _ => None,
    };
    Ok(match (found, key) {
        (Some(found), _) => found,
        (None, Value::Str(name)) => own(value, name.as_str()).unwrap_or_else(|| missing(value, name.as_str())),
        (None, key) => Value::undefined(match key.as_int() {
            Some(i) => format!("{} object has no element {i}", value.type_name()),
            None => format!("'{} object' has no such item", value.type_name()),
        }),
    })
}

fn missing(value: &Value, name: &str) -> Value {
    if matches!(value, Value::None) {
        return Value::undefined(format!("'None' has no attribute '{name}'"));
    }
    Value::undefined(format!("'{} object' has no attribute '{name}'", value.type_name()))
}

/// From the end if negative.
fn index(i: i128, length: usize) -> Option<usize> {
    let i = if i < 0 { i + length as i128 } else { i };
    usize::try_from(i).ok().filter(|i| *i < length)
}

/// An attribute that the value itself has, methods among them.
fn own(value: &Value, name: &str) -> Option<Value> {
    let (safe, forbidden): (&[&str], &[&str]) = match value {
        Value::Str(_) => (&super::strings::METHODS, &[]),
        Value::Seq(Kind::List, _) => (&LIST, &LIST_UNSAFE),
        Value::Seq(Kind::Tuple | Kind::Range, _) => (&LIST[1..], &[]),
        Value::Dict(_) => (&DICT, &DICT_UNSAFE),
        Value::Namespace(space) => return space.borrow().get(name).cloned(),
        Value::Loop(state) => return of_loop(state, name),
        _ => return None,
    };
    if safe.contains(&name) {
        return Some(Value::Call(Rc::new(Callable::Method(value.clone(), name.to_owned()))));
    }
    let unsafe_name = forbidden.contains(&name) || name.starts_with("__");
    let reason = || format!("access to attribute '{name}' of '{}' object is unsafe", value.type_name());
    unsafe_name.then(|| Value::undefined(reason()))
}

fn of_loop(state: &Rc<LoopState>, name: &str) -> Option<Value> {
    let (i, length) = (state.index.get() as i128, state.items.len() as i128);
    let neighbour = |at: Option<usize>, what: &str| {
        at.and_then(|at| state.items.get(at))
            .cloned()
            .unwrap_or_else(|| Value::undefined(format!("there is no {what} item")))
    };
    Some(match name {
        "index" => Value::Int(i + 1),
        "index0" => Value::Int(i),
        "revindex" => Value::Int(length - i),
        "revindex0" => Value::Int(length - i - 1),
        "first" => Value::Bool(i == 0),
        "last" => Value::Bool(i + 1 == length),
        "length" => Value::Int(length),
        "depth" => Value::Int(state.depth as i128),
        "depth0" => Value::Int(state.depth as i128 - 1),
        "previtem" => neighbour(state.index.get().checked_sub(1), "previous"),
        "nextitem" => neighbour(Some(state.index.get() + 1), "next"),
        "cycle" | "changed" => Value::Call(Rc::new(Callable::LoopMethod(state.clone(), name.to_owned()))),
        _ => return None,
    })
}

/// Python's slices.
pub fn slice(value: &Value, [start, stop, step]: [Option<i128>; 3]) -> Outcome<Value> {
    value.must_be_defined()?;
    let length = match value {
        Value::Seq(kind, items) if is_indexed(*kind) => items.len(),
        Value::Str(text) => text.as_str().chars().count(),
        other => return Ok(Value::undefined(format!("'{} object' can't be sliced", other.type_name()))),
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return problem("slice step cannot be zero");
    }
    let length = length as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |given: Option<i128>, default: i128| match given {
        None => default,
        Some(i) => (if i < 0 { i.saturating_add(length) } else { i }).clamp(low, high),
    };
    let (start, stop) =
        if step > 0 { (bound(start, 0), bound(stop, length)) } else { (bound(start, length - 1), bound(stop, -1)) };
    if let (Value::Str(text), 1) = (value, step) {
        let at = |n: i128| text.as_str().char_indices().nth(n as usize).map_or(text.as_str().len(), |(at, _)| at);
        return Ok(Value::text(text.slice(at(start)..at(stop.max(start)))));
    }
    if length > LONGEST_LIST as i128 {
        return problem(format!("over {LONGEST_LIST} elements can't be cut"));
    }
    let mut indices = Vec::new();
    let mut i = start;
    while if step > 0 { i < stop } else { i > stop } {
        indices.push(i as usize);
        i = i.saturating_add(step);
    }
    Ok(match value {
        Value::Str(text) => {
            let starts: Vec<usize> =
                text.as_str().char_indices().map(|(at, _)| at).chain([text.as_str().len()]).collect();
            let mut out = super::text::Text::default();
            indices.iter().for_each(|&i| out.push(&text.slice(starts[i]..starts[i + 1])));
            Value::text(out)
        }
        Value::Seq(kind, items) => Value::seq(*kind, indices.iter().map(|&i| items[i].clone()).collect()),
        _ => Value::None,
    })
}
