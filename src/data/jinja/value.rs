//! Python's values, as far as templates see them.

use super::call::Callable;
use super::limits;
use super::text::{Counted, Origin, Part, Text};
use serde_json::Value as Json;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;

/// Why a template can't be rendered, with its line where that is known.
#[derive(Debug)]
pub struct Problem {
    pub line: Option<usize>,
    pub reason: String,
}

pub type Outcome<T> = Result<T, Problem>;

/// Characters of the reason why a value is undefined, at most.
const LONGEST_REASON: usize = 300;

/// A problem at the line that is being rendered.
pub fn problem<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Problem { line: None, reason: reason.into() })
}

/// What a sequence is in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    List,
    Tuple,
    Range,
    Keys,
    Values,
    Items,
}

#[derive(Clone)]
pub enum Value {
    /// With what to say when it is used as if it were something.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<Counted>),
    Seq(Kind, Rc<Items>),
    Dict(Rc<Dict>),
    /// A generator: it can be gone through once.
    Iter(Rc<Rest>),
    Namespace(Rc<RefCell<Dict>>),
    Loop(Rc<LoopState>),
    Call(Rc<Callable>),
}

/// The elements of a sequence, which never change.
#[derive(Default)]
pub struct Items {
    list: Vec<Value>,
    depth: usize,
}

impl From<Vec<Value>> for Items {
    fn from(list: Vec<Value>) -> Items {
        let depth = 1 + list.iter().map(Value::depth).max().unwrap_or(0);
        Items { list, depth }
    }
}

impl FromIterator<Value> for Items {
    fn from_iter<I: IntoIterator<Item = Value>>(values: I) -> Items {
        values.into_iter().collect::<Vec<_>>().into()
    }
}

impl std::ops::Deref for Items {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.list
    }
}

/// What is left of a generator.
pub struct Rest {
    left: RefCell<std::vec::IntoIter<Value>>,
    depth: usize,
}

impl Rest {
    pub fn next(&self) -> Option<Value> {
        self.left.borrow_mut().next()
    }
}

/// A dictionary in the order of its making. Those of templates are small: it is searched from the front.
#[derive(Clone, Default)]
pub struct Dict {
    pub entries: Vec<(Value, Value)>,
    /// Set once it is a value.
    depth: usize,
    /// The index of the message that this is.
    pub message: Option<u32>,
}

impl Dict {
    /// Of a message's fields.
    pub fn new(entries: Vec<(Value, Value)>, message: Option<u32>) -> Dict {
        Dict { entries, message, depth: 0 }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        limits::spend(self.entries.len() / 8);
        self.entries.iter().find(|(k, _)| matches!(k, Value::Str(k) if k.as_str() == key)).map(|(_, v)| v)
    }

    pub fn find(&self, key: &Value) -> Option<&Value> {
        match key {
            Value::Str(key) => self.get(key.as_str()),
            _ => self.entries.iter().find(|(k, _)| limits::spend(1) && k.equals(key)).map(|(_, v)| v),
        }
    }

    pub fn set(&mut self, key: Value, value: Value) {
        if !limits::spend(self.entries.len() / 8) {
            return;
        }
        match self.entries.iter_mut().find(|(k, _)| k.equals(&key)) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
    }
}

/// What `loop` says.
pub struct LoopState {
    pub items: Rc<Items>,
    pub index: Cell<usize>,
    pub depth: usize,
    pub changed: RefCell<Option<Value>>,
    /// For `loop(...)` in a recursive loop.
    pub again: Option<Rc<Callable>>,
}

impl Value {
    pub fn str(text: impl Into<String>) -> Value {
        Value::text(Text::new(text, None))
    }

    pub fn text(text: Text) -> Value {
        Value::Str(Rc::new(Counted::new(text)))
    }

    pub fn seq(kind: Kind, items: Vec<Value>) -> Value {
        Value::Seq(kind, Rc::new(items.into()))
    }

    pub fn list(items: Vec<Value>) -> Value {
        Value::seq(Kind::List, items)
    }

