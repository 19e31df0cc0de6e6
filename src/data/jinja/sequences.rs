//! Jinja's filters on sequences.

use super::attributes;
use super::call::Arguments;
use super::filters::add;
use super::format;
use super::limits;
use super::run::Run;
use super::text::Text;
use super::value::{Items, Kind, Outcome, Value, problem};
use std::cmp::Ordering;
use std::rc::Rc;

impl Run {
    pub fn sequence_filter(&mut self, name: &str, value: Value, args: Arguments) -> Outcome<Value> {
        let made = match name {
            "list" => {
                let [] = args.take(name, [])?;
                Value::Seq(Kind::List, value.items()?)
            }
            "first" => match &value {
                // a generator gives one and keeps the others
                Value::Iter(rest) => rest.next(),
                other => other.items()?.first().cloned(),
            }
            .unwrap_or_else(|| Value::undefined("no first item, sequence was empty")),
            "last" => match &value {
                Value::Iter(_) => return problem("'generator' object is not reversible"),
                other => other.items()?.last().cloned(),
            }
            .unwrap_or_else(|| Value::undefined("no last item, sequence was empty")),
            "reverse" => match &value {
                Value::Str(text) => {
                    let mut out = Text::default();
                    text.as_str().char_indices().rev().for_each(|(at, c)| out.push(&text.slice(at..at + c.len_utf8())));
                    Value::text(out)
                }
                other => Value::iter(other.items()?.iter().rev().cloned().collect()),
            },
            "join" => self.join(&value, args)?,
            "map" => self.map(&value, args)?,
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, &value, args)?,
            "sort" | "unique" | "min" | "max" | "sum" | "groupby" => ordered(name, &value, args)?,
            "batch" | "slice" => chunks(name, &value, args)?,
            other => return problem(format!("no filter named '{other}'")),
        };
        self.pay(made)
    }

    fn join(&mut self, value: &Value, args: Arguments) -> Outcome<Value> {
        let [separator, attribute] = args.take("join", ["d", "attribute"])?;
        let separator = separator.map_or_else(|| Ok(Text::default()), |s| format::str(&s, self.origin()))?;
        let mut out = Text::default();
        for (i, item) in value.items()?.iter().enumerate() {
            if i > 0 {
                out.push(&separator);
            }
            let item = attribute.as_ref().map_or_else(|| Ok(item.clone()), |a| by_path(item, a, None))?;
            out.push(&format::str(&item, self.origin())?);
        }
        Ok(Value::text(out))
    }

    fn map(&mut self, value: &Value, mut args: Arguments) -> Outcome<Value> {
        let mut made = Vec::new();
        if args.positional.is_empty() {
            let [attribute, default] = args.take("map", ["attribute", "default"])?;
            let Some(attribute) = attribute else { return problem("map requires a filter argument") };
            for item in present(value)?.iter() {
                made.push(by_path(item, &attribute, default.as_ref())?);
            }
            return Ok(Value::iter(made));
        }
        let Value::Str(filter) = args.positional.remove(0) else { return problem("map takes the name of a filter") };
        for item in present(value)?.iter() {
            let args = Arguments { positional: args.positional.clone(), named: args.named.clone() };
            made.push(self.filter(filter.as_str(), item.clone(), args)?);
        }
        Ok(Value::iter(made))
    }

    fn select(&mut self, name: &str, value: &Value, mut args: Arguments) -> Outcome<Value> {
        let wanted = name.starts_with("select");
        let attribute = match name.ends_with("attr") {
            true if args.positional.is_empty() => return problem(format!("{name} takes an attribute")),
            true => Some(args.positional.remove(0)),
            false => None,
        };
        let test = if args.positional.is_empty() { None } else { Some(args.positional.remove(0)) };
        let mut kept = Vec::new();
        for item in present(value)?.iter() {
            let tested = attribute.as_ref().map_or_else(|| Ok(item.clone()), |a| by_path(item, a, None))?;
            let holds = match &test {
                None => tested.truth(),
                Some(Value::Str(test)) => {
                    let args = Arguments { positional: args.positional.clone(), named: args.named.clone() };
                    self.test(test.as_str(), &tested, args)?
                }
                Some(_) => return problem(format!("{name} takes the name of a test")),
            };
            if holds == wanted {
                kept.push(item.clone());
            }
        }
        Ok(Value::iter(kept))
    }
}

/// What `map`, `select` and their like go through: nothing at all in what counts as false, none among it.
fn present(value: &Value) -> Outcome<Rc<Items>> {
    if value.truth() { value.items() } else { Ok(Rc::default()) }
}

/// `a.b.0` in `value`; what is undefined on the way becomes `default`.
fn by_path(value: &Value, path: &Value, default: Option<&Value>) -> Outcome<Value> {
    let mut found = value.clone();
    match path {
        Value::Str(path) => {
            for step in path.as_str().split('.') {
                limits::spend(1);
                limits::check()?;
                let key = if !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) {
                    step.parse().map_or(Value::None, Value::Int)
                } else {
                    Value::str(step)
                };
                found = attributes::item(&found, &key)?;
                if let (Value::Undefined(_), Some(default)) = (&found, default) {
                    found = default.clone();
                }
            }
        }
        other => found = attributes::item(&found, other)?,
    }
    Ok(found)
}

