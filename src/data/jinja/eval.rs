//! Expressions to values.

use super::ast::{Args, Comparison, Expr};
use super::call::Arguments;
use super::limits::DEEPEST_VALUE;
use super::run::{Frame, Run};
use super::text::Text;
use super::value::{Dict, Kind, Outcome, Value, problem};
use super::{attributes, format, operators};
use std::cmp::Ordering;
use std::rc::Rc;

impl Run {
    pub fn eval(&mut self, expr: &Expr, frame: &Rc<Frame>) -> Outcome<Value> {
        self.deeper(|run| {
            run.step(0)?;
            let value = run.simple(expr, frame)?;
            match value.depth() {
                depth if depth > DEEPEST_VALUE => problem(format!("nests values more than {DEEPEST_VALUE} deep")),
                _ => Ok(value),
            }
        })
    }

    fn simple(&mut self, expr: &Expr, frame: &Rc<Frame>) -> Outcome<Value> {
        Ok(match expr {
            Expr::Undefined => Value::undefined("the inline if-expression evaluated to false and no else was given"),
            Expr::None => Value::None,
            Expr::Bool(b) => Value::Bool(*b),
            Expr::Int(i) => Value::Int(*i),
            Expr::Float(f) => Value::Float(*f),
            Expr::Str(text) => Value::text(Text::new(text.as_str(), self.origin())),
            Expr::Name(name) => self.name(name, frame),
            Expr::Attribute(of, name) => attributes::attribute(&self.eval(of, frame)?, name)?,
            Expr::Item(of, key) => {
                let of = self.eval(of, frame)?;
                if let Value::Str(_) = of {
                    self.step(of.weight())?;
                }
                attributes::item(&of, &self.eval(key, frame)?)?
            }
            Expr::Call(..) => self.call_with(expr, frame, None)?,
            Expr::Not(inner) => Value::Bool(!self.eval(inner, frame)?.truth()),
            Expr::And(both) => {
                let left = self.eval(&both.0, frame)?;
                if left.truth() { self.eval(&both.1, frame)? } else { left }
            }
            Expr::Or(both) => {
                let left = self.eval(&both.0, frame)?;
                if left.truth() { left } else { self.eval(&both.1, frame)? }
            }
            Expr::If(parts) => {
                let (condition, then, otherwise) = &**parts;
                let branch = if self.eval(condition, frame)?.truth() { then } else { otherwise };
                self.eval(branch, frame)?
            }
            _ => self.compound(expr, frame)?,
        })
    }