    pub fn tuple(items: Vec<Value>) -> Value {
        Value::seq(Kind::Tuple, items)
    }

    pub fn iter(items: Vec<Value>) -> Value {
        let Items { list, depth } = items.into();
        Value::Iter(Rc::new(Rest { left: RefCell::new(list.into_iter()), depth }))
    }

    pub fn dict(mut dict: Dict) -> Value {
        dict.depth = 1 + dict.entries.iter().map(|(k, v)| k.depth().max(v.depth())).max().unwrap_or(0);
        Value::Dict(Rc::new(dict))
    }

    pub fn undefined(reason: impl Into<String>) -> Value {
        // a reason may quote a key of any length
        let reason: String = reason.into();
        Value::Undefined(reason.char_indices().nth(LONGEST_REASON).map_or(&*reason, |(at, _)| &reason[..at]).into())
    }

    /// Values in each other below this one. Namespaces can change and count as flat: see [`super::run`].
    pub fn depth(&self) -> usize {
        match self {
            Value::Seq(_, items) => items.depth,
            Value::Dict(dict) => dict.depth,
            Value::Iter(rest) => rest.depth,
            Value::Loop(state) => state.items.depth + 1,
            Value::Call(callable) => callable.depth(),
            _ => 0,
        }
    }

    /// Steps that it takes to look at all of it, but not into it.
    pub fn weight(&self) -> usize {
        match self {
            Value::Str(text) => text.as_str().len() / 32,
            Value::Seq(_, items) => items.len(),
            Value::Dict(dict) => dict.entries.len(),
            _ => 0,
        }
    }

    /// A JSON value none of whose strings came from a message.
    pub fn from_json(json: &Json) -> Value {
        Value::convert(json, None)
    }

    /// A conversation.
    pub fn messages(messages: &[Json]) -> Value {
        Value::list((0..).zip(messages).map(|(i, message)| Value::from_message(message, i)).collect())
    }

    /// Message `index` of a conversation; its strings are marked.
    fn from_message(json: &Json, index: u32) -> Value {
        let Json::Object(fields) = json else { return Value::convert(json, None) };
        let part = |key: &str| match key {
            "role" => Part::Role,
            "content" => Part::Content,
            _ => Part::Other,
        };
        let entry = |(k, v): (&String, &Json)| (Value::str(k), Value::convert(v, Some(Origin::of(index, part(k)))));
        Value::dict(Dict::new(fields.iter().map(entry).collect(), Some(index)))
    }

    fn convert(json: &Json, origin: Option<Origin>) -> Value {
        match json {
            Json::Null => Value::None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i.into()),
                (None, Some(u)) => Value::Int(u.into()),
                (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::text(Text::new(s.as_str(), origin)),
            Json::Array(list) => Value::list(list.iter().map(|v| Value::convert(v, origin)).collect()),
            Json::Object(fields) => {
                // keys too: a tool's argument is said by its name
                let key = |k: &String| Value::text(Text::new(k.as_str(), origin));
                let entries = fields.iter().map(|(k, v)| (key(k), Value::convert(v, origin))).collect();
                Value::dict(Dict::new(entries, None))
            }
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The name of its Python type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(t) if t.safe => "Markup",
            Value::Str(_) => "str",
            Value::Seq(Kind::List, _) => "list",
            Value::Seq(Kind::Tuple, _) => "tuple",
            Value::Seq(Kind::Range, _) => "range",
            Value::Seq(Kind::Keys, _) => "dict_keys",
            Value::Seq(Kind::Values, _) => "dict_values",
            Value::Seq(Kind::Items, _) => "dict_items",
            Value::Dict(_) => "dict",
            Value::Iter(_) => "generator",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Call(_) => "function",
        }
    }

