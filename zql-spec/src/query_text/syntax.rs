//! The part of JavaScript's syntax that queries are written in: chains of calls, literals, arrow functions.

use std::sync::Arc;

use super::{QueryTextError, Result};
use crate::json::{Json, MAX_DEPTH};

/// Deepest nesting of calls and functions. Deeper queries are refused by the engine; the stack stays small.
const MAX_NESTING: usize = 100;

/// An argument.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// A text, number, boolean, null, list or object.
    Literal(Json),
    /// `name`, `name(…)`, `name.call(…)…`
    Chain(Chain),
    /// `parameters => body`
    Arrow(Arrow),
}

/// A name and what is called on it.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The name it begins with.
    pub(super) root: Call,
    /// What follows the dots.
    pub(super) then: Vec<Call>,
}

/// A name, called or not.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The name.
    pub(super) name: Arc<str>,
    /// Arguments; none when it is not called.
    pub(super) args: Option<Vec<(Expression, usize)>>,
    /// Where the name stands.
    pub(super) position: usize,
}

/// A function.
#[derive(Clone, Debug)]
pub(super) struct Arrow {
    /// Its parameter.
    pub(super) parameter: Parameter,
    /// What it returns.
    pub(super) body: Box<Chain>,
}

/// The parameter of a function.
#[derive(Clone, Debug)]
pub(super) enum Parameter {
    /// `q => …`
    Name(Arc<str>),
    /// `({cmp, or}) => …`
    Members(Vec<Arc<str>>),
}

/// Parses a whole text as one chain.
pub(super) fn parse(text: &str) -> Result<Chain> {
    let mut parser = Parser { text, at: 0 };
    let chain = parser.chain("a table", 0)?;
    parser.space();
    parser.eat(';');
    parser.space();
    if parser.rest().is_empty() { Ok(chain) } else { Err(parser.error("expected '.'")) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, what: impl Into<String>) -> QueryTextError {
        QueryTextError { what: what.into(), position: self.at }
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    fn expect(&mut self, expected: char) -> Result<()> {
        self.space();
        if self.eat(expected) { Ok(()) } else { Err(self.error(format!("expected '{expected}'"))) }
    }

    /// An identifier.
    fn name(&mut self, what: &str) -> Result<Arc<str>> {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
        let name = &rest[..end];
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.error(format!("expected {what}")));
        }
        self.at += end;
        Ok(Arc::from(name))
    }

    fn chain(&mut self, what: &str, depth: usize) -> Result<Chain> {
        if depth > MAX_NESTING {
            return Err(self.error("nested too deeply"));
        }
        let root = self.call(what, depth)?;
        let mut then = Vec::new();
        loop {
            self.space();
            if !self.eat('.') {
                return Ok(Chain { root, then });
            }
            then.push(self.call("a call", depth)?);
        }
    }

    fn call(&mut self, what: &str, depth: usize) -> Result<Call> {
        self.space();
        let position = self.at;
        let name = self.name(what)?;
        self.space();
        let args = if self.eat('(') { Some(self.list(')', |parser| parser.argument(depth + 1))?) } else { None };
        Ok(Call { name, args, position })
    }

    fn argument(&mut self, depth: usize) -> Result<(Expression, usize)> {
        self.space();
        let position = self.at;
        let expression = match self.peek() {
            Some('(') => {
                self.at += 1;
                self.space();
                let parameter = match self.peek() {
                    Some('{') => {
                        self.at += 1;
                        Parameter::Members(self.list('}', |parser| parser.name("a name"))?)
                    }
                    _ => Parameter::Name(self.name("a parameter")?),
                };
                self.expect(')')?;
                self.arrow(parameter, depth)?
            }
            Some(c) if c.is_alphabetic() || c == '_' || c == '$' => {
                let name = self.name("a value")?;
                self.space();
                if self.rest().starts_with("=>") {
                    self.arrow(Parameter::Name(name), depth)?
                } else {
                    self.at = position;
                    match &*name {
                        "true" | "false" | "null" | "undefined" => Expression::Literal(self.literal(0)?),
                        _ => Expression::Chain(self.chain("a value", depth)?),
                    }
                }
            }
            _ => Expression::Literal(self.literal(0)?),
        };
        Ok((expression, position))
    }

    fn arrow(&mut self, parameter: Parameter, depth: usize) -> Result<Expression> {
        self.space();
        if !self.rest().starts_with("=>") {
            return Err(self.error("expected '=>'"));
        }
        self.at += 2;
        let body = Box::new(self.chain("what the function returns", depth)?);
        Ok(Expression::Arrow(Arrow { parameter, body }))
    }

    /// Elements up to a closing character; a comma may follow the last one.
    fn list<T>(&mut self, end: char, element: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut elements = Vec::new();
        loop {
            self.space();
            if self.eat(end) {
                return Ok(elements);
            }
            elements.push(element(self)?);
            self.space();
            if !self.eat(',') {
                self.expect(end)?;
                return Ok(elements);
            }
        }
    }

    fn literal(&mut self, depth: usize) -> Result<Json> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.space();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => self.string(quote).map(Json::string),
            Some('[') => {
                self.at += 1;
                self.list(']', |parser| parser.literal(depth + 1)).map(Json::Array)
            }
            Some('{') => {
                self.at += 1;
                let entry = |parser: &mut Self| {
                    parser.space();
                    let key = match parser.peek() {
                        Some(quote @ ('\'' | '"')) => Arc::from(parser.string(quote)?),
                        _ => parser.name("a column")?,
                    };
                    parser.expect(':')?;
                    Ok((key, parser.literal(depth + 1)?))
                };
                self.list('}', entry).map(Json::Object)
            }
            Some(c) if c == '-' || c == '.' || c.is_ascii_digit() => self.number(),
            _ => {
                let start = self.at;
                match &*self.name("a value")? {
                    "true" => Ok(Json::Bool(true)),
                    "false" => Ok(Json::Bool(false)),
                    "null" | "undefined" => Ok(Json::Null),
                    _ => Err(QueryTextError { what: "expected a value".into(), position: start }),
                }
            }
        }
    }

    fn number(&mut self) -> Result<Json> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|&(i, c)| {
                let sign = matches!(c, '+' | '-') && (i == 0 || rest[..i].ends_with(['e', 'E']));
                !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E') || sign)
            })
            .map_or(rest.len(), |(i, _)| i);
        let number: f64 = rest[..end].parse().map_err(|_| self.error("expected a number"))?;
        self.at += end;
        Ok(Json::Number(number))
    }

    fn string(&mut self, quote: char) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.peek() else { return Err(self.error("the text does not end")) };
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(out),
                '\\' => {
                    let Some(escaped) = self.peek() else { return Err(self.error("the text does not end")) };
                    self.at += escaped.len_utf8();
                    out.push(match escaped {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'u' => self.unicode()?,
                        other => other,
                    });
                }
                c => out.push(c),
            }
        }
    }

    /// What follows `\u`: four digits, or eight with another `\u` between for characters beyond 16 bits.
    fn unicode(&mut self) -> Result<char> {
        let first = self.hex()?;
        if (0xD800..0xDC00).contains(&first) && self.rest().starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xDC00..0xE000).contains(&second) {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32> {
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }
}
