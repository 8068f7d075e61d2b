//! JSON → AST.
//!
//! Clients are read strictly: a key the language does not have is an error, wherever it stands, so that a
//! query from the future is refused instead of answered wrongly. API servers are read leniently: unknown
//! keys are skipped. Both demand the same shapes. Error texts follow those of the protocol.

use std::fmt;
use std::sync::Arc;

use crate::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Correlation, Direction, Literal, SimpleOperator, StaticAnchor, System,
    ValuePosition,
};
use crate::json::Json;
use crate::value::Value;

/// Why JSON is not an AST, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    what: String,
    found: Option<String>,
    /// Outermost last: segments are added on the way out.
    path: Vec<String>,
}

impl ParseError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        ParseError { what: what.into(), found: None, path: Vec::new() }
    }

    pub(crate) fn expected(what: &str, found: &Json) -> Self {
        /// Enough to recognise the value; the rest may be as long as a message.
        const SHOWN: usize = 100;
        let mut text = found.to_string();
        if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
            text.truncate(cut);
            text.push('…');
        }
        ParseError { what: format!("Expected {what}"), found: Some(text), path: Vec::new() }
    }

    /// The same error, seen from a document that holds the AST under this key or position.
    #[must_use]
    pub fn under(mut self, segment: impl fmt::Display) -> Self {
        self.path.push(segment.to_string());
        self
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (i, segment) in self.path.iter().rev().enumerate() {
            f.write_str(if i == 0 { " at " } else { "." })?;
            f.write_str(segment)?;
        }
        match &self.found {
            Some(found) if self.path.is_empty() => write!(f, ". Got {found}"),
            Some(found) => write!(f, " Got {found}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ParseError {}

type Result<T> = std::result::Result<T, ParseError>;

impl Ast {
    /// Reads an AST as clients send it: unknown keys are errors.
    pub fn parse_strict(json: &Json) -> Result<Ast> {
        Parser { strict: true }.ast(json)
    }

    /// Reads an AST as API servers reply with it: unknown keys are skipped.
    pub fn parse_lenient(json: &Json) -> Result<Ast> {
        Parser { strict: false }.ast(json)
    }
}

impl Condition {
    /// Reads a filter on its own, as permissions hold it: unknown keys are errors.
    pub fn parse_strict(json: &Json) -> Result<Condition> {
        Parser { strict: true }.condition(json)
    }
}

pub(crate) struct Parser {
    pub(crate) strict: bool,
}

/// An object whose keys are taken one by one.
pub(crate) struct Fields<'a> {
    entries: &'a [(Arc<str>, Json)],
}

impl<'a> Fields<'a> {
    pub(crate) fn optional<T>(&self, key: &str, read: impl FnOnce(&'a Json) -> Result<T>) -> Result<Option<T>> {
        match self.entries.iter().find(|(other, _)| &**other == key) {
            Some((_, value)) => read(value).map(Some).map_err(|error| error.under(key)),
            None => Ok(None),
        }
    }

    pub(crate) fn required<T>(&self, key: &str, read: impl FnOnce(&'a Json) -> Result<T>) -> Result<T> {
        self.optional(key, read)?.ok_or_else(|| ParseError::new(format!("Missing property {key}")))
    }
}

impl Parser {
    pub(crate) fn object<'a>(&self, json: &'a Json, keys: &[&str]) -> Result<Fields<'a>> {
        let entries = json.as_object().ok_or_else(|| ParseError::expected("object", json))?;
        if self.strict {
            let unknown: Vec<&str> = entries.iter().map(|(key, _)| &**key).filter(|key| !keys.contains(key)).collect();
            match unknown.as_slice() {
                [] => {}
                [key] => return Err(ParseError::new(format!("Unexpected property {key}"))),
                keys => return Err(ParseError::new(format!("Unexpected properties {}", keys.join(", ")))),
            }
        }
        Ok(Fields { entries })
    }

    fn ast(&self, json: &Json) -> Result<Ast> {
        const KEYS: [&str; 8] = ["schema", "table", "alias", "where", "related", "start", "limit", "orderBy"];
        let fields = self.object(json, &KEYS)?;
        Ok(Ast {
            schema: fields.optional("schema", string)?,
            table: fields.required("table", string)?,
            alias: fields.optional("alias", string)?,
            r#where: fields.optional("where", |json| self.condition(json))?,
            related: fields.optional("related", |json| list(json, |json| self.subquery(json)))?.unwrap_or_default(),
            start: fields.optional("start", |json| self.bound(json))?,
            limit: fields.optional("limit", number)?,
            order_by: fields.optional("orderBy", |json| list(json, order_part))?.unwrap_or_default(),
        })
    }

    fn bound(&self, json: &Json) -> Result<Bound> {
        let fields = self.object(json, &["row", "exclusive"])?;
        let row = fields.required("row", |json| {
            let entries = json.as_object().ok_or_else(|| ParseError::expected("object", json))?;
            Ok(entries.iter().map(|(column, json)| (Arc::clone(column), Value::from_json(json))).collect())
        })?;
        Ok(Bound { row, exclusive: fields.required("exclusive", boolean)? })
    }

    fn subquery(&self, json: &Json) -> Result<CorrelatedSubquery> {
        let fields = self.object(json, &["correlation", "subquery", "hidden", "system"])?;
        Ok(CorrelatedSubquery {
            correlation: fields.required("correlation", |json| {
                let fields = self.object(json, &["parentField", "childField"])?;
                Ok(Correlation {
                    parent_field: fields.required("parentField", non_empty_names)?,
                    child_field: fields.required("childField", non_empty_names)?,
                })
            })?,
            subquery: Box::new(fields.required("subquery", |json| self.ast(json))?),
            hidden: fields.optional("hidden", boolean)?.unwrap_or(false),
            system: fields.optional("system", system)?.unwrap_or_default(),
        })
    }

    fn condition(&self, json: &Json) -> Result<Condition> {
        // The tag decides which keys are known, so it is read before them.
        let tag = Parser { strict: false }.object(json, &[])?.required("type", string)?;
        match &*tag {
            "simple" => {
                let fields = self.object(json, &["type", "op", "left", "right"])?;
                Ok(Condition::Simple {
                    op: fields.required("op", operator)?,
                    left: fields.required("left", |json| self.position(json, true))?,
                    right: fields.required("right", |json| self.position(json, false))?,
                })
            }
            "and" | "or" => {
                let fields = self.object(json, &["type", "conditions"])?;
                let conditions = fields.required("conditions", |json| list(json, |json| self.condition(json)))?;
                Ok(if &*tag == "and" { Condition::And(conditions) } else { Condition::Or(conditions) })
            }
            "correlatedSubquery" => {
                let fields = self.object(json, &["type", "related", "op", "flip", "scalar"])?;
                Ok(Condition::Exists {
                    related: fields.required("related", |json| self.subquery(json))?,
                    negated: fields.required("op", |json| match json.as_str() {
                        Some("EXISTS") => Ok(false),
                        Some("NOT EXISTS") => Ok(true),
                        _ => Err(ParseError::expected("literal value \"EXISTS\" or \"NOT EXISTS\"", json)),
                    })?,
                    flip: fields.optional("flip", boolean)?,
                    scalar: fields.optional("scalar", boolean)?,
                })
            }
            _ => Err(ParseError::new(format!("Invalid union value: {json}"))),
        }
    }

    fn position(&self, json: &Json, left: bool) -> Result<ValuePosition> {
        let tag = Parser { strict: false }.object(json, &[])?.required("type", string)?;
        match &*tag {
            "literal" => {
                let fields = self.object(json, &["type", "value"])?;
                Ok(ValuePosition::Literal(fields.required("value", literal)?))
            }
            "column" if left => {
                let fields = self.object(json, &["type", "name"])?;
                Ok(ValuePosition::Column(fields.required("name", string)?))
            }
            "static" => {
                let fields = self.object(json, &["type", "anchor", "field"])?;
                let anchor = fields.required("anchor", |json| match json.as_str() {
                    Some("authData") => Ok(StaticAnchor::AuthData),
                    Some("preMutationRow") => Ok(StaticAnchor::PreMutationRow),
                    _ => Err(ParseError::expected("literal value \"authData\" or \"preMutationRow\"", json)),
                })?;
                let (field, path) = fields.required("field", |json| match json {
                    Json::String(name) => Ok((vec![Arc::clone(name)], false)),
                    Json::Array(_) => Ok((list(json, string)?, true)),
                    _ => Err(ParseError::expected("string or array", json)),
                })?;
                Ok(ValuePosition::Static { anchor, field, path })
            }
            _ => Err(ParseError::new(format!("Invalid union value: {json}"))),
        }
    }
}

pub(crate) fn string(json: &Json) -> Result<Arc<str>> {
    match json {
        Json::String(text) => Ok(Arc::clone(text)),
        _ => Err(ParseError::expected("string", json)),
    }
}

fn number(json: &Json) -> Result<f64> {
    json.as_f64().ok_or_else(|| ParseError::expected("number", json))
}

fn boolean(json: &Json) -> Result<bool> {
    json.as_bool().ok_or_else(|| ParseError::expected("boolean", json))
}

pub(crate) fn list<'a, T>(json: &'a Json, read: impl Fn(&'a Json) -> Result<T>) -> Result<Vec<T>> {
    let elements = json.as_array().ok_or_else(|| ParseError::expected("array", json))?;
    elements.iter().enumerate().map(|(i, element)| read(element).map_err(|error| error.under(i))).collect()
}

fn non_empty_names(json: &Json) -> Result<Vec<Arc<str>>> {
    let names = list(json, string)?;
    if names.is_empty() { Err(ParseError::expected("array with at least 1 element", json)) } else { Ok(names) }
}

fn order_part(json: &Json) -> Result<(Arc<str>, Direction)> {
    let [column, direction] = json.as_array().unwrap_or_default() else {
        return Err(ParseError::expected("array of a column and a direction", json));
    };
    let direction = match direction.as_str() {
        Some("asc") => Direction::Asc,
        Some("desc") => Direction::Desc,
        _ => return Err(ParseError::expected("literal value \"asc\" or \"desc\"", direction).under(1)),
    };
    Ok((string(column).map_err(|error| error.under(0))?, direction))
}

fn system(json: &Json) -> Result<System> {
    match json.as_str() {
        Some("permissions") => Ok(System::Permissions),
        Some("client") => Ok(System::Client),
        Some("test") => Ok(System::Test),
        _ => Err(ParseError::expected("literal value \"permissions\", \"client\" or \"test\"", json)),
    }
}

fn operator(json: &Json) -> Result<SimpleOperator> {
    json.as_str()
        .and_then(SimpleOperator::from_name)
        .ok_or_else(|| ParseError::expected("an operator of the language", json))
}

fn literal(json: &Json) -> Result<Literal> {
    let scalar = |json: &Json| match json {
        Json::Bool(_) | Json::Number(_) | Json::String(_) => Ok(Value::from_json(json)),
        _ => Err(ParseError::expected("string, number or boolean", json)),
    };
    match json {
        Json::Null => Ok(Literal::Value(Value::Null)),
        Json::Array(_) => Ok(Literal::List(list(json, scalar)?)),
        Json::Object(_) => Err(ParseError::expected("string, number, boolean, null or array", json)),
        _ => scalar(json).map(Literal::Value),
    }
}