    fn compound(&mut self, expr: &Expr, frame: &Rc<Frame>) -> Outcome<Value> {
        let value = match expr {
            Expr::List(items) => Value::list(self.all(items, frame)?),
            Expr::Tuple(items) => Value::tuple(self.all(items, frame)?),
            Expr::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    let key = self.eval(key, frame)?;
                    dict.set(key, self.eval(value, frame)?);
                }
                Value::dict(dict)
            }
            Expr::Slice(of, bounds) => self.slice(of, bounds, frame)?,
            Expr::Filter(value, filter) => {
                let value = self.eval(value, frame)?;
                let args = self.arguments(&filter.args, frame)?;
                self.filter(&filter.name, value, args)?
            }
            Expr::Test(value, test) => {
                let value = self.eval(value, frame)?;
                let args = self.arguments(&test.args, frame)?;
                Value::Bool(self.test(&test.name, &value, args)?)
            }
            Expr::Negative(inner) => operators::negative(&self.eval(inner, frame)?)?,
            Expr::Positive(inner) => operators::positive(&self.eval(inner, frame)?)?,
            Expr::Binary(operator, both) => {
                let left = self.eval(&both.0, frame)?;
                let right = self.eval(&both.1, frame)?;
                self.step(left.weight() + right.weight())?;
                operators::binary(*operator, &left, &right, self.origin())?
            }
            Expr::Concat(parts) => {
                let mut out = Text::default();
                for part in parts {
                    let value = self.eval(part, frame)?;
                    out.push(&format::str(&value, self.origin())?);
                }
                Value::text(out)
            }
            Expr::Compare(first, rest) => Value::Bool(self.compare(first, rest, frame)?),
            _ => return problem("internal: an expression of no kind"),
        };
        self.pay(value)
    }

    pub fn all(&mut self, items: &[Expr], frame: &Rc<Frame>) -> Outcome<Vec<Value>> {
        items.iter().map(|item| self.eval(item, frame)).collect()
    }

    fn compare(&mut self, first: &Expr, rest: &[(Comparison, Expr)], frame: &Rc<Frame>) -> Outcome<bool> {
        let mut left = self.eval(first, frame)?;
        for (comparison, right) in rest {
            let right = self.eval(right, frame)?;
            if let Value::Str(_) = right {
                self.step(right.weight())?;
            }
            let order = |wanted: fn(Ordering) -> bool| Ok(left.compare(&right)?.is_some_and(wanted));
            let holds = match comparison {
                Comparison::Equal => left.equals(&right),
                Comparison::NotEqual => !left.equals(&right),
                Comparison::Less => order(Ordering::is_lt)?,
                Comparison::LessEqual => order(Ordering::is_le)?,
                Comparison::Greater => order(Ordering::is_gt)?,
                Comparison::GreaterEqual => order(Ordering::is_ge)?,
                Comparison::In => operators::contains(&right, &left)?,
                Comparison::NotIn => !operators::contains(&right, &left)?,
            };
            if !holds {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    fn slice(&mut self, of: &Expr, bounds: &[Option<Expr>; 3], frame: &Rc<Frame>) -> Outcome<Value> {
        let of = self.eval(of, frame)?;
        self.step(of.weight())?;
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            if let Some(bound) = bound {
                *number = match self.eval(bound, frame)? {
                    Value::None => None,
                    value => match value.as_int() {
                        Some(n) => Some(n),
                        None => return problem("slice indices must be integers or None"),
                    },
                };
            }
        }
        attributes::slice(&of, numbers)
    }

    fn name(&self, name: &str, frame: &Rc<Frame>) -> Value {
        frame.get(name).unwrap_or_else(|| {
            super::call::global(name).unwrap_or_else(|| Value::undefined(format!("'{name}' is undefined")))
        })
    }

    pub fn arguments(&mut self, args: &Args, frame: &Rc<Frame>) -> Outcome<Arguments> {
        let mut positional = self.all(&args.positional, frame)?;
        let mut named = Vec::with_capacity(args.named.len());
        for (name, value) in &args.named {
            named.push((name.clone(), self.eval(value, frame)?));
        }
        if let Some(more) = &args.more {
            let more = self.eval(more, frame)?;
            more.must_be_defined()?;
            positional.extend(more.items()?.iter().cloned());
        }
        if let Some(more) = &args.more_named {
            match self.eval(more, frame)? {
                Value::Dict(dict) => {
                    for (key, value) in &dict.entries {
                        match key.as_text() {
                            Some(key) => named.push((key.as_str().to_owned(), value.clone())),
                            None => return problem("keywords must be strings"),
                        }
                    }
                }
                other => return problem(format!("argument after ** must be a mapping, not {}", other.type_name())),
            }
        }
        Ok(Arguments { positional, named })
    }

    /// A call, with the block that stands under it in `{% call %}`.
    pub fn call_with(&mut self, call: &Expr, frame: &Rc<Frame>, caller: Option<Value>) -> Outcome<Value> {
        let Expr::Call(of, args) = call else { return problem("expected a call") };
        let of = self.eval(of, frame)?;
        let mut args = self.arguments(args, frame)?;
        args.named.extend(caller.map(|c| ("caller".to_owned(), c)));
        let value = self.call(&of, args)?;
        self.pay(value)
    }
}

/// Whether a sequence takes an index.
pub fn is_indexed(kind: Kind) -> bool {
    matches!(kind, Kind::List | Kind::Tuple | Kind::Range)
}
