//! Python's methods on lists, tuples and dictionaries. Those that change them are not among them: Jinja's sandbox
//! forbids them.

use super::call::Arguments;
use super::value::{Dict, Kind, Outcome, Value, problem};
use std::rc::Rc;

pub fn method(of: &Value, name: &str, args: Arguments) -> Outcome<Value> {
    match of {
        Value::Dict(dict) => of_dict(dict, name, args),
        Value::Seq(kind, items) => match name {
            "index" => {
                let [wanted, start, end] = args.take(name, ["value", "start", "stop"])?;
                let wanted = wanted.unwrap_or(Value::None);
                let bound = |v: Option<Value>, default: usize| {
                    v.and_then(|v| v.as_int()).map_or(default, |i| {
                        (if i < 0 { i + items.len() as i128 } else { i }).clamp(0, items.len() as i128) as usize
                    })
                };
                let (start, end) = (bound(start, 0), bound(end, items.len()));
                let found = items.iter().enumerate().find(|(i, v)| *i >= start && *i < end && v.equals(&wanted));
                match found {
                    Some((i, _)) => Ok(Value::Int(i as i128)),
                    None => problem(format!("{}.index(x): x not in {}", of.type_name(), of.type_name())),
                }
            }
            "count" => {
                let [wanted] = args.take(name, ["value"])?;
                let wanted = wanted.unwrap_or(Value::None);
                Ok(Value::Int(items.iter().filter(|v| v.equals(&wanted)).count() as i128))
            }
            _ => Ok(Value::Seq(*kind, items.clone())),
        },
        other => problem(format!("'{}' object has no method '{name}'", other.type_name())),
    }
}

fn of_dict(dict: &Rc<Dict>, name: &str, args: Arguments) -> Outcome<Value> {
    if name == "get" {
        let [key, default] = args.take(name, ["key", "default"])?;
        let Some(key) = key else { return problem("get takes a key") };
        return Ok(dict.find(&key).cloned().or(default).unwrap_or(Value::None));
    }
    let [] = args.take(name, [])?;
    let view = |kind: Kind, one: fn(&(Value, Value)) -> Value| Value::seq(kind, dict.entries.iter().map(one).collect());
    Ok(match name {
        "items" => view(Kind::Items, |(k, v)| Value::tuple(vec![k.clone(), v.clone()])),
        "keys" => view(Kind::Keys, |(k, _)| k.clone()),
        "values" => view(Kind::Values, |(_, v)| v.clone()),
        _ => Value::Dict(dict.clone()),
    })
}
