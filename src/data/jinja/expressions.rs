//! Tokens to expressions, with Jinja's precedence.

use super::ast::{Applied, Args, Comparison, Expr, Operator};
use super::lexer::Token;
use super::parser::Parser;
use super::value::Outcome;

impl Parser {
    pub(super) fn expression(&mut self) -> Outcome<Expr> {
        self.deeper(Self::conditional)
    }

    /// `a, b` is a tuple; with one expression that one.
    pub(super) fn tuple(&mut self, conditional: bool) -> Outcome<Expr> {
        self.tuple_until(conditional, None)
    }

    pub(super) fn tuple_until(&mut self, conditional: bool, end: Option<&str>) -> Outcome<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ends = matches!(self.peek(), None | Some(Token::OutputEnd | Token::BlockEnd | Token::Operator(")")));
            if ends || end.is_some_and(|end| self.is_name(end)) {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.deeper(Self::or)? });
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match (is_tuple, items.pop()) {
            (false, Some(one)) => Ok(one),
            (true, last) => {
                items.extend(last);
                Ok(Expr::Tuple(items))
            }
            (false, None) => self.unexpected("an expression"),
        }
    }

    fn conditional(&mut self) -> Outcome<Expr> {
        let mut value = self.or()?;
        while self.skip_name("if") {
            self.link()?;
            let condition = self.or()?;
            let otherwise = if self.skip_name("else") { self.expression()? } else { Expr::Undefined };
            value = Expr::If(Box::new((condition, value, otherwise)));
        }
        Ok(value)
    }

    fn or(&mut self) -> Outcome<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            self.link()?;
            left = Expr::Or(Box::new((left, self.and()?)));
        }
        Ok(left)
    }

    fn and(&mut self) -> Outcome<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            self.link()?;
            left = Expr::And(Box::new((left, self.not()?)));
        }
        Ok(left)
    }

    fn not(&mut self) -> Outcome<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Outcome<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Operator("==")) => Comparison::Equal,
                Some(Token::Operator("!=")) => Comparison::NotEqual,
                Some(Token::Operator("<")) => Comparison::Less,
                Some(Token::Operator("<=")) => Comparison::LessEqual,
                Some(Token::Operator(">")) => Comparison::Greater,
                Some(Token::Operator(">=")) => Comparison::GreaterEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name)) if name == "not" => match self.peek_behind() {
                    Some(Token::Name(name)) if name == "in" => {
                        self.at += 1;
                        Comparison::NotIn
                    }
                    _ => break,
                },
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Outcome<Expr> {
        let mut left = self.concat()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Operator("+")) => Operator::Add,
                Some(Token::Operator("-")) => Operator::Subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            self.link()?;
            left = Expr::Binary(operator, Box::new((left, self.concat()?)));
        }
    }

    fn concat(&mut self) -> Outcome<Expr> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Outcome<Expr> {
        let mut left = self.power()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Operator("*")) => Operator::Multiply,
                Some(Token::Operator("/")) => Operator::Divide,
                Some(Token::Operator("//")) => Operator::FloorDivide,
                Some(Token::Operator("%")) => Operator::Modulo,
                _ => return Ok(left),
            };
            self.at += 1;
            self.link()?;
            left = Expr::Binary(operator, Box::new((left, self.power()?)));
        }
    }

    fn power(&mut self) -> Outcome<Expr> {
        let mut left = self.unary(true)?;
        while self.skip_operator("**") {
            self.link()?;
            left = Expr::Binary(Operator::Power, Box::new((left, self.unary(true)?)));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Outcome<Expr> {
        let value = if self.skip_operator("-") {
            Expr::Negative(Box::new(self.deeper(|p| p.unary(false))?))
        } else if self.skip_operator("+") {
            Expr::Positive(Box::new(self.deeper(|p| p.unary(false))?))
        } else {
            self.primary()?
        };
        let mut value = self.postfix(value)?;
        if !with_filter {
            return Ok(value);
        }
        loop {
            if self.skip_operator("|") {
                self.link()?;
                value = Expr::Filter(Box::new(value), Box::new(self.applied()?));
            } else if self.skip_name("is") {
                self.link()?;
                value = self.test(value)?;
            } else if self.is_operator("(") {
                self.link()?;
                value = Expr::Call(Box::new(value), Box::new(self.args()?));
            } else {
                break;
            }
        }
        Ok(value)
    }

    fn primary(&mut self) -> Outcome<Expr> {
        let Some(token) = self.peek().cloned() else { return self.unexpected("an expression") };
        match token {
            Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) => self.at += 1,
            _ => {}
        }
        Ok(match token {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => {
                    self.reads.0 |= name == "varargs";
                    self.reads.1 |= name == "kwargs";
                    Expr::Name(name)
                }
            },
            Token::Str(mut text) => {
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Expr::Str(text)
            }
            Token::Int(i) => Expr::Int(i),
            Token::Float(f) => Expr::Float(f),
            Token::Operator("(") => {
                self.at += 1;
                if self.skip_operator(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let inner = self.tuple(true)?;
                self.operator(")")?;
                inner
            }
            Token::Operator("[") => Expr::List(self.list()?),
            Token::Operator("{") => self.dict()?,
            _ => return self.unexpected("an expression"),
        })
    }

    fn list(&mut self) -> Outcome<Vec<Expr>> {
        self.operator("[")?;
        let mut items = Vec::new();
        while !self.is_operator("]") {
            if !items.is_empty() {
                self.operator(",")?;
            }
            if self.is_operator("]") {
                break;
            }
            items.push(self.expression()?);
        }
        self.operator("]")?;
        Ok(items)
    }

    fn dict(&mut self) -> Outcome<Expr> {
        self.operator("{")?;
        let mut entries = Vec::new();
        while !self.is_operator("}") {
            if !entries.is_empty() {
                self.operator(",")?;
            }
            if self.is_operator("}") {
                break;
            }
            let key = self.expression()?;
            self.operator(":")?;
            entries.push((key, self.expression()?));
        }
        self.operator("}")?;
        Ok(Expr::Dict(entries))
    }

    /// Attributes, items and calls.
    fn postfix(&mut self, mut value: Expr) -> Outcome<Expr> {
        loop {
            if matches!(self.peek(), Some(Token::Operator("." | "[" | "("))) {
                self.link()?;
            }
            if self.skip_operator(".") {
                value = match self.peek().cloned() {
                    Some(Token::Name(name)) => Expr::Attribute(Box::new(value), name),
                    Some(Token::Int(i)) => Expr::Item(Box::new(value), Box::new(Expr::Int(i))),
                    _ => return self.unexpected("a name or a number"),
                };
                self.at += 1;
            } else if self.is_operator("[") {
                value = self.subscript(value)?;
            } else if self.is_operator("(") {
                value = Expr::Call(Box::new(value), Box::new(self.args()?));
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, value: Expr) -> Outcome<Expr> {
        self.operator("[")?;
        let first = if self.is_operator(":") { None } else { Some(self.expression()?) };
        if !self.is_operator(":") {
            let mut items: Vec<Expr> = first.into_iter().collect();
            while self.skip_operator(",") {
                items.push(self.expression()?);
            }
            self.operator("]")?;
            let item = if items.len() == 1 { items.remove(0) } else { Expr::Tuple(items) };
            return Ok(Expr::Item(Box::new(value), Box::new(item)));
        }
        let mut bounds = [first, None, None];
        for bound in &mut bounds[1..] {
            if self.skip_operator(":") && !self.is_operator(":") && !self.is_operator("]") {
                *bound = Some(self.expression()?);
            }
        }
        self.operator("]")?;
        Ok(Expr::Slice(Box::new(value), Box::new(bounds)))
    }

    pub(super) fn args(&mut self) -> Outcome<Args> {
        self.operator("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.is_operator(")") {
            if !std::mem::take(&mut first) {
                self.operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            if self.skip_operator("*") {
                args.more = Some(self.expression()?);
            } else if self.skip_operator("**") {
                args.more_named = Some(self.expression()?);
            } else if matches!(self.peek_behind(), Some(Token::Operator("="))) {
                let name = self.name()?;
                self.operator("=")?;
                args.named.push((name, self.expression()?));
            } else if args.named.is_empty() && args.more.is_none() && args.more_named.is_none() {
                args.positional.push(self.expression()?);
            } else {
                return self.fail("an argument without a name follows one with a name");
            }
        }
        self.operator(")")?;
        Ok(args)
    }

    /// What follows `is`.
    fn test(&mut self, value: Expr) -> Outcome<Expr> {
        let negated = self.skip_name("not");
        let name = self.name()?;
        let args = match self.peek() {
            Some(Token::Operator("(")) => self.args()?,
            Some(Token::Name(next)) if ["else", "or", "and"].contains(&next.as_str()) => Args::default(),
            Some(Token::Name(next)) if next == "is" => return self.fail("tests can't be chained with is"),
            Some(Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{")) => {
                let one = self.primary()?;
                Args { positional: vec![self.postfix(one)?], ..Args::default() }
            }
            _ => Args::default(),
        };
        let test = Expr::Test(Box::new(value), Box::new(Applied { name, args }));
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }
}
