//! Queries as people type them: `issue.where('open', true).orderBy('modified', 'desc').limit(10)`.
//!
//! The fluent text of the client library, without what needs a schema of relationships (`related`,
//! `whereExists`) and without functions as arguments; those are given as JSON. Names are server-side names.
//! Conditions are combined as the library combines them. Parsing is linear and never panics.

use std::fmt;
use std::sync::Arc;

use crate::ast::{Ast, Bound, Condition, Direction, Literal, SimpleOperator, ValuePosition};
use crate::json::{Json, MAX_DEPTH};
use crate::value::Value;

/// A query that was typed.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedQuery {
    /// The query.
    pub ast: Ast,
    /// Whether it ends in `.one()`: the result is one object instead of a list.
    pub singular: bool,
}

/// Why a text is no query, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryTextError {
    /// What is wrong.
    pub what: String,
    /// Byte offset.
    pub position: usize,
}

impl fmt::Display for QueryTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}", self.what, self.position)
    }
}

impl std::error::Error for QueryTextError {}

type Result<T> = std::result::Result<T, QueryTextError>;

/// Parses the text of a query.
pub fn parse(text: &str) -> Result<TypedQuery> {
    let mut parser = Parser { text, at: 0 };
    let table = parser.table()?;
    let mut query = TypedQuery { ast: Ast { table, ..Ast::default() }, singular: false };
    loop {
        parser.space();
        let _ = parser.eat(';');
        parser.space();
        if parser.rest().is_empty() {
            return Ok(query);
        }
        parser.expect('.')?;
        let start = parser.at;
        let call = parser.name("a call")?;
        let args = parser.arguments()?;
        apply(&mut query, &call, args).map_err(|what| QueryTextError { what, position: start })?;
    }
}

fn apply(query: &mut TypedQuery, call: &str, args: Vec<Json>) -> std::result::Result<(), String> {
    let ast = &mut query.ast;
    match (call, args.as_slice()) {
        ("where", [column, value]) => add(ast, simple(column, SimpleOperator::Eq, value)?),
        ("where", [column, op, value]) => {
            let name = op.as_str().ok_or("the operator is a text")?;
            let op = SimpleOperator::from_name(name).ok_or_else(|| format!("there is no operator {name}"))?;
            add(ast, simple(column, op, value)?);
        }
        ("orderBy", [column, direction]) => {
            let direction = match direction.as_str() {
                Some("asc") => Direction::Asc,
                Some("desc") => Direction::Desc,
                _ => return Err("the direction is 'asc' or 'desc'".into()),
            };
            ast.order_by.push((column_name(column)?, direction));
        }
        ("limit", [limit]) => match limit.as_f64() {
            Some(limit) if limit < 0.0 => return Err("Limit must be non-negative".into()),
            Some(limit) if limit.fract() == 0.0 && limit <= f64::from(i32::MAX) => ast.limit = Some(limit),
            _ => return Err("Limit must be an integer".into()),
        },
        ("one", []) => {
            ast.limit = Some(1.0);
            query.singular = true;
        }
        ("start", [row]) => ast.start = Some(bound(row, None)?),
        ("start", [row, options]) => ast.start = Some(bound(row, Some(options))?),
        ("where" | "orderBy" | "limit" | "one" | "start", args) => {
            return Err(format!("{call} does not take {} arguments", args.len()));
        }
        ("related" | "whereExists", _) => {
            return Err(format!("{call} needs the client's relationships: give the query as JSON"));
        }
        _ => return Err(format!("there is no {call}: expected where, orderBy, start, limit or one")),
    }
    Ok(())
}

/// Adds a condition as the builder does: the first stands alone, further ones make one flat `and`.
fn add(ast: &mut Ast, condition: Condition) {
    ast.r#where = Some(match ast.r#where.take() {
        None => condition,
        Some(Condition::And(mut conditions)) => {
            conditions.push(condition);
            Condition::And(conditions)
        }
        Some(first) => Condition::And(vec![first, condition]),
    });
}

fn column_name(json: &Json) -> std::result::Result<Arc<str>, String> {
    json.as_str().map(Arc::from).ok_or_else(|| "the column is a text".into())
}

fn simple(column: &Json, op: SimpleOperator, value: &Json) -> std::result::Result<Condition, String> {
    let is_list = matches!(op, SimpleOperator::In | SimpleOperator::NotIn);
    let literal = match value {
        Json::Object(_) => return Err("a value is a text, a number, true, false, null or a list".into()),
        Json::Array(elements) if is_list => {
            if elements.iter().any(|element| matches!(element, Json::Null | Json::Array(_) | Json::Object(_))) {
                return Err("a list holds texts, numbers and booleans".into());
            }
            Literal::List(elements.iter().map(Value::from_json).collect())
        }
        _ if is_list => return Err(format!("{} takes a list", op.name())),
        Json::Array(_) => return Err(format!("{} takes no list", op.name())),
        value => Literal::Value(Value::from_json(value)),
    };
    let left = ValuePosition::Column(column_name(column)?);
    Ok(Condition::Simple { op, left, right: ValuePosition::Literal(literal) })
}

