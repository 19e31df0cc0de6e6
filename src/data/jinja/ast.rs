//! What a template's text says, as a tree.

use std::sync::Arc;

pub enum Expr {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Box<Args>),
    Filter(Box<Expr>, Box<Applied>),
    Test(Box<Expr>, Box<Applied>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Not(Box<Expr>),
    And(Box<(Expr, Expr)>),
    Or(Box<(Expr, Expr)>),
    Binary(Operator, Box<(Expr, Expr)>),
    Concat(Vec<Expr>),
    /// `a < b <= c`: each neighbour with its neighbour.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Condition, then, else.
    If(Box<(Expr, Expr, Expr)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Default)]
pub struct Args {
    pub positional: Vec<Expr>,
    pub named: Vec<(String, Expr)>,
    /// `*list` and `**dict`.
    pub more: Option<Expr>,
    pub more_named: Option<Expr>,
}

/// A filter or a test with its arguments.
pub struct Applied {
    pub name: String,
    pub args: Args,
}

pub struct Node {
    pub line: usize,
    pub what: Statement,
}

pub enum Statement {
    Data(String),
    Output(Expr),
    If(Vec<(Expr, Vec<Node>)>, Vec<Node>),
    For(Arc<For>),
    Set(Target, Expr),
    SetBlock(Target, Vec<Applied>, Vec<Node>),
    With(Vec<(Target, Expr)>, Vec<Node>),
    Macro(Arc<Macro>),
    /// The block as a macro named `caller`, and the call.
    CallBlock(Arc<Macro>, Expr),
    FilterBlock(Vec<Applied>, Vec<Node>),
    Generation(Vec<Node>),
    Break,
    Continue,
}

pub struct For {
    pub target: Target,
    pub iter: Expr,
    pub condition: Option<Expr>,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
    pub recursive: bool,
}

pub struct Macro {
    pub name: String,
    /// With their defaults.
    pub parameters: Vec<(String, Option<Expr>)>,
    pub body: Vec<Node>,
    /// It reads `varargs`, and `kwargs`.
    pub takes_more: bool,
    pub takes_more_named: bool,
}

pub enum Target {
    Name(String),
    Tuple(Vec<Target>),
    /// A namespace and its attribute.
    Attribute(String, String),
}
