//! Tokens to statements.

use super::ast::{Applied, Args, Expr, For, Macro, Node, Statement, Target};
use super::lexer::{Token, tokens};
use super::limits::MOST_LINKS;
use super::value::{Outcome, Problem};
use std::sync::Arc;

/// Tags and brackets in each other, at most: each takes stack, here and when it is rendered.
const DEEPEST: usize = 100;

/// A whole template.
pub fn parse(source: &str) -> Outcome<Vec<Node>> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0, links: 0, loops: 0, reads: (false, false) };
    parser.body(&[])
}

pub(super) struct Parser {
    tokens: Vec<(usize, Token)>,
    pub(super) at: usize,
    depth: usize,
    /// Operators, attributes, calls and filters of the current tag. Each wraps what stands before it, so that they make the
    /// tree deep without any bracket.
    links: usize,
    /// Loops around the current tag.
    loops: usize,
    /// Whether the current macro reads `varargs`, and `kwargs`.
    pub(super) reads: (bool, bool),
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, t)| t)
    }

    pub(super) fn peek_behind(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(_, t)| t)
    }

    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(line, _)| *line)
    }

    pub(super) fn fail<T>(&self, reason: impl Into<String>) -> Outcome<T> {
        Err(Problem { line: Some(self.line()), reason: reason.into() })
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Outcome<T> {
        let found = match self.peek() {
            None => "the end of the template".to_owned(),
            Some(Token::Name(name)) => format!("'{name}'"),
            Some(Token::Operator(operator)) => format!("'{operator}'"),
            Some(Token::BlockEnd | Token::OutputEnd) => "the end of the tag".to_owned(),
            Some(_) => "something else".to_owned(),
        };
        self.fail(format!("expected {wanted}, found {found}"))
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(o)) if *o == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(n)) if n == name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn operator(&mut self, operator: &str) -> Outcome<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.unexpected(&format!("'{operator}'")) }
    }

    pub(super) fn name(&mut self) -> Outcome<String> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        if self.depth == DEEPEST {
            return self.fail(format!("tags or brackets are nested more than {DEEPEST} deep"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Counts one more of them.
    pub(super) fn link(&mut self) -> Outcome<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return self.fail(format!("a tag has over {MOST_LINKS} operators, calls and filters"));
        }
        Ok(())
    }

    fn block_end(&mut self) -> Outcome<()> {
        if self.peek() == Some(&Token::BlockEnd) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected("the end of the tag")
    }

    /// Statements up to a tag named in `ends`, whose name is the next token; with no `ends`, to the template's end.
    fn body(&mut self, ends: &[&str]) -> Outcome<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            self.links = 0;
            let what = match self.peek().cloned() {
                None if ends.is_empty() => return Ok(nodes),
                None => return self.unexpected(&ends.join(" or ")),
                Some(Token::Data(text)) => {
                    self.at += 1;
                    Statement::Data(text)
                }
                Some(Token::OutputBegin) => {
                    self.at += 1;
                    let value = self.tuple(true)?;
                    if self.peek() != Some(&Token::OutputEnd) {
                        return self.unexpected("'}}'");
                    }
                    self.at += 1;
                    Statement::Output(value)
                }
                _ => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(nodes);
                    }
                    self.deeper(Self::statement)?
                }
            };
            nodes.push(Node { line, what });
        }
    }

    /// The statements inside of a tag that the current one opens, and the name of the tag that ends them.
    fn inside(&mut self, ends: &[&str]) -> Outcome<(Vec<Node>, String)> {
        self.skip_operator(":");
        self.block_end()?;
        let nodes = self.body(ends)?;
        Ok((nodes, self.name()?))
    }

    fn statement(&mut self) -> Outcome<Statement> {
        let name = self.name()?;
        let statement = match name.as_str() {
            "if" => self.condition()?,
            "for" => self.looped()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                Statement::Macro(self.macro_body(name, parameters, "endmacro")?)
            }
            "call" => {
                let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
                let call = self.expression()?;
                if !matches!(call, Expr::Call(..)) {
                    return self.unexpected("a call");
                }
                Statement::CallBlock(self.macro_body("caller".into(), parameters, "endcall")?, call)
            }
            "filter" => {
                let mut filters = vec![self.applied()?];
                filters.extend(self.filters()?);
                Statement::FilterBlock(filters, self.inside(&["endfilter"])?.0)
            }
            "generation" => Statement::Generation(self.inside(&["endgeneration"])?.0),
            "print" => Statement::Output(self.tuple(true)?),
            "break" | "continue" if self.loops == 0 => {
                return self.fail(format!("'{name}' stands outside of a loop"));
            }
            "break" => Statement::Break,
            "continue" => Statement::Continue,
            other => return self.fail(format!("unknown tag '{other}'")),
        };
        self.block_end()?;
        Ok(statement)
    }

    fn condition(&mut self) -> Outcome<Statement> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false)?;
            let (body, end) = self.inside(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end.as_str() {
                "elif" => {}
                "else" => return Ok(Statement::If(branches, self.inside(&["endif"])?.0)),
                _ => return Ok(Statement::If(branches, Vec::new())),
            }
        }
    }

    fn looped(&mut self) -> Outcome<Statement> {
        let target = self.targets(Some("in"), false)?;
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let iter = self.tuple_until(false, Some("recursive"))?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.inside(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if end == "else" { self.inside(&["endfor"])?.0 } else { Vec::new() };
        Ok(Statement::For(Arc::new(For { target, iter, condition, body, otherwise, recursive })))
    }

    fn set(&mut self) -> Outcome<Statement> {
        let target = self.targets(None, true)?;
        if self.skip_operator("=") {
            return Ok(Statement::Set(target, self.tuple(true)?));
        }
        let filters = self.filters()?;
        Ok(Statement::SetBlock(target, filters, self.inside(&["endset"])?.0))
    }

    fn with(&mut self) -> Outcome<Statement> {
        let mut values = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !values.is_empty() {
                self.operator(",")?;
            }
            let target = self.target(false)?;
            self.operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Statement::With(values, self.inside(&["endwith"])?.0))
    }

    /// `(a, b=1)`.
    fn parameters(&mut self) -> Outcome<Vec<(String, Option<Expr>)>> {
        self.operator("(")?;
        let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.operator(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, d)| d.is_some()) {
                return self.fail("a parameter without a default follows one with a default");
            }
            parameters.push((name, default));
        }
        self.operator(")")?;
        Ok(parameters)
    }

    fn macro_body(&mut self, name: String, parameters: Vec<(String, Option<Expr>)>, end: &str) -> Outcome<Arc<Macro>> {
        let loops = std::mem::take(&mut self.loops);
        let reads = std::mem::take(&mut self.reads);
        let (body, _) = self.inside(&[end])?;
        self.loops = loops;
        let (takes_more, takes_more_named) = std::mem::replace(&mut self.reads, reads);
        Ok(Arc::new(Macro { name, parameters, body, takes_more, takes_more_named }))
    }

    fn filters(&mut self) -> Outcome<Vec<Applied>> {
        let mut filters = Vec::new();
        while self.skip_operator("|") {
            filters.push(self.applied()?);
        }
        Ok(filters)
    }

    /// A filter's name and arguments.
    pub(super) fn applied(&mut self) -> Outcome<Applied> {
        let name = self.name()?;
        let args = if self.is_operator("(") { self.args()? } else { Args::default() };
        Ok(Applied { name, args })
    }

    /// What is assigned to; `a, b` is a tuple. Ends at the name `end`.
    fn targets(&mut self, end: Option<&str>, attributes: bool) -> Outcome<Target> {
        let mut targets = vec![self.target(attributes)?];
        let mut is_tuple = false;
        while self.skip_operator(",") {
            is_tuple = true;
            if end.is_some_and(|end| self.is_name(end)) || self.is_operator("=") {
                break;
            }
            targets.push(self.target(attributes)?);
        }
        Ok(if is_tuple { Target::Tuple(targets) } else { targets.remove(0) })
    }

    fn target(&mut self, attributes: bool) -> Outcome<Target> {
        if self.skip_operator("(") {
            let inner = self.deeper(|p| p.targets(None, attributes))?;
            self.operator(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if attributes && self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        if ["true", "false", "none", "True", "False", "None"].contains(&name.as_str()) {
            return self.fail(format!("nothing can be assigned to {name}"));
        }
        Ok(Target::Name(name))
    }
}