fn bound(row: &Json, options: Option<&Json>) -> std::result::Result<Bound, String> {
    let entries = row.as_object().ok_or("start takes a row: {column: value}")?;
    let row = entries.iter().map(|(column, json)| (Arc::clone(column), Value::from_json(json))).collect();
    let inclusive = options.and_then(|options| options.get("inclusive")).and_then(Json::as_bool).unwrap_or(false);
    Ok(Bound { row, exclusive: !inclusive })
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

    /// A table's name: `issue`, or `schema.table` outside Postgres's `public`.
    fn table(&mut self) -> Result<Arc<str>> {
        let mut table = self.name("a table")?;
        loop {
            let back = self.at;
            let part = if self.eat('.') { self.name("a call") } else { break };
            match part {
                Ok(part) if !self.rest().trim_start().starts_with('(') => table = format!("{table}.{part}").into(),
                _ => {
                    self.at = back;
                    break;
                }
            }
        }
        Ok(table)
    }

    fn arguments(&mut self) -> Result<Vec<Json>> {
        self.expect('(')?;
        self.list(')', |parser| parser.literal(0))
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
            Some(c) if c == '-' || c == '.' || c.is_ascii_digit() => {
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
                        'u' => {
                            let code = self.rest().get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                            let code = code.ok_or_else(|| self.error("expected four hexadecimal digits"))?;
                            self.at += 4;
                            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                        }
                        other => other,
                    });
                }
                c => out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_queries() {
        let simple = |column: &str, op: &str, value: &str| {
            format!(
                r#"{{"type":"simple","left":{{"type":"column","name":"{column}"}},"right":{{"type":"literal","value":{value}}},"op":"{op}"}}"#
            )
        };
        let cases = [
            ("issue", r#"{"table":"issue"}"#.to_owned()),
            (" issue ; ", r#"{"table":"issue"}"#.to_owned()),
            ("app.issue.limit(2)", r#"{"table":"app.issue","limit":2}"#.to_owned()),
            (
                "issue.where('open', true)\n  .orderBy('modified', \"desc\").limit(10).one();",
                format!(
                    r#"{{"table":"issue","where":{},"limit":1,"orderBy":[["modified","desc"]]}}"#,
                    simple("open", "=", "true")
                ),
            ),
            (
                r"t.where('a', '>=', -1.5e3).where('b', 'IN', ['x', 2, true,]).where('c', 'IS NOT', null)",
                format!(
                    r#"{{"table":"t","where":{{"type":"and","conditions":[{},{},{}]}}}}"#,
                    simple("a", ">=", "-1500"),
                    simple("b", "IN", r#"["x",2,true]"#),
                    simple("c", "IS NOT", "null")
                ),
            ),
            (
                r"t.where('a', 'it\'s \u00e9\n')",
                format!(r#"{{"table":"t","where":{}}}"#, simple("a", "=", r#""it's é\n""#)),
            ),
            (
                "t.orderBy('n','asc').start({n: 1, 'id': \"x\"}, {inclusive: true}).limit(5)",
                r#"{"table":"t","start":{"row":{"n":1,"id":"x"},"exclusive":false},"limit":5,"orderBy":[["n","asc"]]}"#
                    .to_owned(),
            ),
        ];
        for (text, expected) in cases {
            let query = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(query.ast.to_json().to_string(), expected, "{text}");
            assert_eq!(query.singular, text.contains("one()"));
        }
    }

    #[test]
    fn mistakes_are_placed() {
        let cases = [
            ("", "expected a table at position 0"),
            ("t.where(", "expected a value at position 8"),
            ("t.where('a')", "where does not take 1 arguments at position 2"),
            ("t.where('a', '~', 1)", "there is no operator ~ at position 2"),
            ("t.where('a', 'IN', 1)", "IN takes a list at position 2"),
            ("t.limit(-1)", "Limit must be non-negative at position 2"),
            ("t.limit(1.5)", "Limit must be an integer at position 2"),
            ("t.related('x')", "related needs the client's relationships: give the query as JSON at position 2"),
            ("t.nope()", "there is no nope: expected where, orderBy, start, limit or one at position 2"),
            ("t.where('a', 'b", "the text does not end at position 15"),
            ("t x", "expected '.' at position 2"),
            ("t.where('a', é)", "expected a value at position 13"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn no_prefix_panics() {
        let text = "t.where('a\\u00e9', 'IN', [1, -2.5e3, {x: \"é\"}]).start({n: 1}, {inclusive: true}).one()";
        for (end, _) in text.char_indices() {
            let _ = parse(&text[..end]);
        }
        assert!(parse(&format!("t.where('a', {})", "[".repeat(100_000))).is_err());
    }
}
