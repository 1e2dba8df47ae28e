//! Reading templates.

use super::{Expression, Function, Node};

/// How deep blocks and parentheses may nest.
const MAX_DEPTH: usize = 50;

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the template: {text}")]
pub(crate) struct Fault {
    line: usize,
    text: String,
}

/// A part of a template: text, or what is between `{{` and `}}`.
enum Part<'a> {
    Text(&'a str),
    Action(&'a str, usize),
}

pub(super) fn template(text: &str) -> Result<Vec<Node>, Fault> {
    let parts = split(text)?;
    let mut parser = Parser { parts: &parts, next: 0 };
    let (nodes, end) = parser.nodes(0)?;
    match end {
        None => Ok(nodes),
        Some((word, line)) => Err(fault(line, format!("{{{{{word}}}}} without a block before it"))),
    }
}

fn fault(line: usize, text: impl Into<String>) -> Fault {
    Fault { line, text: text.into() }
}

/// Cuts the text at its actions, with blanks trimmed where `{{-` and `-}}` ask for it.
fn split(text: &str) -> Result<Vec<Part<'_>>, Fault> {
    let mut parts = Vec::new();
    let mut rest = text;
    let line_at = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    while let Some(start) = rest.find("{{") {
        let (mut before, action) = (&rest[..start], &rest[start + 2..]);
        let line = line_at(&rest[start..]);
        let end = action_end(action)
            .ok_or_else(|| fault(line, "an action that is not closed; }} is missing"))?;
        let mut inner = &action[..end];
        rest = &action[end + 2..];
        if let Some(trimmed) =
            inner.strip_prefix('-').filter(|it| it.starts_with(char::is_whitespace))
        {
            before = before.trim_end();
            inner = trimmed;
        }
        if let Some(trimmed) =
            inner.strip_suffix('-').filter(|it| it.ends_with(char::is_whitespace))
        {
            rest = rest.trim_start();
            inner = trimmed;
        }
        parts.push(Part::Text(before));
        let inner = inner.trim();
        if !(inner.starts_with("/*") && inner.ends_with("*/")) {
            parts.push(Part::Action(inner, line));
        }
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// Where the action ends: at the first `}}` that is in no text.
fn action_end(action: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, char) in action.char_indices() {
        match (quote, char) {
            _ if is_escaped => is_escaped = false,
            (Some('"'), '\\') => is_escaped = true,
            (Some(open), char) if open == char => quote = None,
            (None, '"' | '`') => quote = Some(char),
            (None, '}') if action[at..].starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

struct Parser<'a> {
    parts: &'a [Part<'a>],
    next: usize,
}

/// The word that ended a list of nodes: `end`, `else`, `else if …`.
type End<'a> = Option<(&'a str, usize)>;

impl<'a> Parser<'a> {
    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, End<'a>), Fault> {
        let mut nodes = Vec::new();
        while let Some(part) = self.parts.get(self.next) {
            self.next += 1;
            let (action, line) = match part {
                Part::Text("") => continue,
                Part::Text(text) => {
                    nodes.push(Node::Text((*text).to_owned()));
                    continue;
                }
                Part::Action(action, line) => (*action, *line),
            };
            if depth > MAX_DEPTH {
                return Err(fault(line, format!("blocks nest deeper than {MAX_DEPTH}")));
            }
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
            match word {
                "end" | "else" => return Ok((nodes, Some((action, line)))),
                "range" => {
                    let over = expression(rest, line)?;
                    let (body, otherwise) = self.block(line, depth)?;
                    nodes.push(Node::Range { over, body, otherwise });
                }
                "if" => nodes.push(self.condition(rest, line, depth)?),
                "with" | "define" | "template" | "block" | "break" | "continue" => {
                    let text =
                        format!("{word} isn't taken here; there are range, if, else and end");
                    return Err(fault(line, text));
                }
                _ => nodes.push(Node::Print(expression(action, line)?)),
            }
        }
        Ok((nodes, None))
    }

    fn condition(&mut self, text: &str, line: usize, depth: usize) -> Result<Node, Fault> {
        let condition = expression(text, line)?;
        let (body, otherwise) = self.block(line, depth)?;
        Ok(Node::If { condition, body, otherwise })
    }

    /// The nodes up to `else` and those up to `end`.
    fn block(&mut self, line: usize, depth: usize) -> Result<(Vec<Node>, Vec<Node>), Fault> {
        let unclosed = || fault(line, "a block without {{end}}");
        let (body, end) = self.nodes(depth + 1)?;
        let (word, at) = end.ok_or_else(unclosed)?;
        if word == "end" {
            return Ok((body, Vec::new()));
        }
        let rest = word.strip_prefix("else").unwrap_or_default().trim();
        if let Some(condition) = rest.strip_prefix("if ") {
            return Ok((body, vec![self.condition(condition, at, depth + 1)?]));
        }
        if !rest.is_empty() {
            return Err(fault(at, format!("{word:?} must be else, or else if CONDITION")));
        }
        let (otherwise, end) = self.nodes(depth + 1)?;
        match end {
            Some(("end", _)) => Ok((body, otherwise)),
            Some((word, at)) => Err(fault(at, format!("{word:?} where {{{{end}}}} is expected"))),
            None => Err(unclosed()),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Field(Vec<String>),
    Word(String),
    Text(String),
    Number(i64),
    Open,
    Close(Vec<String>),
    Pipe,
}

fn expression(text: &str, line: usize) -> Result<Expression, Fault> {
    let tokens = tokens(text, line)?;
    let mut reader = Reader { tokens: &tokens, next: 0, line };
    let expression = reader.pipeline(0)?;
    match reader.tokens.get(reader.next) {
        None => Ok(expression),
        Some(_) => {
            Err(fault(line, format!("{text:?}: an argument to something that is no function")))
        }
    }
}

fn tokens(text: &str, line: usize) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let cut = |rest: &str| rest.find(|char| !is_word(char)).unwrap_or(rest.len());
        match first {
            '|' => {
                tokens.push(Token::Pipe);
                rest = &rest[1..];
            }
            '(' => {
                tokens.push(Token::Open);
                rest = &rest[1..];
            }
            ')' => {
                let (fields, behind) = fields(&rest[1..]);
                tokens.push(Token::Close(fields));
                rest = behind;
            }
            '.' => {
                let (fields, behind) = fields(rest);
                rest = if fields.is_empty() { &rest[1..] } else { behind };
                tokens.push(Token::Field(fields));
            }
            '"' | '`' => {
                let (text, behind) = quoted(rest, first)
                    .ok_or_else(|| fault(line, format!("{rest}: a text that can't be read")))?;
                tokens.push(Token::Text(text));
                rest = behind;
            }
            '-' | '0'..='9' => {
                let end = cut(&rest[1..]) + 1;
                let number = rest[..end]
                    .parse()
                    .map_err(|_| fault(line, format!("{:?} is no whole number", &rest[..end])))?;
                tokens.push(Token::Number(number));
                rest = &rest[end..];
            }
            first if is_word(first) => {
                let end = cut(rest);
                tokens.push(Token::Word(rest[..end].to_owned()));
                rest = &rest[end..];
            }
            '$' => return Err(fault(line, "variables ($) aren't taken here")),
            other => return Err(fault(line, format!("{other:?} isn't taken here"))),
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// The fields that the text starts with, `.A.B`, and the rest.
fn fields(text: &str) -> (Vec<String>, &str) {
    let mut fields = Vec::new();
    let mut rest = text;
    while let Some(inner) = rest.strip_prefix('.') {
        let end = inner.find(|char: char| !(char.is_alphanumeric() || char == '_'));
        let end = end.unwrap_or(inner.len());
        if end == 0 {
            break;
        }
        fields.push(inner[..end].to_owned());
        rest = &inner[end..];
    }
    (fields, rest)
}

fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            char if char == quote => return Some((out, &text[at + 1..])),
            '\\' if quote == '"' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other @ ('"' | '\\') => other,
                _ => return None,
            }),
            char => out.push(char),
        }
    }
    None
}

