//! Statements, carried out.

use super::ast::{Applied, For, Macro, Node, Statement, Target};
use super::call::{Arguments, Callable};
use super::format;
use super::limits::{self, MOST_CIRCLES};
use super::text::{Origin, Part, Text};
use super::value::{Dict, Items, Kind, LoopState, Outcome, Problem, Value, problem};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Macros, loops and expressions in each other while rendering, at most: what a thread's stack of 2 MiB holds with room.
const DEEPEST: usize = 220;

/// Variables of a block, and those of the blocks around it.
#[derive(Default)]
pub struct Frame {
    variables: RefCell<Vec<(Rc<str>, Value)>>,
    parent: Option<Rc<Frame>>,
}

impl Frame {
    pub fn inside(parent: &Rc<Frame>) -> Rc<Frame> {
        Rc::new(Frame { variables: RefCell::default(), parent: Some(parent.clone()) })
    }

    pub fn set(&self, name: &str, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(n, _)| &**n == name) {
            Some(variable) => variable.1 = value,
            None => variables.push((name.into(), value)),
        }
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        let mut frame = Some(self);
        while let Some(f) = frame {
            if let Some((_, value)) = f.variables.borrow().iter().find(|(n, _)| &**n == name) {
                return Some(value.clone());
            }
            frame = f.parent.as_deref();
        }
        None
    }
}

/// How a block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    On,
    Break,
    Continue,
}

/// What can change after it was made, and hold what holds it: counting references never lets go of such a circle, and letting
/// go of a long chain of them takes stack. All are kept, and emptied one by one at the end.
pub enum Circle {
    Frame(Rc<Frame>),
    Namespace(Rc<RefCell<Dict>>),
    Loop(Rc<LoopState>),
}

/// One rendering.
pub struct Run {
    circles: Vec<Circle>,
    depth: usize,
    /// The line that is being rendered.
    pub line: usize,
    /// The message that the innermost loop over messages is at.
    owner: Option<u32>,
    loops: usize,
    /// Seconds since 1970 of `strftime_now`.
    pub now: i64,
    /// Arguments that were a JSON text already went through `tojson`, which quotes them.
    pub quoted_arguments: bool,
}

impl Run {
    /// To render so many messages.
    pub fn new(now: i64, messages: usize) -> Run {
        limits::start(messages);
        Run { circles: Vec::new(), depth: 0, line: 1, owner: None, loops: 0, now, quoted_arguments: false }
    }

    /// The text of a whole template with these variables.
    pub fn template(&mut self, nodes: &[Node], variables: &[(&str, Value)]) -> Outcome<Text> {
        let frame = Rc::new(Frame::default());
        for (name, value) in variables {
            frame.set(name, value.clone());
        }
        let mut out = Text::default();
        let rendered = self.body(nodes, &frame, &mut out).and_then(|_| self.step(0));
        self.let_go();
        rendered.map_err(|p| Problem { line: p.line.or(Some(self.line)), ..p })?;
        Ok(out)
    }

    /// Pays for some work.
    pub fn step(&mut self, cost: usize) -> Outcome<()> {
        limits::spend(1 + cost);
        limits::check()
    }

    /// Keeps what may be part of a circle.
    pub fn may_circle(&mut self, circle: Circle) -> Outcome<()> {
        if self.circles.len() == MOST_CIRCLES {
            return problem(format!("makes over {MOST_CIRCLES} macros, namespaces and the like"));
        }
        self.circles.push(circle);
        Ok(())
    }

    /// Empties what may be part of a circle, in whatever way the rendering ended.
    fn let_go(&mut self) {
        for circle in &self.circles {
            match circle {
                Circle::Frame(frame) => drop(frame.variables.take()),
                Circle::Namespace(space) => drop(space.take()),
                Circle::Loop(state) => drop(state.changed.take()),
            }
        }
        self.circles.clear();
    }

    /// Pays for a value that was made.
    pub fn pay(&mut self, value: Value) -> Outcome<Value> {
        match &value {
            Value::Str(_) => self.step(value.weight())?,
            Value::Seq(_, items) => self.step(8 * items.len())?,
            Value::Dict(dict) => self.step(16 * dict.entries.len())?,
            _ => self.step(0)?,
        }
        Ok(value)
    }

