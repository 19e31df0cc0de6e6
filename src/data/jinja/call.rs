//! What can be called: functions, macros and methods.

use super::ast::{For, Macro};
use super::limits;
use super::run::{Circle, Frame, Run};
use super::text::Text;
use super::value::{Dict, Kind, LoopState, Outcome, Value, problem};
use super::{clock, containers, format, strings};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// As in Jinja's sandbox.
const LONGEST_RANGE: i128 = 100_000;

pub enum Callable {
    Function(&'static str),
    Method(Value, String),
    Macro(Arc<Macro>, Rc<Frame>),
    /// `loop` of a recursive loop, with the depth of what it calls.
    Again(Arc<For>, Rc<Frame>, usize),
    LoopMethod(Rc<LoopState>, String),
    /// What `joiner` makes: its separator, and whether it was asked before.
    Joiner(Value, RefCell<bool>),
}

impl Callable {
    /// As [`Value::depth`].
    pub fn depth(&self) -> usize {
        match self {
            Callable::Method(value, _) | Callable::Joiner(value, _) => value.depth() + 1,
            Callable::LoopMethod(state, _) => Value::Loop(state.clone()).depth() + 1,
            // what their frames hold is let go one by one, at the rendering's end
            Callable::Function(_) | Callable::Macro(..) | Callable::Again(..) => 0,
        }
    }
}

#[derive(Default)]
pub struct Arguments {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Arguments {
    pub fn one(value: Value) -> Arguments {
        Arguments { positional: vec![value], named: Vec::new() }
    }

    /// The arguments of parameters `names` in their order; missing ones are `None`.
    pub fn take<const N: usize>(self, what: &str, names: [&str; N]) -> Outcome<[Option<Value>; N]> {
        let mut values = [const { None }; N];
        if self.positional.len() > N {
            return problem(format!("{what} takes at most {N} arguments, {} given", self.positional.len()));
        }
        for (slot, value) in values.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| *n == name) {
                Some(i) if values[i].is_none() => values[i] = Some(value),
                Some(_) => return problem(format!("{what} got multiple values for argument '{name}'")),
                None => return problem(format!("{what} got an unexpected keyword argument '{name}'")),
            }
        }
        Ok(values)
    }
}

/// Names that are there without being given.
pub fn global(name: &str) -> Option<Value> {
    let known = ["range", "dict", "namespace", "raise_exception", "strftime_now", "joiner"];
    let name = known.into_iter().find(|k| *k == name)?;
    Some(Value::Call(Rc::new(Callable::Function(name))))
}

impl Run {
    pub fn call(&mut self, of: &Value, args: Arguments) -> Outcome<Value> {
        let callable = match of {
            Value::Call(callable) => callable.clone(),
            Value::Loop(state) => match &state.again {
                Some(again) => again.clone(),
                None => return problem("the loop must have the 'recursive' marker to be called"),
            },
            other => {
                other.must_be_defined()?;
                return problem(format!("'{}' object is not callable", other.type_name()));
            }
        };
        for value in &args.positional {
            self.step(value.weight())?;
        }
        match &*callable {
            Callable::Function(name) => self.function(name, args),
            Callable::Macro(def, frame) => self.deeper(|run| run.macro_call(def, frame, args)),
            Callable::Method(Value::Str(text), name) => {
                self.step(text.as_str().len() / 32)?;
                strings::method(text, name, args)
            }
            Callable::Method(of, name) => containers::method(of, name, args),
            Callable::Again(looped, frame, depth) => {
                let [items] = args.take("loop", ["iterable"])?;
                let items = items.unwrap_or(Value::None).items()?;
                let mut out = Text::default();
                self.deeper(|run| run.looped(looped, items, *depth, frame, &mut out))?;
                Ok(Value::text(out))
            }
            Callable::LoopMethod(state, name) if name == "cycle" => match args.positional.len() {
                0 => problem("no items for cycling given"),
                n => Ok(args.positional[state.index.get() % n].clone()),
            },
            Callable::LoopMethod(state, _) => {
                let value = Value::tuple(args.positional);
                let changed = !state.changed.borrow().as_ref().is_some_and(|before| before.equals(&value));
                self.may_circle(Circle::Loop(state.clone()))?;
                *state.changed.borrow_mut() = Some(value);
                Ok(Value::Bool(changed))
            }
            Callable::Joiner(separator, asked) => {
                Ok(if asked.replace(true) { separator.clone() } else { Value::str("") })
            }
        }
    }

    fn function(&mut self, name: &str, args: Arguments) -> Outcome<Value> {
        match name {
            "range" => range(args),
            "namespace" => {
                let space = Rc::new(RefCell::new(dict(args)?));
                self.may_circle(Circle::Namespace(space.clone()))?;
                Ok(Value::Namespace(space))
            }
            "dict" => Ok(Value::dict(dict(args)?)),
            "joiner" => {
                let [separator] = args.take("joiner", ["sep"])?;
                let separator = separator.unwrap_or_else(|| Value::str(", "));
                Ok(Value::Call(Rc::new(Callable::Joiner(separator, RefCell::new(false)))))
            }
            "strftime_now" => match args.take("strftime_now", ["format"])? {
                [Some(Value::Str(format))] => Ok(Value::str(clock::strftime(self.now, format.as_str()))),
                _ => problem("strftime_now takes one string"),
            },
            // raise_exception: the template's own words
            _ => match args.take("raise_exception", ["message"])? {
                [Some(message)] => problem(format::str(&message, None)?.as_str()),
                [None] => problem("raise_exception takes a message"),
            },
        }
    }
}

fn range(args: Arguments) -> Outcome<Value> {
    let mut numbers = Vec::new();
    for value in args.take("range", ["start", "stop", "step"])?.into_iter().flatten() {
        value.must_be_defined()?;
        match value.as_int() {
            Some(n) => numbers.push(n),
            None => return problem(format!("'{}' object cannot be interpreted as an integer", value.type_name())),
        }
    }
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        _ => return problem("range takes one to three integers, and no step of 0"),
    };
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let steps = step.unsigned_abs() as i128;
    let length = if span <= 0 { 0 } else { (span - 1) / steps + 1 };
    if length > LONGEST_RANGE {
        return problem(format!("range too big: it may have {LONGEST_RANGE} numbers at most"));
    }
    Ok(Value::seq(Kind::Range, (0..length).map(|i| Value::Int(start + i * step)).collect()))
}

/// Python's `dict(mapping or pairs, name=value)`.
fn dict(args: Arguments) -> Outcome<Dict> {
    let mut made = match args.positional.first() {
        None => Dict::default(),
        Some(Value::Dict(dict)) => (**dict).clone(),
        Some(pairs) => {
            let mut made = Dict::default();
            for pair in pairs.items()?.iter() {
                limits::check()?;
                match &pair.items()?[..] {
                    [key, value] => made.set(key.clone(), value.clone()),
                    _ => return problem("dict takes a mapping, or pairs of a key and a value"),
                }
            }
            made
        }
    };
    args.named.into_iter().for_each(|(name, value)| made.set(Value::str(name), value));
    Ok(made)
}
