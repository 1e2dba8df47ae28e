//! The part of Go's templates that `-o go-template=` is used for: fields, `range`, `if`, and the
//! functions `join`, `joinAndTruncate`, `config` and `len`. Anything else is refused by name.

mod parse;
mod run;

pub(crate) use parse::Fault;
pub(crate) use run::{Failure, Results};

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Expression),
    Range { over: Expression, body: Vec<Node>, otherwise: Vec<Node> },
    If { condition: Expression, body: Vec<Node>, otherwise: Vec<Node> },
}

#[derive(Debug, Clone, PartialEq)]
enum Expression {
    /// `.`, or `.Spec.Nets` of it.
    Field(Vec<String>),
    /// Fields of the result of another expression.
    Of(Box<Expression>, Vec<String>),
    Text(String),
    Number(i64),
    Flag(bool),
    Call(Function, Vec<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Config,
    Join,
    JoinAndTruncate,
    Len,
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        parse::template(text).map(Self)
    }

    /// Writes what it makes of the results.
    pub(crate) fn run(&self, results: &Results<'_>, out: &mut String) -> Result<(), Failure> {
        run::run(&self.0, results, out)
    }
}

#[cfg(test)]
mod tests;