/// A key that orders texts without their case unless it is `sensitive`.
pub fn sort_key(value: &Value, sensitive: bool) -> Value {
    match value {
        Value::Str(text) if !sensitive => Value::str(text.as_str().to_lowercase()),
        other => other.clone(),
    }
}

/// The values in the order of their keys; equal ones keep theirs.
pub fn sorted(pairs: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<Value>> {
    Ok(merged(pairs, reverse)?.into_iter().map(|(_, v)| v).collect())
}

/// Merge sort: numbers that are none have no order, for which the standard library's sort may panic.
fn merged(mut left: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<(Value, Value)>> {
    if left.len() < 2 {
        return Ok(left);
    }
    let right = merged(left.split_off(left.len() / 2), reverse)?;
    let left = merged(left, reverse)?;
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    let wanted = if reverse { Ordering::Greater } else { Ordering::Less };
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        limits::spend(1);
        limits::check()?;
        let taken = if b.0.compare(&a.0)? == Some(wanted) { right.next() } else { left.next() };
        out.extend(taken);
    }
    out.extend(left.chain(right));
    Ok(out)
}

fn ordered(name: &str, value: &Value, args: Arguments) -> Outcome<Value> {
    let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
    let (reverse, sensitive, attribute, start) = match name {
        "sort" => {
            let [reverse, sensitive, attribute] = args.take(name, ["reverse", "case_sensitive", "attribute"])?;
            (truth(reverse), truth(sensitive), attribute, None)
        }
        "sum" => {
            let [attribute, start] = args.take(name, ["attribute", "start"])?;
            (false, true, attribute, start)
        }
        "groupby" => {
            let [attribute] = args.take(name, ["attribute"])?;
            (false, false, attribute, None)
        }
        _ => {
            let [sensitive, attribute] = args.take(name, ["case_sensitive", "attribute"])?;
            (false, truth(sensitive), attribute, None)
        }
    };
    let mut pairs = Vec::new();
    for item in value.items()?.iter() {
        let key = attribute.as_ref().map_or_else(|| Ok(item.clone()), |a| by_path(item, a, None))?;
        limits::spend(key.weight());
        limits::check()?;
        pairs.push((sort_key(&key, sensitive), item.clone(), key));
    }
    let keyed = |pairs: &[(Value, Value, Value)]| pairs.iter().map(|(k, v, _)| (k.clone(), v.clone())).collect();
    Ok(match name {
        "sort" => Value::list(sorted(keyed(&pairs), reverse)?),
        "sum" => {
            let mut sum = start.unwrap_or(Value::Int(0));
            for (_, _, value) in &pairs {
                sum = add(&sum, value)?;
                limits::spend(sum.weight());
                limits::check()?;
            }
            sum
        }
        "unique" => {
            let mut seen: Vec<&Value> = Vec::new();
            let mut kept = Vec::new();
            for (key, value, _) in &pairs {
                limits::spend(seen.len() / 4);
                limits::check()?;
                if !seen.iter().any(|s| s.equals(key)) {
                    seen.push(key);
                    kept.push(value.clone());
                }
            }
            Value::iter(kept)
        }
        "groupby" => {
            let by_key =
                pairs.iter().map(|(k, v, whole)| (k.clone(), Value::tuple(vec![k.clone(), v.clone(), whole.clone()])));
            let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
            for entry in sorted(by_key.collect(), false)? {
                let parts = entry.items()?;
                match groups.last_mut() {
                    Some(group) if group.0.equals(&parts[0]) => group.2.push(parts[1].clone()),
                    _ => groups.push((parts[0].clone(), parts[2].clone(), vec![parts[1].clone()])),
                }
            }
            Value::list(groups.into_iter().map(|(_, key, items)| Value::tuple(vec![key, Value::list(items)])).collect())
        }
        _ => {
            let mut best: Option<&(Value, Value, Value)> = None;
            for pair in &pairs {
                let wanted = if name == "max" { Ordering::Greater } else { Ordering::Less };
                if best.map_or(Ok(true), |b| Ok(pair.0.compare(&b.0)? == Some(wanted)))? {
                    best = Some(pair);
                }
            }
            best.map_or_else(|| Value::undefined("no aggregated item, sequence was empty"), |b| b.1.clone())
        }
    })
}

/// `batch`: so many in each; `slice`: so many lists.
fn chunks(name: &str, value: &Value, args: Arguments) -> Outcome<Value> {
    let [count, fill] = args.take(name, ["count", "fill_with"])?;
    let count =
        count.and_then(|c| c.as_int()).and_then(|c| usize::try_from(c).ok()).filter(|c| (1..=100_000).contains(c));
    let Some(count) = count else { return problem(format!("{name} takes a number from 1 on")) };
    let items = value.items()?;
    let filled = |mut list: Vec<Value>, size: usize| {
        if let Some(fill) = &fill {
            list.resize(list.len().max(size), fill.clone());
        }
        Value::list(list)
    };
    if name == "batch" {
        return Ok(Value::iter(items.chunks(count).map(|c| filled(c.to_vec(), count)).collect()));
    }
    let (each, more) = (items.len() / count, items.len() % count);
    let mut at = 0;
    let mut lists = Vec::new();
    for i in 0..count {
        let size = each + usize::from(i < more);
        let list = items[at..at + size].to_vec();
        at += size;
        lists.push(if i < more { Value::list(list) } else { filled(list, each + usize::from(more > 0)) });
    }
    Ok(Value::iter(lists))
}