    pub fn deeper<T>(&mut self, run: impl FnOnce(&mut Run) -> Outcome<T>) -> Outcome<T> {
        if self.depth == DEEPEST {
            return problem("calls itself too deeply");
        }
        self.depth += 1;
        let done = run(self);
        self.depth -= 1;
        done
    }

    /// What the template itself writes at this place.
    pub fn origin(&self) -> Option<Origin> {
        self.owner.map(|message| Origin::of(message, Part::Template))
    }

    pub fn body(&mut self, nodes: &[Node], frame: &Rc<Frame>, out: &mut Text) -> Outcome<Flow> {
        for node in nodes {
            self.line = node.line;
            self.step(0)?;
            let flow = self.deeper(|run| run.statement(&node.what, frame, out))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn statement(&mut self, what: &Statement, frame: &Rc<Frame>, out: &mut Text) -> Outcome<Flow> {
        match what {
            Statement::Data(text) => {
                self.step(text.len() / 32)?;
                out.push_str(text, self.origin());
            }
            Statement::Output(expr) => {
                let value = self.eval(expr, frame)?;
                self.step(value.weight())?;
                match &value {
                    Value::Str(text) => out.push(text),
                    other => out.push(&format::str(other, self.origin())?),
                }
            }
            Statement::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition, frame)?.truth() {
                        return self.body(body, frame, out);
                    }
                }
                return self.body(otherwise, frame, out);
            }
            Statement::For(looped) => {
                let items = self.eval(&looped.iter, frame)?.items()?;
                self.looped(looped, items, 1, frame, out)?;
            }
            Statement::Set(target, expr) => {
                let value = self.eval(expr, frame)?;
                self.own(&value);
                self.assign(target, value, frame)?;
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            _ => self.block(what, frame, out)?,
        }
        Ok(Flow::On)
    }

    /// The statements with a body of their own.
    fn block(&mut self, what: &Statement, frame: &Rc<Frame>, out: &mut Text) -> Outcome<()> {
        match what {
            Statement::SetBlock(target, filters, body) => {
                let value = self.filtered(filters, body, frame)?;
                self.assign(target, value, frame)?;
            }
            Statement::FilterBlock(filters, body) => {
                let value = self.filtered(filters, body, frame)?;
                out.push(&format::str(&value, self.origin())?);
            }
            Statement::With(values, body) => {
                let inner = Frame::inside(frame);
                for (target, expr) in values {
                    let value = self.eval(expr, frame)?;
                    self.assign(target, value, &inner)?;
                }
                self.body(body, &inner, out)?;
            }
            Statement::Macro(def) => {
                self.may_circle(Circle::Frame(frame.clone()))?;
                let value = Callable::Macro(def.clone(), frame.clone());
                frame.set(&def.name, Value::Call(Rc::new(value)));
            }
            Statement::CallBlock(def, call) => {
                self.may_circle(Circle::Frame(frame.clone()))?;
                let caller = Value::Call(Rc::new(Callable::Macro(def.clone(), frame.clone())));
                let value = self.call_with(call, frame, Some(caller))?;
                out.push(&format::str(&value, self.origin())?);
            }
            Statement::Generation(body) => {
                let mut said = Text::default();
                self.body(body, &Frame::inside(frame), &mut said)?;
                out.push(&said.generated());
            }
            _ => {}
        }
        Ok(())
    }

    fn filtered(&mut self, filters: &[Applied], body: &[Node], frame: &Rc<Frame>) -> Outcome<Value> {
        let inner = Frame::inside(frame);
        let mut text = Text::default();
        self.body(body, &inner, &mut text)?;
        let mut value = self.pay(Value::text(text))?;
        for filter in filters {
            let args = self.arguments(&filter.args, &inner)?;
            value = self.filter(&filter.name, value, args)?;
        }
        Ok(value)
    }