    pub fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Str(t) => !t.as_str().is_empty(),
            Value::Seq(_, items) => !items.is_empty(),
            Value::Dict(d) => !d.entries.is_empty(),
            Value::Loop(state) => !state.items.is_empty(),
            Value::Iter(_) | Value::Namespace(_) | Value::Call(_) => true,
        }
    }

    /// Bools count as 0 and 1.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(b) => Some((*b).into()),
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            other => other.as_int().map(|i| i as f64),
        }
    }

    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                a.len() == b.len() && limits::spend(a.len() / 32) && a == b
            }
            (Value::Seq(a, x), Value::Seq(b, y)) => {
                a == b
                    && x.len() == y.len()
                    && limits::spend(x.len())
                    && x.iter().zip(y.iter()).all(|(x, y)| x.equals(y))
            }
            (Value::Dict(a), Value::Dict(b)) => {
                a.entries.len() == b.entries.len()
                    && limits::spend(a.entries.len())
                    && a.entries.iter().all(|(k, v)| b.find(k).is_some_and(|other| v.equals(other)))
            }
            (Value::Iter(a), Value::Iter(b)) => Rc::ptr_eq(a, b),
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
            (Value::Call(a), Value::Call(b)) => Rc::ptr_eq(a, b),
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.as_float(), other.as_float()), (Some(a), Some(b)) if a == b),
            },
        }
    }

    /// The order of `<`; numbers that are none have no order.
    pub fn compare(&self, other: &Value) -> Outcome<Option<Ordering>> {
        self.must_be_defined()?;
        other.must_be_defined()?;
        Ok(match (self, other) {
            (Value::Str(a), Value::Str(b)) => {
                limits::spend(a.as_str().len().min(b.as_str().len()) / 32);
                Some(a.as_str().cmp(b.as_str()))
            }
            (Value::Seq(a, x), Value::Seq(b, y)) if a == b && matches!(a, Kind::List | Kind::Tuple) => {
                limits::spend(x.len().min(y.len()));
                match x.iter().zip(y.iter()).find(|(x, y)| !x.equals(y)) {
                    Some((x, y)) => x.compare(y)?,
                    None => Some(x.len().cmp(&y.len())),
                }
            }
            _ => match (self.as_int(), other.as_int(), self.as_float(), other.as_float()) {
                (Some(a), Some(b), ..) => Some(a.cmp(&b)),
                (_, _, Some(a), Some(b)) => a.partial_cmp(&b),
                _ => {
                    let (a, b) = (self.type_name(), other.type_name());
                    return problem(format!("'{a}' and '{b}' have no order"));
                }
            },
        })
    }

    /// An undefined value may be printed, tested and gone through, and nothing else.
    pub fn must_be_defined(&self) -> Outcome<()> {
        match self {
            Value::Undefined(reason) => problem(&**reason),
            _ => Ok(()),
        }
    }

    /// Everything in it, as `for` goes through it.
    pub fn items(&self) -> Outcome<Rc<Items>> {
        Ok(match self {
            Value::Undefined(_) => Rc::default(),
            Value::Seq(_, items) => items.clone(),
            Value::Iter(rest) => Rc::new(std::mem::take(&mut *rest.left.borrow_mut()).collect()),
            Value::Dict(dict) => Rc::new(dict.entries.iter().map(|(k, _)| k.clone()).collect()),
            Value::Str(text) => {
                let one = |(at, c): (usize, char)| Value::text(text.slice(at..at + c.len_utf8()));
                let made = text.as_str().char_indices().map_while(|c| (!limits::exhausted()).then(|| one(c))).collect();
                limits::check()?;
                Rc::new(made)
            }
            Value::Loop(state) => {
                // what is left of it
                Rc::new(state.items.iter().skip(state.index.get() + 1).cloned().collect())
            }
            other => return problem(format!("'{}' object is not iterable", other.type_name())),
        })
    }

    /// Python's `len`.
    pub fn length(&self) -> Outcome<usize> {
        Ok(match self {
            Value::Undefined(_) => 0,
            Value::Str(text) => text.as_str().chars().count(),
            Value::Seq(_, items) => items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Loop(state) => state.items.len(),
            other => return problem(format!("object of type '{}' has no len()", other.type_name())),
        })
    }
}