struct Reader<'a> {
    tokens: &'a [Token],
    next: usize,
    line: usize,
}

impl Reader<'_> {
    /// Commands with `|` between them: each result is the last argument of the next.
    fn pipeline(&mut self, depth: usize) -> Result<Expression, Fault> {
        let mut piped = self.command(depth, None)?;
        while self.tokens.get(self.next) == Some(&Token::Pipe) {
            self.next += 1;
            piped = self.command(depth, Some(piped))?;
        }
        Ok(piped)
    }

    fn command(&mut self, depth: usize, last: Option<Expression>) -> Result<Expression, Fault> {
        if let Some(Token::Word(word)) = self.tokens.get(self.next)
            && word != "true"
            && word != "false"
        {
            let function = function(word, self.line)?;
            self.next += 1;
            let mut arguments = Vec::new();
            while let Some(token) = self.tokens.get(self.next) {
                if matches!(token, Token::Pipe | Token::Close(_)) {
                    break;
                }
                arguments.push(self.operand(depth)?);
            }
            arguments.extend(last);
            let needs = function.arguments();
            if arguments.len() != needs {
                let text = format!("{word} takes {needs} arguments, not {}", arguments.len());
                return Err(fault(self.line, text));
            }
            return Ok(Expression::Call(function, arguments));
        }
        match last {
            None => self.operand(depth),
            Some(_) => Err(fault(self.line, "behind | must be a function, such as len")),
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Expression, Fault> {
        if depth > MAX_DEPTH {
            return Err(fault(self.line, format!("parentheses nest deeper than {MAX_DEPTH}")));
        }
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        match token {
            Some(Token::Field(fields)) => Ok(Expression::Field(fields)),
            Some(Token::Text(text)) => Ok(Expression::Text(text)),
            Some(Token::Number(number)) => Ok(Expression::Number(number)),
            Some(Token::Word(word)) if word == "true" || word == "false" => {
                Ok(Expression::Flag(word == "true"))
            }
            Some(Token::Word(word)) => {
                function(&word, self.line)?;
                Err(fault(self.line, format!("a function as an argument: write ({word} …)")))
            }
            Some(Token::Open) => {
                let inner = self.pipeline(depth + 1)?;
                match self.tokens.get(self.next) {
                    Some(Token::Close(fields)) => {
                        self.next += 1;
                        Ok(if fields.is_empty() {
                            inner
                        } else {
                            Expression::Of(Box::new(inner), fields.clone())
                        })
                    }
                    _ => Err(fault(self.line, "a ) is missing")),
                }
            }
            Some(Token::Close(_) | Token::Pipe) => {
                Err(fault(self.line, "something is missing before ) or |"))
            }
            None => Err(fault(self.line, "an empty action; write for example {{.Name}}")),
        }
    }
}

fn function(name: &str, line: usize) -> Result<Function, Fault> {
    match name {
        "config" => Ok(Function::Config),
        "join" => Ok(Function::Join),
        "joinAndTruncate" => Ok(Function::JoinAndTruncate),
        "len" => Ok(Function::Len),
        _ => {
            let text = format!(
                "{name:?} isn't taken here; the functions are config, join, joinAndTruncate and len, \
                 and a field starts with a dot: .{name}"
            );
            Err(fault(line, text))
        }
    }
}

impl Function {
    fn arguments(self) -> usize {
        match self {
            Self::Config | Self::Len => 1,
            Self::Join => 2,
            Self::JoinAndTruncate => 3,
        }
    }
}