    /// A loop over `items`, at `depth` of a recursive one.
    pub fn looped(
        &mut self,
        looped: &Arc<For>,
        items: Rc<Items>,
        depth: usize,
        frame: &Rc<Frame>,
        out: &mut Text,
    ) -> Outcome<()> {
        let (owner, loops) = (self.owner, self.loops);
        let items = match &looped.condition {
            None => items,
            Some(condition) => {
                let mut kept = Vec::new();
                for item in items.iter() {
                    let inner = Frame::inside(frame);
                    self.assign(&looped.target, item.clone(), &inner)?;
                    if self.eval(condition, &inner)?.truth() {
                        kept.push(item.clone());
                    }
                }
                Rc::new(kept.into())
            }
        };
        if looped.recursive {
            self.may_circle(Circle::Frame(frame.clone()))?;
        }
        let again = looped.recursive.then(|| Rc::new(Callable::Again(looped.clone(), frame.clone(), depth + 1)));
        let state = LoopState { items: items.clone(), index: Cell::new(0), depth, changed: RefCell::new(None), again };
        let state = Rc::new(state);
        for (i, item) in items.iter().enumerate() {
            self.step(0)?;
            state.index.set(i);
            self.loops = loops + 1;
            self.owner = message_of(item).or(owner);
            let inner = Frame::inside(frame);
            inner.set("loop", Value::Loop(state.clone()));
            self.assign(&looped.target, item.clone(), &inner)?;
            if self.body(&looped.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        (self.owner, self.loops) = (owner, loops);
        if items.is_empty() {
            self.body(&looped.otherwise, &Frame::inside(frame), out)?;
        }
        Ok(())
    }

    /// A loop over indices says with `set` which message it is at.
    fn own(&mut self, value: &Value) {
        if self.owner.is_none() && self.loops > 0 {
            self.owner = message_of(value);
        }
    }

    fn assign(&mut self, target: &Target, value: Value, frame: &Rc<Frame>) -> Outcome<()> {
        match target {
            Target::Name(name) => frame.set(name, value),
            Target::Tuple(targets) => {
                let items = value.items()?;
                if items.len() != targets.len() {
                    return problem(format!("{} values for {} names", items.len(), targets.len()));
                }
                for (target, item) in targets.iter().zip(items.iter()) {
                    self.assign(target, item.clone(), frame)?;
                }
            }
            Target::Attribute(name, attribute) => match frame.get(name) {
                Some(Value::Namespace(_)) if attribute.starts_with('_') => {
                    return problem(format!("a namespace takes no attribute with an underscore in front: {attribute}"));
                }
                Some(Value::Namespace(space)) => space.borrow_mut().set(Value::str(attribute.as_str()), value),
                _ => return problem(format!("cannot assign attribute {attribute} on non-namespace object {name}")),
            },
        }
        Ok(())
    }

    /// A macro's text.
    pub fn macro_call(&mut self, def: &Macro, frame: &Rc<Frame>, mut args: Arguments) -> Outcome<Value> {
        let inner = Frame::inside(frame);
        let line = self.line;
        let given = args.positional.len();
        let mut positional = args.positional.drain(..);
        for (name, default) in &def.parameters {
            let named = args.named.iter().position(|(n, _)| n == name).map(|i| args.named.remove(i).1);
            let value = match (positional.next().or(named), default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(default, &inner)?,
                (None, None) => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            inner.set(name, value);
        }
        let more: Vec<Value> = positional.collect();
        if !more.is_empty() && !def.takes_more {
            let takes = def.parameters.len();
            return problem(format!("macro '{}' takes not more than {takes} argument(s), {given} given", def.name));
        }
        let caller = args.named.iter().position(|(n, _)| n == "caller").map(|i| args.named.remove(i).1);
        if let Some((name, _)) = args.named.first()
            && !def.takes_more_named
        {
            return problem(format!("macro '{}' takes no keyword argument '{name}'", def.name));
        }
        inner.set("varargs", Value::tuple(more));
        let mut kwargs = Dict::default();
        args.named.into_iter().for_each(|(name, value)| kwargs.set(Value::str(name), value));
        inner.set("kwargs", Value::dict(kwargs));
        inner.set("caller", caller.unwrap_or_else(|| Value::undefined("No caller defined")));
        let mut out = Text::default();
        self.body(&def.body, &inner, &mut out)?;
        self.line = line;
        Ok(Value::text(out))
    }
}

/// The message that `value` is, or holds as one of a pair.
fn message_of(value: &Value) -> Option<u32> {
    match value {
        Value::Dict(dict) => dict.message,
        Value::Seq(Kind::Tuple, items) => items.iter().find_map(|item| match item {
            Value::Dict(dict) => dict.message,
            _ => None,
        }),
        _ => None,
    }
}
